package notify_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/emersion/go-smtp"
	"github.com/stretchr/testify/require"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/pulsegate/pulsegate/health"
)

// bot is the n-th of a contact's bots.
func bot(n int) delivery.Registration {
	reg := acme()
	reg.AppID, reg.ExternalID, reg.Name = fmt.Sprintf("bot-%d", n), fmt.Sprintf("channel-%d", n), fmt.Sprintf("Bot %d", n)
	return reg
}

// gather lets a mail tell of a notice.
func (o *outbox) gather(tb testing.TB, reg delivery.Registration, tr health.Transition, change ...func(*delivery.Gathered)) {
	tb.Helper()
	data, err := json.Marshal(tr)
	require.NoError(tb, err)
	g := delivery.Gathered{Entry: delivery.Entry{
		ID: fmt.Sprintf("t%d", len(o.gathered)), Kind: delivery.EntryTransition, CompanyKey: reg.CompanyKey, NetworkKey: reg.NetworkKey,
		ExternalID: reg.ExternalID, AppID: reg.AppID, At: tr.At, Data: data,
	}}
	for _, f := range change {
		f(&g)
	}
	o.gathered = append(o.gathered, g)
	if reg.Name != "" {
		o.regs[reg.RegID] = reg
	}
}

// mailedTogether sends the mail about what was gathered, twice if it is lost in between, and returns what arrived.
func mailedTogether(t *testing.T, digest bool, fill func(*outbox)) []received {
	t.Helper()
	var got []received
	synctest.Test(t, func(t *testing.T) {
		o, m := newOutbox(), openMailbox(t, nil)
		fill(o)
		start(t, withMail(o, m))
		mail := delivery.Mail{To: delivery.Contact{Address: "oncall@example.org", Name: "On Call"}, Digest: digest}
		id := o.add(t, delivery.EntryMail, acme(), mail)
		after(time.Minute)
		require.Equal(t, delivery.EntryDone, o.entry(id).State, o.entry(id).LastError)
		got = m.all()
	})
	return got
}

// flapped is what a digest tells of a bot.
func flapped(degraded, healthy int64) func(*delivery.Gathered) {
	return func(g *delivery.Gathered) {
		g.Degraded, g.Healthy, g.First, g.Undelivered, g.HandedOff = degraded, healthy, at("09:05:00"), 40, 12
	}
}

func TestMailsAboutSeveralReadAsWritten(t *testing.T) {
	blocked := incident()["blocked"]
	for name, c := range map[string]struct {
		digest bool
		fill   func(*testing.T, *outbox)
	}{
		"joined": {false, func(t *testing.T, o *outbox) {
			o.gather(t, bot(1), incident()["degraded"])
			o.gather(t, bot(2), incident()["down"])
			o.gather(t, bot(3), blocked)
			o.gather(t, bot(1), incident()["healthy"])
		}},
		"joined_one_bot": {false, func(t *testing.T, o *outbox) {
			o.gather(t, bot(1), incident()["degraded"])
			o.gather(t, bot(1), incident()["down"])
		}},
		"digest": {true, func(t *testing.T, o *outbox) {
			o.gather(t, bot(1), incident()["healthy"], flapped(88, 88))
			o.gather(t, bot(2), incident()["degraded"], flapped(3, 2))
		}},
		"digest_one_bot": {true, func(t *testing.T, o *outbox) {
			o.gather(t, bot(1), incident()["healthy"], flapped(1, 2))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			got := mailedTogether(t, c.digest, func(o *outbox) { c.fill(t, o) })
			require.Len(t, got, 1)
			p := parse(t, got[0])
			var head strings.Builder
			for _, field := range []string{"From", "To", "Subject", "Message-Id", "In-Reply-To", "References", "Auto-Submitted"} {
				fmt.Fprintf(&head, "%s: %s\n", field, p.header.Get(field))
			}
			golden(t, name+".txt", head.String()+"\n"+p.text)
			golden(t, name+".html", p.html)
			require.NotContains(t, p.text+p.html, "s3cret", "the callback's query stays here")
		})
	}
}

