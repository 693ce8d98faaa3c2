package notify_test

import (
	"bufio"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulsegate/pulsegate/delivery"
)

// dropping is a mail server that hangs up at the end of a mail: after its yes, or instead of it. It returns the message ids it got.
func dropping(tb testing.TB, w *wire, yes bool) func() []string {
	tb.Helper()
	ids, served := make(chan string, 1000), make(chan struct{})
	go func() {
		defer close(served)
		for {
			conn, err := w.Accept()
			if err != nil {
				return
			}
			say := func(s string) { _, _ = conn.Write([]byte(s + "\r\n")) }
			say("220 mail.example.org")
			lines := bufio.NewScanner(conn)
			for inData := false; lines.Scan(); {
				switch line := lines.Text(); {
				case inData && strings.HasPrefix(strings.ToLower(line), "message-id:"):
					ids <- line
				case inData && line == "." && yes:
					say("250 taken")
					_ = conn.Close()
				case inData && line == ".":
					_ = conn.Close()
				case inData:
				case line == "DATA":
					inData = true
					say("354 go on")
				default:
					say("250 fine")
				}
			}
		}
	}()
	tb.Cleanup(func() { _ = w.Close(); <-served })
	return func() []string {
		var out []string
		for len(ids) > 0 {
			out = append(out, <-ids)
		}
		return out
	}
}

func TestMailThatTheServerTookIsSentThoughItHangsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, w := newOutbox(), newWire()
		got := dropping(t, w, true)
		start(t, withMail(o, &mailbox{wire: w}))
		id := o.add(t, delivery.EntryTransition, acme(), down())
		after(time.Hour)
		require.Equal(t, delivery.EntryDone, o.entry(id).State)
		require.Len(t, got(), 1)
	})
}

func TestMailThatTheServerDidNotConfirmIsSentAgainUnderTheSameID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, w := newOutbox(), newWire()
		got := dropping(t, w, false)
		start(t, withMail(o, &mailbox{wire: w}))
		id := o.add(t, delivery.EntryTransition, acme(), down())
		after(time.Minute)
		require.Equal(t, delivery.EntryPending, o.entry(id).State)
		ids := got()
		require.Greater(t, len(ids), 1)
		for _, other := range ids {
			require.Equal(t, ids[0], other)
		}
	})
}
