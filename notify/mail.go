package notify

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	htmltemplate "html/template"
	"net/mail"
	"net/url"
	"strings"
	"text/template"
	"time"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/pulsegate/pulsegate/health"
)

var (
	//go:embed mail.txt.tmpl
	textSource string
	//go:embed mail.html.tmpl
	htmlSource string

	textMail = template.Must(template.New("mail.txt").Parse(textSource))
	htmlMail = htmltemplate.Must(htmltemplate.New("mail.html").Parse(htmlSource))
)

// letter is one mail, ready for an envelope. Every text in it is one line or made by a template.
type letter struct {
	to      *mail.Address
	subject string
	id      string // Message-ID, without its brackets
	thread  string // of the incident, likewise
	date    time.Time
	text    string
	html    string
}

// story is what the templates tell. All of its texts are harmless lines.
type story struct {
	Headline string
	Subject  string
	Colour   string
	Facts    []fact
	Why      []string
	Next     []string
	Cost     []string
	Failed   []reference // requests, newest first
	Links    []reference
}

// fact is one line of the table at the top.
type fact struct{ Name, Value string }

// reference is a text with an address; the address may be empty.
type reference struct{ Name, URL string }

// write makes the mail about a transition of a registration.
func (n *Notifier) write(reg delivery.Registration, t health.Transition, now time.Time) (letter, error) {
	to, err := recipient(reg)
	if err != nil {
		return letter{}, err
	}
	st := n.tellStory(reg, t)
	var text, html bytes.Buffer
	if err := textMail.Execute(&text, st); err != nil {
		return letter{}, fmt.Errorf("write mail: %w", err)
	}
	if err := htmlMail.Execute(&html, st); err != nil {
		return letter{}, fmt.Errorf("write mail: %w", err)
	}
	return letter{
		to: to, subject: st.Subject, date: now.UTC(), text: text.String(), html: html.String(),
		id: messageID(reg.RegID, t, n.post.domain), thread: threadID(reg.RegID, t, n.post.domain),
	}, nil
}

// recipient is the one address of the registration's contact, its domain in ASCII.
func recipient(reg delivery.Registration) (*mail.Address, error) {
	address, err := delivery.MailAddress(reg.ContactEmail)
	if err != nil {
		return nil, errors.New("the contact's address cannot be used")
	}
	return &mail.Address{Name: displayName(reg.ContactName), Address: address}, nil
}

func (n *Notifier) tellStory(reg delivery.Registration, t health.Transition) story {
	label, bot := headline(t), botName(reg)
	return story{
		Headline: label + ": " + bot,
		Subject:  "[Pulsegate] " + label + ": " + strings.ReplaceAll(bot, "=?", "= ?"), // what looks encoded would be decoded by readers
		Colour:   colour(t.To),
		Facts:    facts(reg, t),
		Why:      why(reg, t),
		Next:     next(reg, t),
		Cost:     cost(t),
		Failed:   n.failed(t),
		Links:    n.references(reg),
	}
}

// botName is what people call a bot, and where it answers.
func botName(reg delivery.Registration) string {
	bot := line(reg.AppID, 40) + " on " + line(reg.NetworkKey, 24) + "/" + line(reg.ExternalID, 40)
	if name := line(reg.Name, 60); name != "" {
		return name + " (" + bot + ")"
	}
	return bot
}

// headline is the new state in a word or three.
func headline(t health.Transition) string {
	switch {
	case t.Kind == health.StillDown:
		return "still DOWN"
	case t.Kind == health.ToDegraded && t.From == health.Down:
		return "DEGRADED after DOWN"
	case t.Kind == health.ToHealthy:
		return "HEALTHY again"
	default:
		return stateWord(t.To)
	}
}

func colour(s health.State) string {
	switch s {
	case health.Healthy:
		return "#1a7f37"
	case health.Degraded:
		return "#9a6700"
	default:
		return "#b42318"
	}
}

func facts(reg delivery.Registration, t health.Transition) []fact {
	fs := []fact{
		{"Bot", line(reg.AppID, 200)},
		{"Name", line(reg.Name, 200)},
		{"Channel", line(reg.NetworkKey, 200) + ", " + line(reg.ExternalID, 200)},
		{"Company", line(reg.CompanyKey, 200)},
		{"Team", line(reg.Owner, 200)},
		{"Mode", line(string(reg.Mode), 20)},
		{"Callback", callbackHost(reg.CallbackURL)},
		{"Change", stateWord(t.From) + " -> " + stateWord(t.To)},
		{"At", moment(t.At)},
	}
	if t.Kind == health.StillDown || (t.Kind == health.ToDegraded && t.From == health.Down) {
		fs = append(fs, fact{"DOWN since", since(t.DownSince, t.At)})
	}
	if t.Incident > 0 && t.Kind != health.ToHealthy {
		fs = append(fs, fact{"Incident", since(t.Incident, t.At)})
	}
	kept := fs[:0]
	for _, f := range fs {
		if f.Value != "" {
			kept = append(kept, f)
		}
	}
	return kept
}

// since is a past time and how long ago it was; empty when the time is not known.
func since(from, at int64) string {
	if from <= 0 {
		return ""
	}
	return moment(from) + " (" + span(time.Duration(at-from)*time.Millisecond) + ")"
}

// callbackHost is where the bot is called, without path, query and user, which may hold secrets.
func callbackHost(callback string) string {
	u, err := url.Parse(callback)
	if err != nil || u.Host == "" {
		return ""
	}
	return line(u.Scheme+"://"+u.Host, 200)
}

// failed are the last failed requests, each with the place to look it up.
func (n *Notifier) failed(t health.Transition) []reference {
	var refs []reference
	for _, id := range t.FailedRequests[:min(len(t.FailedRequests), 5)] {
		refs = append(refs, reference{line(id, 100), n.links.to("/bots/v3/request/", id)})
	}
	return refs
}

// references are the runbook and the pages of this gateway.
func (n *Notifier) references(reg delivery.Registration) []reference {
	var refs []reference
	if runbook := line(reg.RunbookURL, 2000); runbook != "" {
		r := reference{"Runbook", runbook}
		if u, err := url.Parse(runbook); err != nil || (u.Scheme != "http" && u.Scheme != "https") {
			r = reference{"Runbook: " + line(runbook, 200), ""}
		}
		refs = append(refs, r)
	}
	if to := n.links.to("/bots/v3/health/appId/", reg.AppID); to != "" {
		refs = append(refs, reference{"Health now", to},
			reference{"Failed requests of the last hour", n.links.to("/bots/v3/request/appId/", reg.AppID) + "?from=1h&state=ERROR"})
	}
	return refs
}
