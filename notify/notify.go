package notify

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/mail"
	"net/url"
	"strings"
	"time"

	"github.com/pulsegate/pulsegate/delivery"
)

// Dial opens a connection; it has the shape of net.Dialer.DialContext.
type Dial func(ctx context.Context, network, addr string) (net.Conn, error)

// Config is what a Notifier is made of. Zero values are the documented defaults; only Outbox is required.
type Config struct {
	Outbox    delivery.Outbox
	SMTPURL   delivery.Secret  // smtp://user:pass@host:port or smtps://…; empty: no mail is sent, notices are kept and logged
	MailFrom  string           // the sender of mails, "Pulsegate <pulsegate@example.org>"; required with SMTPURL
	Platform  *Platform        // nil: handoffs are kept by the gateway itself
	TagIDs    map[string]int64 // the platform's tag ids for standard, automatic, maintenance, parent; empty: no tag calls
	PublicURL string           // where people reach this gateway, for links in mails; empty: no links
	Log       *slog.Logger     // nil: nothing is logged
	Dial      Dial             // opens the connections to the mail server; nil: plain TCP
	RootCAs   *x509.CertPool   // whom to trust as the mail server's certificate authority; nil: the system's

	Workers     int           // mails under way at once, and platform calls under way at once; 0 means 8
	Deadline    time.Duration // how long an entry is tried, from its own time on; 0 means 24 hours
	SMTPTimeout time.Duration // one conversation with the mail server, from dialing to goodbye; 0 means 60 seconds
	Takeover    time.Duration // lease of a taken entry, after which another replica takes it over; 0 means 90 seconds
	Join        time.Duration // after a mail to a contact, in which notices of its other bots gather for one mail; 0 means 1 minute
	Digest      time.Duration // in which the notices of bots that flap gather for one mail; 0 means 1 hour
}

// Notifier tells people and the platform what the outbox holds. Safe for concurrent use; Run it once.
type Notifier struct {
	cfg   Config
	links links
	post  *postman // nil: no mail server
	count *metrics
}

// New checks the settings and returns a Notifier that is ready to Run. It opens no connection. Errors name the setting and never
// show a secret.
func New(cfg Config) (*Notifier, error) {
	cfg = cfg.withDefaults()
	switch {
	case cfg.Outbox == nil:
		return nil, errors.New("outbox: must be set")
	case cfg.Takeover < cfg.mailNeeds():
		return nil, fmt.Errorf("takeover %v: must be at least %v with an SMTP timeout of %v", cfg.Takeover, cfg.mailNeeds(), cfg.SMTPTimeout)
	case cfg.Takeover < max(platformNeeds, jobNeeds):
		return nil, fmt.Errorf("takeover %v: must be at least %v", cfg.Takeover, max(platformNeeds, jobNeeds))
	}
	if err := checkTagIDs(cfg.TagIDs); err != nil {
		return nil, err
	}
	links, err := newLinks(cfg.PublicURL)
	if err != nil {
		return nil, err
	}
	n := &Notifier{cfg: cfg, links: links, count: newMetrics(cfg.Outbox)}
	if cfg.SMTPURL == "" {
		return n, nil
	}
	if n.post, err = newPostman(cfg); err != nil {
		return nil, err
	}
	return n, nil
}

func (c Config) withDefaults() Config {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Workers <= 0 {
		c.Workers = 8
	}
	if c.Deadline <= 0 {
		c.Deadline = 24 * time.Hour
	}
	if c.SMTPTimeout <= 0 {
		c.SMTPTimeout = time.Minute
	}
	if c.Takeover <= 0 {
		c.Takeover = 90 * time.Second
	}
	if c.Join <= 0 {
		c.Join = joinInterval
	}
	if c.Digest <= 0 {
		c.Digest = digestInterval
	}
	return c
}

// mailNeeds is what must be left of a lease for a mail to be begun: reading the contact, the decision whether it waits, the
// conversation, and the marks.
func (c Config) mailNeeds() time.Duration {
	return 2*takeTime + c.SMTPTimeout + updateTime + lastUpdate
}

// checkTagIDs refuses names that no handoff would ever use: a misspelt one would silently leave conversations untagged.
func checkTagIDs(ids map[string]int64) error {
	for name := range ids {
		switch name {
		case parentTag, string(delivery.StandardHandoff), string(delivery.AutomaticHandoff), string(delivery.MaintenanceHandoff):
		default:
			return fmt.Errorf("tag ids: unknown name %q, the names are standard, automatic, maintenance, parent", name)
		}
	}
	return nil
}

// sender parses the From of all mails.
func sender(from string) (*mail.Address, error) {
	if strings.TrimSpace(from) == "" {
		return nil, errors.New("mail from: must be set when a mail server is set")
	}
	addr, err := mail.ParseAddress(from)
	if err != nil {
		return nil, fmt.Errorf("parse mail from: %w", err)
	}
	return addr, nil
}

// links makes addresses under the public URL; the zero value makes none.
type links struct{ base string }

func newLinks(public string) (links, error) {
	if public == "" {
		return links{}, nil
	}
	u, err := url.Parse(public)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return links{}, errors.New("public URL: must be http:// or https:// with a host, without user, query and fragment")
	}
	return links{base: strings.TrimRight(public, "/")}, nil
}

func (l links) to(path string, id string) string {
	if l.base == "" {
		return ""
	}
	return l.base + path + url.PathEscape(id)
}