func TestNoticeThatNoOtherJoinedIsMailedAsIfAlone(t *testing.T) {
	alone := mailed(t, bot(1), down())
	got := mailedTogether(t, false, func(o *outbox) { o.gather(t, bot(1), down()) })
	require.Len(t, got, 1)
	require.Equal(t, parse(t, alone).text, parse(t, got[0]).text)
	require.Equal(t, header(t, alone).Get("Message-Id"), header(t, got[0]).Get("Message-Id"))
}

func TestRegistrationsThatAreGoneAreNotTold(t *testing.T) {
	got := mailedTogether(t, false, func(o *outbox) {
		o.gather(t, bot(1), down())
		gone := bot(2)
		gone.Name = ""
		o.gather(t, gone, down())
	})
	require.Len(t, got, 1)
	require.Contains(t, parse(t, got[0]).text, "bot-1")
	require.NotContains(t, parse(t, got[0]).text, "bot-2")
	require.Contains(t, header(t, got[0]).Get("Message-Id"), "<joined.", "what it is called does not hang on who is left")
	synctest.Test(t, func(t *testing.T) {
		o, m := newOutbox(), openMailbox(t, nil)
		start(t, withMail(o, m))
		id := o.add(t, delivery.EntryMail, acme(), delivery.Mail{To: delivery.Contact{Address: "oncall@example.org"}})
		after(time.Minute)
		require.Equal(t, delivery.EntryKept, o.entry(id).State)
		require.Empty(t, m.all())
	})
}

func TestNoticeThatWaitsForOthersIsLeftToTheirMail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, m := newOutbox(), openMailbox(t, nil)
		o.joins = true
		start(t, withMail(o, m))
		held := incident()["degraded"]
		held.Held = true
		ids := []string{o.add(t, delivery.EntryTransition, acme(), down()), o.add(t, delivery.EntryTransition, acme(), held)}
		after(time.Minute)
		for _, id := range ids {
			require.Equal(t, delivery.EntryJoined, o.entry(id).State)
			require.Equal(t, "mail of "+id, o.entry(id).Mail)
		}
		require.Empty(t, m.all())
		require.ElementsMatch(t, []delivery.Gathering{{Within: time.Minute}, {Digest: true, Within: time.Hour}}, o.asked)
	})
}

func TestContactIsMarkedWhileItsMailDoesNotGetThrough(t *testing.T) {
	to := delivery.Contact{Company: "acme", Address: "oncall@example.org", Name: "On Call"}
	synctest.Test(t, func(t *testing.T) {
		o, m := newOutbox(), openMailbox(t, nil)
		m.setCut(true)
		start(t, withMail(o, m))
		id := o.add(t, delivery.EntryTransition, acme(), down())
		after(time.Second)
		require.Len(t, o.marks, 1)
		require.Equal(t, to, o.marks[0].to)
		require.WithinDuration(t, time.Now().Add(4*time.Second), o.marks[0].until, time.Second)
		m.setCut(false)
		after(time.Minute)
		require.Equal(t, delivery.EntryDone, o.entry(id).State)
		require.Equal(t, []mark{{to: to}}, o.marks[1:], "it gets through again")
	})
	synctest.Test(t, func(t *testing.T) {
		o, m := newOutbox(), openMailbox(t, nil)
		m.rcpt = func(string) error { return &smtp.SMTPError{Code: 550, Message: "no such user"} }
		start(t, withMail(o, m))
		o.add(t, delivery.EntryTransition, acme(), down())
		after(time.Minute)
		require.Len(t, o.marks, 1)
		require.Equal(t, to, o.marks[0].to)
		require.Contains(t, o.marks[0].why, "no such user")
		require.NotContains(t, o.marks[0].why, "oncall@")
	})
}
