package notify_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/mail"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/emersion/go-smtp"
	"github.com/stretchr/testify/require"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/pulsegate/pulsegate/health"
	"github.com/pulsegate/pulsegate/notify"
)

// after lets d of the bubble's time pass and everything settle.
func after(d time.Duration) {
	if d > 0 {
		<-time.After(d)
	}
	synctest.Wait()
}

// header parses a received mail's header.
func header(tb testing.TB, r received) mail.Header {
	tb.Helper()
	msg, err := mail.ReadMessage(bytes.NewReader(r.data))
	require.NoError(tb, err)
	return msg.Header
}

func TestMailLeavesWithinASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, m := newOutbox(), openMailbox(t, nil)
		start(t, withMail(o, m))
		after(time.Minute)
		id := o.add(t, delivery.EntryTransition, acme(), down())
		after(time.Second)
		require.Equal(t, delivery.EntryDone, o.entry(id).State)
		require.Len(t, m.all(), 1)
		require.Equal(t, []string{"oncall@example.org"}, m.all()[0].to)
		require.Equal(t, "pulsegate@example.net", m.all()[0].from)
	})
}

func TestRefusedRecipientEndsTheNoticeAndNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, m := newOutbox(), openMailbox(t, nil)
		m.rcpt = func(to string) error {
			if to == "oncall@example.org" {
				return &smtp.SMTPError{Code: 550, Message: "no such user"}
			}
			return nil
		}
		other := acme()
		other.AppID, other.ContactEmail = "other-bot", "other@example.org"
		start(t, withMail(o, m))
		id := o.add(t, delivery.EntryTransition, acme(), down())
		good := o.add(t, delivery.EntryTransition, other, down())
		after(time.Hour)
		require.Equal(t, delivery.EntryRefused, o.entry(id).State)
		require.Contains(t, o.entry(id).LastError, "no such user")
		require.NotContains(t, o.entry(id).LastError, "oncall@")
		require.Equal(t, 1, o.entry(id).Tries)
		require.Equal(t, delivery.EntryDone, o.entry(good).State)
		require.Len(t, m.all(), 1)
	})
}

func TestBusyServerIsTriedAgainUntilItTakesTheMailOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, m := newOutbox(), openMailbox(t, nil)
		began := time.Now()
		m.data = func() error {
			if time.Since(began) < 10*time.Minute {
				return &smtp.SMTPError{Code: 421, Message: "try later"}
			}
			return nil
		}
		start(t, withMail(o, m))
		id := o.add(t, delivery.EntryTransition, acme(), down())
		after(time.Hour)
		require.Equal(t, delivery.EntryDone, o.entry(id).State)
		require.Len(t, m.all(), 1)
		require.Greater(t, o.entry(id).Tries, 5)
		require.Less(t, o.entry(id).Tries, 15)
	})
}

func TestServerThatIsAwayForADayGivesTheNoticeUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, m := newOutbox(), openMailbox(t, nil)
		m.setCut(true)
		start(t, withMail(o, m))
		id := o.add(t, delivery.EntryTransition, acme(), down())
		after(23*time.Hour + 30*time.Minute)
		require.Equal(t, delivery.EntryPending, o.entry(id).State)
		after(31 * time.Minute)
		require.Equal(t, delivery.EntryGivenUp, o.entry(id).State)
		require.Contains(t, o.entry(id).LastError, "connection refused")
		require.InDelta(t, 110, m.dialled(), 20)
	})
}

func TestTarpitEndsWithinAMinuteAndBlocksNoPlatformCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, tar := newOutbox(), newWire()
		served := make(chan struct{})
		go func() { // one character of an endless greeting every 10 s
			defer close(served)
			for {
				conn, err := tar.Accept()
				if err != nil {
					return
				}
				go func() {
					for {
						if _, err := conn.Write([]byte("2")); err != nil {
							return
						}
						<-time.After(10 * time.Second)
					}
				}()
			}
		}()
		t.Cleanup(func() { _ = tar.Close(); <-served; after(time.Minute) })
		platform, _ := openPlatform(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusAccepted) })
		start(t, notify.Config{
			Outbox: o, SMTPURL: "smtp://mail.example.org", MailFrom: "p@example.net", Dial: tar.dial, Platform: platform, Workers: 2,
		})
		var mails, calls []string
		for range 400 {
			mails = append(mails, o.add(t, delivery.EntryTransition, acme(), down()))
		}
		for range 400 {
			calls = append(calls, o.add(t, delivery.EntryHandoff, acme(), delivery.Handoff{AuthorID: "a"}))
		}
		after(3 * time.Second)
		for _, id := range calls {
			require.Equal(t, delivery.EntryDone, o.entry(id).State)
		}
		after(58 * time.Second)
		require.Equal(t, 1, o.entry(mails[0]).Tries)
		require.Contains(t, o.entry(mails[0]).LastError, "no end within 1m0s")
	})
}

