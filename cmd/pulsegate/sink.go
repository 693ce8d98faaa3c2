package main

import (
	"context"
	"errors"
	"io"
	"mime"
	"net"
	"net/mail"
	"strings"
	"time"

	"github.com/emersion/go-smtp"
)

// sink is a mail server on loopback that keeps nothing: it hands the subject of each mail to a function.
type sink struct {
	server   *smtp.Server
	listener net.Listener
	served   chan error
}

// openSink starts a sink; arrived is called from several goroutines.
func openSink(arrived func(to, subject string)) (*sink, error) {
	listener, err := listenLoopback()
	if err != nil {
		return nil, err
	}
	server := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) {
		return &sinkSession{arrived: arrived}, nil
	}))
	server.Domain = "localhost"
	server.ReadTimeout, server.WriteTimeout = 10*time.Second, 10*time.Second
	server.MaxMessageBytes, server.MaxRecipients = 1<<20, 10
	s := &sink{server: server, listener: listener, served: make(chan error, 1)}
	go func() { s.served <- server.Serve(listener) }()
	return s, nil
}

// url is where mails are sent to.
func (s *sink) url() string { return "smtp://" + s.listener.Addr().String() }

// close ends the sink; conversations under way are finished within the context.
func (s *sink) close(ctx context.Context) error {
	err := s.server.Shutdown(ctx)
	if served := <-s.served; err == nil && !errors.Is(served, smtp.ErrServerClosed) {
		err = served
	}
	return err
}

// sinkSession is one conversation.
type sinkSession struct {
	arrived func(to, subject string)
	to      []string
}

// Mail takes any sender.
func (s *sinkSession) Mail(string, *smtp.MailOptions) error { return nil }

// Rcpt takes any recipient.
func (s *sinkSession) Rcpt(to string, _ *smtp.RcptOptions) error {
	s.to = append(s.to, to)
	return nil
}

// Data reads a mail and hands its subject on.
func (s *sinkSession) Data(r io.Reader) error {
	message, err := mail.ReadMessage(r)
	if err != nil {
		return err
	}
	subject, err := new(mime.WordDecoder).DecodeHeader(message.Header.Get("Subject"))
	if err != nil {
		subject = message.Header.Get("Subject")
	}
	if _, err := io.Copy(io.Discard, message.Body); err != nil {
		return err
	}
	s.arrived(strings.Join(s.to, ", "), subject)
	return nil
}

// Reset forgets the recipients.
func (s *sinkSession) Reset() { s.to = nil }

// Logout does nothing.
func (s *sinkSession) Logout() error { return nil }
