package notify_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net/mail"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode"

	"github.com/stretchr/testify/require"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/pulsegate/pulsegate/health"
)

var update = flag.Bool("update", false, "write the golden mails anew")

// parsed is a received mail as a reader's program sees it.
type parsed struct {
	header mail.Header
	text   string
	html   string
}

func parse(tb testing.TB, r received) parsed {
	tb.Helper()
	msg, err := mail.ReadMessage(bytes.NewReader(r.data))
	require.NoError(tb, err)
	kind, params, err := mime.ParseMediaType(msg.Header.Get("Content-Type"))
	require.NoError(tb, err)
	require.Equal(tb, "multipart/alternative", kind)
	p := parsed{header: msg.Header}
	parts := multipart.NewReader(msg.Body, params["boundary"])
	for _, into := range []*string{&p.text, &p.html} {
		part, err := parts.NextRawPart()
		require.NoError(tb, err)
		require.Equal(tb, "quoted-printable", part.Header.Get("Content-Transfer-Encoding"))
		body, err := io.ReadAll(quotedprintable.NewReader(part))
		require.NoError(tb, err)
		*into = strings.ReplaceAll(string(body), "\r\n", "\n")
	}
	_, err = parts.NextRawPart()
	require.ErrorIs(tb, err, io.EOF)
	return p
}

// mailed sends one transition and returns the mail that arrived.
func mailed(t *testing.T, reg delivery.Registration, tr health.Transition) received {
	t.Helper()
	var got received
	synctest.Test(t, func(t *testing.T) {
		o, m := newOutbox(), openMailbox(t, nil)
		start(t, withMail(o, m))
		id := o.add(t, delivery.EntryTransition, reg, tr)
		after(time.Minute)
		require.Equal(t, delivery.EntryDone, o.entry(id).State, o.entry(id).LastError)
		require.Len(t, m.all(), 1)
		got = m.all()[0]
	})
	return got
}

// incident is the story of one bot, told in six mails.
func incident() map[string]health.Transition {
	degraded := health.Transition{
		Number: 1, Kind: health.ToDegraded, From: health.Healthy, To: health.Degraded, At: at("10:00:00"), Since: at("10:00:00"),
		Incident: at("10:00:00"), Notice: true, Reason: "1 of 24 failed", Acknowledged: 23, Failed: 1,
		ByClass: map[health.Class]int64{health.Status: 1}, HandedOff: 1, Undelivered: 1, FailedRequests: []string{"r-9f-1"},
	}
	still := down()
	still.Number, still.Kind, still.From, still.At, still.PausedUntil = 3, health.StillDown, health.Down, at("10:04:01"), at("10:06:01")
	still.Failed, still.Undelivered, still.HandedOff = 120, 239, 57
	still.ByClass = map[health.Class]int64{health.Refused: 1, health.Suppressed: 119}
	back := down()
	back.Number, back.Kind, back.From, back.To = 4, health.ToDegraded, health.Down, health.Degraded
	back.At, back.Since, back.PausedUntil = at("10:06:02"), at("10:06:02"), 0
	back.Reason, back.Acknowledged, back.Failed, back.Undelivered, back.HandedOff = "a trial was acknowledged", 1, 120, 359, 58
	back.ByClass = map[health.Class]int64{health.Suppressed: 120}
	healthy := health.Transition{
		Number: 5, Kind: health.ToHealthy, From: health.Degraded, To: health.Healthy, At: at("10:08:03"), Since: at("10:08:03"),
		Incident: at("10:00:00"), Notice: true, Reason: "no failure in the window", Acknowledged: 120, HandedOff: 58, Undelivered: 359,
	}
	blocked := down()
	blocked.ByClass = map[health.Class]int64{health.Blocked: 118}
	return map[string]health.Transition{
		"degraded": degraded, "down": down(), "still_down": still, "degraded_from_down": back, "healthy": healthy, "blocked": blocked,
	}
}

