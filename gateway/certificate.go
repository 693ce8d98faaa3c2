package gateway

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"
)

// certificateEvery is how often the files of a certificate are looked at, at most: when somebody connects.
const certificateEvery = time.Second

// Certificate is the certificate of a listener. It is read again when its files have changed, so that it can be renewed without a restart:
// connections that are open keep theirs, new ones get the new one. Safe for concurrent use.
type Certificate struct {
	certFile, keyFile string
	log               *slog.Logger

	mu     sync.Mutex
	now    *tls.Certificate
	stamp  string // of the files that it was read from
	failed string // and of those that could not be read, which is told once
	looked time.Time
}

// NewCertificate reads a certificate and its key from PEM files; the error says what is wrong with them.
func NewCertificate(certFile, keyFile string, log *slog.Logger) (*Certificate, error) {
	c := &Certificate{certFile: certFile, keyFile: keyFile, log: log}
	if err := c.load(); err != nil {
		return nil, err
	}
	return c, nil
}

// Config is the configuration of a listener that has this certificate: TLS 1.2 or newer, HTTP/2 or 1.1.
func (c *Certificate) Config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.current(), nil },
	}
}

// current is the certificate, which is the old one as long as the new one cannot be read.
func (c *Certificate) current() *tls.Certificate {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.looked) < certificateEvery {
		return c.now
	}
	c.looked = time.Now()
	stamp := c.stampNow()
	if stamp == c.stamp {
		return c.now
	}
	switch err := c.load(); {
	case err == nil:
		c.log.Info("the certificate was read again", "file", c.certFile)
	case stamp != c.failed:
		c.failed = stamp
		c.log.Error("the certificate has changed and cannot be read, the old one is kept", "file", c.certFile, "error", err)
	}
	return c.now
}

// load reads the files.
func (c *Certificate) load() error {
	stamp := c.stampNow() // before reading: what changes meanwhile is read again
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return fmt.Errorf("read certificate: %w", err)
	}
	c.now, c.stamp = &pair, stamp
	return nil
}

// stampNow tells one state of the files from another.
func (c *Certificate) stampNow() string {
	var text strings.Builder
	for _, path := range []string{c.certFile, c.keyFile} {
		info, err := os.Stat(path)
		if err != nil {
			text.WriteString("none ")
			continue
		}
		text.WriteString(fmt.Sprint(info.ModTime().UnixNano(), " ", info.Size(), " "))
	}
	return text.String()
}