func TestCrashBetweenTheServersYesAndTheMarkRepeatsTheSameMessageID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, m := newOutbox(), openMailbox(t, nil)
		o.lost = func(delivery.Entry) bool { return true } // as if the process died right there
		_, stop := start(t, withMail(o, m))
		id := o.add(t, delivery.EntryTransition, acme(), down())
		after(time.Second)
		require.Len(t, m.all(), 1)
		stop()
		o.lost = nil
		start(t, withMail(o, m))
		start(t, withMail(o, m))
		after(85 * time.Second)
		require.Len(t, m.all(), 1, "not before the lease ends")
		after(10 * time.Second)
		require.Len(t, m.all(), 2)
		require.Equal(t, delivery.EntryDone, o.entry(id).State)
		require.Equal(t, header(t, m.all()[0]).Get("Message-Id"), header(t, m.all()[1]).Get("Message-Id"))
		after(time.Hour)
		require.Len(t, m.all(), 2)
	})
}

func TestThreeReplicasSendEachMailOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, m := newOutbox(), openMailbox(t, nil)
		for range 3 {
			start(t, withMail(o, m))
		}
		for range 300 {
			o.add(t, delivery.EntryTransition, acme(), down())
		}
		after(time.Minute)
		require.Len(t, m.all(), 300)
	})
}

func TestPasswordGoesOutOverTLSOnly(t *testing.T) {
	for _, scheme := range []string{"smtp", "smtps"} {
		t.Run(scheme, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cert, pool := certificate(t)
				config := &tls.Config{Certificates: []tls.Certificate{cert}}
				o := newOutbox()
				m := openMailbox(t, func(s *smtp.Server) { s.TLSConfig = config })
				if scheme == "smtps" {
					m = openMailboxOver(t, func(w *wire) net.Listener { return tls.NewListener(w, config) }, nil)
				}
				cfg := withMail(o, m)
				cfg.SMTPURL = delivery.Secret(scheme + "://gate:pa%3Ass%20w%2Frd@mail.example.org:2525")
				cfg.RootCAs = pool
				start(t, cfg)
				id := o.add(t, delivery.EntryTransition, acme(), down())
				after(time.Minute)
				require.Equal(t, delivery.EntryDone, o.entry(id).State, o.entry(id).LastError)
				require.Equal(t, []string{"gate"}, m.users)
				require.NotContains(t, m.written(), "AUTH")
			})
		})
	}
}

// stripper is a listener whose connections lose what a server says of TLS, or are refused it.
type stripper struct {
	net.Listener
	change func([]byte) []byte
}

func (s stripper) Accept() (net.Conn, error) {
	conn, err := s.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return stripped{conn, s.change}, nil
}

type stripped struct {
	net.Conn
	change func([]byte) []byte
}

func (s stripped) Write(b []byte) (int, error) {
	if _, err := s.Conn.Write(s.change(b)); err != nil {
		return 0, err
	}
	return len(b), nil
}

// TestM03NothingIsSentInClearWhenSTARTTLSIsStripped puts somebody between gateway and mail server who takes TLS away.
func TestM03NothingIsSentInClearWhenSTARTTLSIsStripped(t *testing.T) {
	ways := map[string]func([]byte) []byte{
		"the server has none": func(b []byte) []byte { return b },
		"it is not offered": func(b []byte) []byte {
			return bytes.ReplaceAll(b, []byte("STARTTLS"), []byte("XXXXXXXX"))
		},
		"it is refused": func(b []byte) []byte {
			return bytes.ReplaceAll(b, []byte("220 2.0.0 Ready to start TLS"), []byte("454 4.7.0 not now"))
		},
	}
	for name, change := range ways {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cert, pool := certificate(t)
				o := newOutbox()
				m := openMailboxOver(t, func(w *wire) net.Listener { return stripper{w, change} }, func(s *smtp.Server) {
					s.AllowInsecureAuth = true
					if name != "the server has none" {
						s.TLSConfig = &tls.Config{Certificates: []tls.Certificate{cert}}
					}
				})
				cfg := withMail(o, m)
				cfg.SMTPURL, cfg.RootCAs = "smtp://gate:pa%3Ass%20w%2Frd@mail.example.org", pool
				start(t, cfg)
				id := o.add(t, delivery.EntryTransition, acme(), down())
				after(time.Minute)
				require.Equal(t, delivery.EntryPending, o.entry(id).State, "tried on: it is the operator's to mend")
				require.NotEmpty(t, o.entry(id).LastError)
				require.Empty(t, m.all())
				require.Zero(t, m.left(), "every connection is hung up")
				require.Contains(t, m.written(), "EHLO ")
				for line := range strings.Lines(m.written()) {
					require.True(t, strings.HasPrefix(line, "EHLO ") || strings.HasPrefix(line, "QUIT") || strings.HasPrefix(line, "STARTTLS"), line)
				}
			})
		})
	}
	t.Attr("measured", fmt.Sprintf("%d ways to take TLS away with auth set: nothing in clear but EHLO, STARTTLS, QUIT; the notice waits", len(ways)))
}

