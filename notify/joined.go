package notify

import (
	"bytes"
	_ "embed"
	"fmt"
	htmltemplate "html/template"
	"net/mail"
	"strings"
	"text/template"
	"time"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/pulsegate/pulsegate/health"
)

var (
	//go:embed joined.txt.tmpl
	joinedTextSource string
	//go:embed joined.html.tmpl
	joinedHTMLSource string

	textJoined = template.Must(template.New("joined.txt").Parse(joinedTextSource))
	htmlJoined = htmltemplate.Must(htmltemplate.New("joined.html").Parse(joinedHTMLSource))
)

// told is one notice, or in a digest several of one bot, that a mail tells of.
type told struct {
	delivery.Gathered
	reg delivery.Registration
	t   health.Transition
}

// collection is what the templates of a mail with several notices tell. All of its texts are harmless lines.
type collection struct {
	Headline, Subject, Colour, Intro string
	Items                            []item
}

// item is one of its notices.
type item struct {
	Headline, Colour string
	Lines            []string
	Links            []reference
}

// writeMail makes the mail about several notices. Its Message-ID is that of the outbox entry behind it, so it is the same on every try.
func (n *Notifier) writeMail(e delivery.Entry, m delivery.Mail, all []told, now time.Time) (letter, error) {
	c := n.joined(all)
	kind := "joined"
	if m.Digest {
		c, kind = n.digest(all), "digest"
	}
	c.Subject = "[Pulsegate] " + strings.ReplaceAll(c.Headline, "=?", "= ?") // what looks encoded would be decoded by readers
	var text, html bytes.Buffer
	if err := textJoined.Execute(&text, c); err != nil {
		return letter{}, fmt.Errorf("write mail: %w", err)
	}
	if err := htmlJoined.Execute(&html, c); err != nil {
		return letter{}, fmt.Errorf("write mail: %w", err)
	}
	return letter{
		to: &mail.Address{Name: m.To.Name, Address: m.To.Address}, subject: c.Subject, date: now.UTC(), text: text.String(), html: html.String(),
		id: kind + "." + e.ID + "@" + n.post.domain, thread: n.mailThread(kind, m.To, all),
	}, nil
}

// mailThread is the incident's when all notices are of one; otherwise one for each kind of mail of the contact.
func (n *Notifier) mailThread(kind string, to delivery.Contact, all []told) string {
	first := threadID(all[0].reg.RegID, all[0].t, n.post.domain)
	for _, other := range all {
		if kind == "digest" || threadID(other.reg.RegID, other.t, n.post.domain) != first {
			return contactThread(kind, to, n.post.domain)
		}
	}
	return first
}

// joined tells of notices one by one, in the order in which they came.
func (n *Notifier) joined(all []told) collection {
	latest := map[delivery.RegID]health.Transition{}
	for _, one := range all {
		latest[one.reg.RegID] = one.t
	}
	c := collection{
		Headline: counted(int64(len(latest)), "bot") + ": " + tally(latest), Colour: colour(worst(latest)),
		Intro: fmt.Sprintf("What came within a minute of another mail to you, or while mail to you did not get through, is told together here: %s.",
			counted(int64(len(all)), "notice")),
	}
	if len(latest) == 1 {
		c.Headline = headline(all[len(all)-1].t) + ": " + botName(all[0].reg)
	}
	for _, one := range all {
		lines := []string{"At " + moment(one.t.At) + "."}
		if reason := line(one.t.Reason, 300); reason != "" {
			lines = append(lines, sentence(reason))
		}
		if one.t.ByClass[health.Blocked] > 0 {
			lines = append(lines, blockedFault(one.reg))
		}
		lines = append(lines, next(one.reg, one.t)[0])
		c.Items = append(c.Items, item{
			Headline: headline(one.t) + ": " + botName(one.reg), Colour: colour(one.t.To), Lines: append(lines, cost(one.t)...), Links: n.healthLink(one.reg),
		})
	}
	return c
}

// digest tells of each bot how often it changed.
func (n *Notifier) digest(all []told) collection {
	c := collection{
		Headline: "flapping: " + counted(int64(len(all)), "bot"), Colour: colour(health.Degraded),
		Intro: "A bot that changes often gets four mails an hour by itself; further ones are gathered here, once an hour. " +
			"DOWN, and the end of DOWN, are told at once all the same.",
	}
	if len(all) == 1 {
		c.Headline = "flapping: " + botName(all[0].reg)
	}
	for _, one := range all {
		lines := []string{
			fmt.Sprintf("DEGRADED %s and HEALTHY again %s from %s to %s.", counted(one.Degraded, "time"), counted(one.Healthy, "time"),
				moment(one.First), moment(one.t.At)),
			"Then it was " + stateWord(one.t.To) + ".",
		}
		if reason := line(one.t.Reason, 300); reason != "" {
			lines = append(lines, sentence(reason))
		}
		undelivered, handed := one.Undelivered, one.HandedOff
		if one.t.Kind != health.ToHealthy { // of the incident that was still open
			undelivered, handed = undelivered+one.t.Undelivered, handed+one.t.HandedOff
		}
		lines = append(lines, "It cost: "+costs(undelivered, handed)+".")
		c.Items = append(c.Items, item{Headline: botName(one.reg), Colour: colour(one.t.To), Lines: lines, Links: n.healthLink(one.reg)})
	}
	return c
}

// healthLink is where the health of a bot is shown.
func (n *Notifier) healthLink(reg delivery.Registration) []reference {
	if to := n.links.to("/bots/v3/health/appId/", reg.AppID); to != "" {
		return []reference{{"Health now", to}}
	}
	return nil
}

// tally says how many bots are in which state, the worst first.
func tally(latest map[delivery.RegID]health.Transition) string {
	count := map[string]int{}
	for _, t := range latest {
		count[headline(t)]++
	}
	var parts []string
	for _, word := range []string{"DOWN", "still DOWN", "DEGRADED after DOWN", "DEGRADED", "HEALTHY again", "HEALTHY", "UNKNOWN"} {
		if n := count[word]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, word))
		}
	}
	return strings.Join(parts, ", ")
}

// worst is the worst state that one of the bots is in.
func worst(latest map[delivery.RegID]health.Transition) health.State {
	state := health.Healthy
	for _, t := range latest {
		switch {
		case t.To == health.Down:
			return health.Down
		case t.To != health.Healthy:
			state = health.Degraded
		}
	}
	return state
}