func TestMailsReadAsWritten(t *testing.T) {
	for name, tr := range incident() {
		t.Run(name, func(t *testing.T) {
			p := parse(t, mailed(t, acme(), tr))
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

func golden(tb testing.TB, name, got string) {
	tb.Helper()
	path := filepath.Join("..", "testdata", "mails", name)
	if *update {
		require.NoError(tb, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(tb, os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(tb, err, "run with -update to write it")
	require.Equal(tb, string(want), got)
}

func TestMailsOfOneIncidentAreOneThreadAndEachHasItsOwnID(t *testing.T) {
	threads, ids := map[string]bool{}, map[string]bool{}
	for name, tr := range incident() {
		if name == "blocked" { // the same transition as down
			continue
		}
		h := header(t, mailed(t, acme(), tr))
		require.Equal(t, h.Get("In-Reply-To"), h.Get("References"))
		require.Equal(t, "auto-generated", h.Get("Auto-Submitted"))
		threads[h.Get("References")] = true
		ids[h.Get("Message-Id")] = true
	}
	require.Len(t, threads, 1)
	require.Len(t, ids, 5)
	next := down()
	next.Incident++
	require.NotContains(t, threads, header(t, mailed(t, acme(), next)).Get("References"))
}

// hostile are texts that try to become something else.
var hostile = []string{
	"x\r\nBcc: victim@example.com",
	"x\nBcc: victim@example.com\n\nbody",
	"x\r\n.\r\nMAIL FROM:<x@example.com>\r\nRCPT TO:<victim@example.com>",
	"x\u2028Bcc: victim@example.com\u0085y\x00z\x1b[31m\u202egnp.exe",
	`<script>alert(1)</script>"><img src=x onerror=alert(1)>`,
	`"victim" <victim@example.com>, victim2@example.com`,
	"=?utf-8?q?=0D=0ABcc:_victim@example.com?=",
	"javascript:alert(1)",
	"Ünïcödé 机器人 🤖 " + strings.Repeat("long ", 400),
	strings.Repeat("ä", 1000),
	"{{.Subject}} %s %n \xff\xfe",
}

func TestM01TextFromOutsideChangesNeitherRecipientsNorHeaders(t *testing.T) {
	want := header(t, mailed(t, acme(), down()))
	fields := map[string]func(*delivery.Registration, *health.Transition, string){
		"name":      func(r *delivery.Registration, _ *health.Transition, s string) { r.Name = s },
		"app":       func(r *delivery.Registration, _ *health.Transition, s string) { r.AppID = s },
		"network":   func(r *delivery.Registration, _ *health.Transition, s string) { r.NetworkKey = s },
		"external":  func(r *delivery.Registration, _ *health.Transition, s string) { r.ExternalID = s },
		"company":   func(r *delivery.Registration, _ *health.Transition, s string) { r.CompanyKey = s },
		"contact":   func(r *delivery.Registration, _ *health.Transition, s string) { r.ContactName = s },
		"owner":     func(r *delivery.Registration, _ *health.Transition, s string) { r.Owner = s },
		"mode":      func(r *delivery.Registration, _ *health.Transition, s string) { r.Mode = delivery.Mode(s) },
		"runbook":   func(r *delivery.Registration, _ *health.Transition, s string) { r.RunbookURL = s },
		"callback":  func(r *delivery.Registration, _ *health.Transition, s string) { r.CallbackURL = "https://" + s },
		"reason":    func(_ *delivery.Registration, tr *health.Transition, s string) { tr.Reason = s },
		"from":      func(_ *delivery.Registration, tr *health.Transition, s string) { tr.From = health.State(s) },
		"to":        func(_ *delivery.Registration, tr *health.Transition, s string) { tr.To = health.State(s) },
		"kind":      func(_ *delivery.Registration, tr *health.Transition, s string) { tr.Kind = health.Kind(s) },
		"class":     func(_ *delivery.Registration, tr *health.Transition, s string) { tr.ByClass[health.Class(s)] = 1 },
		"requestID": func(_ *delivery.Registration, tr *health.Transition, s string) { tr.FailedRequests[0] = s },
	}
	mails := 0
	for field, set := range fields {
		for i, text := range hostile {
			t.Run(fmt.Sprint(field, i), func(t *testing.T) {
				reg, tr := acme(), down()
				set(&reg, &tr, text)
				checkHarmless(t, mailed(t, reg, tr), want)
				together := mailedTogether(t, i%2 == 0, func(o *outbox) {
					reg, tr := bot(1), down()
					set(&reg, &tr, text)
					o.gather(t, reg, tr, flapped(1, 2))
					o.gather(t, bot(2), down())
				})
				require.Len(t, together, 1)
				checkHarmless(t, together[0], want)
				mails += 2
			})
		}
	}
	t.Attr("measured", fmt.Sprintf("%d hostile texts in %d fields, %d mails by themselves, joined and digests: recipients and headers as configured", len(hostile), len(fields), mails))
}

// checkHarmless requires that a mail has the recipient, the sender and the fields that it should, and no others.
func checkHarmless(tb testing.TB, r received, want mail.Header) {
	tb.Helper()
	require.Equal(tb, []string{"oncall@example.org"}, r.to)
	require.Equal(tb, "pulsegate@example.net", r.from)
	p := parse(tb, r)
	require.Equal(tb, slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(p.header)))
	checkHeader(tb, p.header)
	checkBody(tb, p)
}

// msgID is a message id as RFC 5322 has it, without quoting.
var msgID = regexp.MustCompile(`^<[A-Za-z0-9_.-]+@[a-z0-9.-]+>$`)

func checkHeader(tb testing.TB, h mail.Header) {
	tb.Helper()
	for name, values := range h {
		require.Len(tb, values, 1, name)
	}
	subject, err := new(mime.WordDecoder).DecodeHeader(h.Get("Subject"))
	require.NoError(tb, err)
	require.True(tb, strings.HasPrefix(subject, "[Pulsegate] "))
	require.LessOrEqual(tb, len([]rune(subject)), 220)
	require.False(tb, strings.ContainsFunc(subject, unicode.IsControl), subject)
	to, err := h.AddressList("To")
	require.NoError(tb, err)
	require.Len(tb, to, 1)
	require.Equal(tb, "oncall@example.org", to[0].Address)
	require.False(tb, strings.ContainsAny(to[0].Name, "<>\"@,;:()[]\\"), to[0].Name)
	for _, name := range []string{"Message-Id", "References", "In-Reply-To"} {
		require.Regexp(tb, msgID, h.Get(name))
		require.Less(tb, len(h.Get(name)), 200)
	}
	require.Equal(tb, "auto-generated", h.Get("Auto-Submitted"))
}

func checkBody(tb testing.TB, p parsed) {
	tb.Helper()
	for _, mark := range []string{"<script", "<img", `href="javascript`} {
		require.NotContains(tb, strings.ToLower(p.html), mark)
	}
	for line := range strings.Lines(p.text) {
		require.NotRegexp(tb, `^(Bcc|RCPT|MAIL|\.)`, strings.TrimSpace(line))
	}
	require.False(tb, strings.ContainsFunc(strings.ReplaceAll(p.text+p.html, "\n", ""), unicode.IsControl))
	require.NotContains(tb, p.text+p.html, "\u202e")
}

// contacts are addresses of contacts, and who gets the mail: "" when the registration is refused.
var contacts = map[string]string{
	"oncall@example.org":                 "oncall@example.org",
	"On.Call+bots@Example.ORG":           "On.Call+bots@example.org",
	"oncall@bücher.example":              "oncall@xn--bcher-kva.example",
	"oncall@xn--bcher-kva.example":       "oncall@xn--bcher-kva.example",
	"oncall@例え.テスト":                      "oncall@xn--r8jz45g.xn--zckzah",
	"root@localhost":                     "root@localhost",
	"o'neil_%x@example.org":              "o'neil_%x@example.org",
	`"on call"@example.org`:              `"on call"@example.org`,
	`"a@b"@example.org`:                  `"a@b"@example.org`,
	`"oncall"@example.org`:               "",
	"jörg@example.org":                   "",
	"a@[127.0.0.1]":                      "",
	"a@example.org.":                     "",
	"a@-example.org":                     "",
	"a@exa_mple.org":                     "",
	"a@example..org":                     "",
	"a@" + strings.Repeat("x", 64):       "",
	strings.Repeat("l", 65) + "@e.org":   "",
	"a..b@example.org":                   "",
	".a@example.org":                     "",
	"a@":                                 "",
	"@example.org":                       "",
	"a@b@example.org":                    "",
	"On Call <oncall@example.org>":       "",
	"<oncall@example.org>":               "",
	"oncall@example.org (on call)":       "",
	"a@example.org, v@example.com":       "",
	"a@example.org\r\nBcc: v@e.com":      "",
	"a@example.org> RCPT TO:<v@e.com>":   "",
	"a@example.org SIZE=1":               "",
	"nobody":                             "",
	"a@exa mple.org":                     "",
	"=?utf-8?q?a=40b?=@example.org":      "=?utf-8?q?a=40b?=@example.org",
	"a@" + strings.Repeat("ü", 60) + ".": "",
}

// TestM06ContactAddresses registers contacts of every kind. Those that are not refused get their mail.
func TestM06ContactAddresses(t *testing.T) {
	sent, refused := 0, 0
	for address, want := range contacts {
		t.Run(address, func(t *testing.T) {
			reg := acme()
			reg.ContactEmail = address
			problems := strings.Join(delivery.Validate(reg), "\n")
			if want == "" {
				require.Contains(t, problems, "contact.email")
				refused++
				checkUnregistered(t, reg)
				return
			}
			require.NotContains(t, problems, "contact.email")
			synctest.Test(t, func(t *testing.T) {
				o, m := newOutbox(), openMailbox(t, nil)
				start(t, withMail(o, m))
				id := o.add(t, delivery.EntryTransition, reg, down())
				after(time.Minute)
				require.Equal(t, delivery.EntryDone, o.entry(id).State, o.entry(id).LastError)
				require.Contains(t, m.written(), "RCPT TO:<"+want+">\r\n")
				require.Len(t, m.all(), 1)
				require.Len(t, m.all()[0].to, 1)
				to, err := header(t, m.all()[0]).AddressList("To")
				require.NoError(t, err)
				require.Len(t, to, 1)
			})
			sent++
		})
	}
	t.Attr("measured", fmt.Sprintf("%d kinds of addresses: %d sent to the one mailbox meant, %d refused at registration", len(contacts), sent, refused))
}

// checkUnregistered requires that a contact that could not be registered, but is there all the same, leads to no other mailbox.
func checkUnregistered(t *testing.T, reg delivery.Registration) {
	synctest.Test(t, func(t *testing.T) {
		o, m := newOutbox(), openMailbox(t, nil)
		start(t, withMail(o, m))
		o.add(t, delivery.EntryTransition, reg, down())
		after(time.Minute)
		require.NotContains(t, m.written(), "v@e")
		require.LessOrEqual(t, strings.Count(m.written(), "RCPT TO"), 3)
		for _, r := range m.all() {
			require.Len(t, r.to, 1)
		}
	})
}

func TestEntryThatCannotBeReadIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, m := newOutbox(), openMailbox(t, nil)
		start(t, withMail(o, m))
		var ids []string
		for _, kind := range []delivery.EntryKind{delivery.EntryTransition, delivery.EntryHandoff} {
			ids = append(ids, o.add(t, kind, acme(), json.RawMessage(`["not","an object"]`)))
		}
		after(time.Minute)
		require.Equal(t, delivery.EntryRefused, o.entry(ids[0]).State)
		require.Equal(t, delivery.EntryKept, o.entry(ids[1]).State)
	})
}

func TestMonitoringBotsMailPromisesNoHandoff(t *testing.T) {
	reg := acme()
	reg.Mode = delivery.Monitoring
	require.Contains(t, parse(t, mailed(t, reg, down())).text, "No conversation is handed off")
	reg.Mode, reg.WhenDown = delivery.Live, delivery.Hold
	require.Contains(t, parse(t, mailed(t, reg, down())).text, "Events are held meanwhile")
}