func TestWrongPasswordWaitsForTheOperator(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cert, pool := certificate(t)
		o, m := newOutbox(), openMailbox(t, func(s *smtp.Server) { s.TLSConfig = &tls.Config{Certificates: []tls.Certificate{cert}} })
		cfg := withMail(o, m)
		cfg.SMTPURL, cfg.RootCAs = "smtp://gate:c4nary@mail.example.org", pool
		var log bytes.Buffer
		cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
		_, stop := start(t, cfg)
		id := o.add(t, delivery.EntryTransition, acme(), down())
		after(time.Minute)
		stop()
		require.Equal(t, delivery.EntryPending, o.entry(id).State)
		require.NotContains(t, o.entry(id).LastError+log.String(), "c4nary")
		require.Empty(t, m.all())
	})
}

func TestServerThatAsksForAPasswordRefusesNoMail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, m := newOutbox(), openMailbox(t, nil)
		m.sender = func() error { return &smtp.SMTPError{Code: 530, Message: "authentication required"} }
		start(t, withMail(o, m))
		id := o.add(t, delivery.EntryTransition, acme(), down())
		after(time.Minute)
		require.Equal(t, delivery.EntryPending, o.entry(id).State)
		require.Contains(t, o.entry(id).LastError, "authentication required")
	})
}

func TestUntrustedMailServerGetsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cert, _ := certificate(t)
		o, m := newOutbox(), openMailbox(t, func(s *smtp.Server) { s.TLSConfig = &tls.Config{Certificates: []tls.Certificate{cert}} })
		start(t, withMail(o, m))
		id := o.add(t, delivery.EntryTransition, acme(), down())
		after(time.Minute)
		require.Equal(t, delivery.EntryPending, o.entry(id).State)
		require.Contains(t, o.entry(id).LastError, "certificate")
		require.Empty(t, m.all())
	})
}

func TestWhatNobodyIsToldOfIsKept(t *testing.T) {
	quiet := down()
	quiet.Notice = false
	silent := acme()
	silent.ContactEmail = ""
	gone := acme()
	gone.Name = "" // the fake does not keep it
	for name, c := range map[string]struct {
		reg  delivery.Registration
		tr   health.Transition
		smtp bool
		why  string
	}{
		"no notice due":        {acme(), quiet, true, ""},
		"no contact":           {silent, down(), true, "the registration has no contact"},
		"registration gone":    {gone, down(), true, "the registration is gone"},
		"no mail server":       {acme(), down(), false, "no mail server is set"},
		"neither mail, notice": {acme(), quiet, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o, m := newOutbox(), openMailbox(t, nil)
				cfg := withMail(o, m)
				if !c.smtp {
					cfg.SMTPURL = ""
				}
				var log bytes.Buffer
				cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
				_, stop := start(t, cfg)
				id := o.add(t, delivery.EntryTransition, c.reg, c.tr)
				after(time.Minute)
				stop()
				require.Equal(t, delivery.EntryKept, o.entry(id).State)
				require.Equal(t, c.why, o.entry(id).LastError)
				require.Empty(t, m.all())
				told := !c.smtp && c.tr.Notice
				require.Equal(t, told, strings.Count(log.String(), "msg=notice") == 1, log.String())
			})
		})
	}
}

func TestSettingsThatCannotBeKeptAreNamed(t *testing.T) {
	o := newOutbox()
	for want, cfg := range map[string]notify.Config{
		"outbox":             {},
		"smtp: must be":      {Outbox: o, SMTPURL: "http://u:c4nary@h", MailFrom: "a@b"},
		"smtp: user and":     {Outbox: o, SMTPURL: "smtp://c4nary@h", MailFrom: "a@b"},
		"smtp: port":         {Outbox: o, SMTPURL: "smtp://u:c4nary@h:70000", MailFrom: "a@b"},
		"smtp: must be smtp": {Outbox: o, SMTPURL: "smtp://u:c4nary%zz@h", MailFrom: "a@b"},
		"mail from: must":    {Outbox: o, SMTPURL: "smtp://h"},
		"parse mail from":    {Outbox: o, SMTPURL: "smtp://h", MailFrom: "nobody"},
		"public URL":         {Outbox: o, PublicURL: "gate.example.org"},
		"tag ids":            {Outbox: o, TagIDs: map[string]int64{"automatc": 1}},
		"takeover":           {Outbox: o, SMTPTimeout: 2 * time.Minute},
	} {
		_, err := notify.New(cfg)
		require.ErrorContains(t, err, want)
		require.NotContains(t, err.Error(), "c4nary")
	}
}

func TestAMailServerCanBeNamedByAnIPv6Address(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dialled := make(chan string, 1)
		o := newOutbox()
		start(t, notify.Config{Outbox: o, SMTPURL: "smtp://[::1]:2525", MailFrom: "p@example.net", Dial: func(_ context.Context, _, addr string) (net.Conn, error) {
			select {
			case dialled <- addr:
			default:
			}
			return nil, errors.New("nobody there")
		}})
		o.add(t, delivery.EntryTransition, acme(), down())
		require.Equal(t, "[::1]:2525", <-dialled)
	})
}
