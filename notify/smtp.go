package notify

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	stdmail "net/mail"
	"net/url"
	"strconv"
	"strings"
	"time"

	gomail "github.com/wneessen/go-mail"

	"github.com/pulsegate/pulsegate/delivery"
)

// postman has conversations with the mail server. Safe for concurrent use.
type postman struct {
	host     string
	port     int
	implicit bool // TLS from the first byte
	auth     bool
	user     string
	password delivery.Secret
	from     *stdmail.Address
	domain   string // of message ids
	tls      *tls.Config
	dial     Dial
	limit    time.Duration
}

// refusal is an answer of the mail server that another try would not change.
type refusal struct {
	why     string
	contact bool // it is the recipient that it refuses
}

func (r *refusal) Error() string { return r.why }

// newPostman reads the mail server's URL. Its errors do not show the URL, which may hold a password.
func newPostman(cfg Config) (*postman, error) {
	u, err := url.Parse(string(cfg.SMTPURL))
	if err != nil || (u.Scheme != "smtp" && u.Scheme != "smtps") || u.Hostname() == "" ||
		strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("smtp: must be smtp://user:password@host:port or smtps://…, special characters of the password escaped as in any URL")
	}
	p := &postman{host: u.Hostname(), implicit: u.Scheme == "smtps", dial: cfg.Dial, limit: cfg.SMTPTimeout}
	if p.port, err = mailPort(u); err != nil {
		return nil, err
	}
	if u.User != nil {
		password, has := u.User.Password()
		if !has || u.User.Username() == "" {
			return nil, errors.New("smtp: user and password must both be given, or neither")
		}
		p.auth, p.user, p.password = true, u.User.Username(), delivery.Secret(password)
	}
	if p.from, err = sender(cfg.MailFrom); err != nil {
		return nil, err
	}
	p.domain = idDomain(p.from.Address)
	p.tls = &tls.Config{ServerName: p.host, MinVersion: tls.VersionTLS12, RootCAs: cfg.RootCAs}
	if p.dial == nil {
		p.dial = (&net.Dialer{}).DialContext
	}
	return p, nil
}

// mailPort is the URL's port, or the usual one: 465 with TLS from the first byte, 587 with a user, 25 without.
func mailPort(u *url.URL) (int, error) {
	switch {
	case u.Port() != "":
		port, err := strconv.Atoi(u.Port())
		if err != nil || port < 1 || port > 65535 {
			return 0, errors.New("smtp: port must be from 1 to 65535")
		}
		return port, nil
	case u.Scheme == "smtps":
		return 465, nil
	case u.User != nil:
		return 587, nil
	default:
		return 25, nil
	}
}

// send has one conversation, which ends within the limit however slowly the server speaks. A *refusal means that the server will
// never take this mail. A mail that the server has taken is sent, whatever goes wrong afterwards.
func (p *postman) send(ctx context.Context, l letter) error {
	msg, err := p.message(l)
	if err != nil {
		return &refusal{"the contact's address cannot be used", true}
	}
	ctx, cancel := context.WithTimeout(ctx, p.limit)
	defer cancel()
	call := &conversation{postman: p}
	defer call.hangUp()
	client, err := p.client(ctx, call)
	if err != nil {
		return fmt.Errorf("prepare mail conversation: %w", err)
	}
	err = client.DialAndSendWithContext(ctx, msg)
	if err == nil || msg.IsDelivered() {
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("talk to mail server: no end within %v", p.limit)
	}
	return p.hushed(fault(err))
}

// hushed is an error without the password, which a server may well send back.
func (p *postman) hushed(err error) error {
	if p.password == "" {
		return err
	}
	password := string(p.password)
	hush := strings.NewReplacer(
		password, "[password]", base64.StdEncoding.EncodeToString([]byte(password)), "[password]",
		base64.StdEncoding.EncodeToString([]byte("\x00"+p.user+"\x00"+password)), "[password]", strings.Trim(strconv.Quote(password), `"`), "[password]", // as errors show what a server said
	)
	var refused *refusal
	if errors.As(err, &refused) {
		return &refusal{hush.Replace(refused.why), refused.contact}
	}
	return errors.New(hush.Replace(err.Error()))
}

func (p *postman) client(ctx context.Context, call *conversation) (*gomail.Client, error) {
	opts := []gomail.Option{
		gomail.WithPort(p.port), gomail.WithTimeout(p.limit + time.Second), gomail.WithTLSConfig(p.tls), gomail.WithoutNoop(), gomail.WithoutRset(),
		gomail.WithDialContextFunc(func(dialing context.Context, _, _ string) (net.Conn, error) { // the library's own address lacks the brackets of IPv6
			return call.open(ctx, dialing, net.JoinHostPort(p.host, strconv.Itoa(p.port)))
		}),
	}
	switch {
	case p.implicit:
		opts = append(opts, gomail.WithSSL())
	case p.auth:
		opts = append(opts, gomail.WithTLSPolicy(gomail.TLSMandatory))
	default:
		opts = append(opts, gomail.WithTLSPolicy(gomail.TLSOpportunistic))
	}
	if p.auth {
		opts = append(opts, gomail.WithUsername(p.user), gomail.WithPassword(string(p.password)),
			gomail.WithOpportunisticSMTPAuth(gomail.SMTPAuthSCRAMSHA256, gomail.SMTPAuthPlain, gomail.SMTPAuthLogin, gomail.SMTPAuthCramMD5))
	}
	return gomail.NewClient(p.host, opts...)
}

// message puts a letter into an envelope. The names of all header fields are constants; values are encoded by the library.
func (p *postman) message(l letter) (*gomail.Msg, error) {
	msg := gomail.NewMsg(gomail.WithNoDefaultUserAgent())
	msg.FromMailAddress(p.from)
	msg.ToMailAddress(l.to)
	if rcpts, err := msg.GetRecipients(); err != nil || len(rcpts) != 1 {
		return nil, errors.New("address mail: need one recipient")
	}
	msg.Subject(l.subject)
	msg.SetDateWithValue(l.date)
	msg.SetMessageIDWithValue(l.id)
	msg.SetGenHeader(gomail.HeaderInReplyTo, "<"+l.thread+">")
	msg.SetGenHeader(gomail.HeaderReferences, "<"+l.thread+">")
	msg.SetGenHeader(gomail.Header("Auto-Submitted"), "auto-generated")
	msg.SetGenHeader(gomail.Header("X-Auto-Response-Suppress"), "All")
	msg.SetBodyString(gomail.TypeTextPlain, l.text)
	msg.AddAlternativeString(gomail.TypeTextHTML, l.html)
	return msg, nil
}

// fault tells refusals from what another try may mend. Only an answer about this mail (sender, recipient or content) refuses it: a
// wrong or missing password (53x), or a server that takes nothing at all, is the operator's to mend, and mails wait for that.
func fault(err error) error {
	var at *gomail.SendError
	if !errors.As(err, &at) {
		return fmt.Errorf("talk to mail server: %w", err)
	}
	why, _, _ := strings.Cut(at.Error(), ", affected ")
	switch at.Reason {
	case gomail.ErrSMTPMailFrom, gomail.ErrSMTPRcptTo, gomail.ErrSMTPData, gomail.ErrSMTPDataClose:
		if code := at.ErrorCode(); code >= 500 && code/10 != 53 {
			return &refusal{why, at.Reason == gomail.ErrSMTPRcptTo}
		}
	default:
	}
	return errors.New(why)
}

// conversation is one connection to the mail server.
type conversation struct {
	*postman
	conn net.Conn
	stop func() bool
}

// open dials. The connection is closed when ctx ends: an end that no deadline of the library can move.
func (c *conversation) open(ctx, dialing context.Context, addr string) (net.Conn, error) {
	conn, err := c.dial(dialing, "tcp", addr)
	if err != nil {
		return nil, err
	}
	c.conn = conn
	c.stop = context.AfterFunc(ctx, func() { _ = conn.Close() })
	if !c.implicit {
		return conn, nil
	}
	secure := tls.Client(conn, c.tls)
	if err := secure.HandshakeContext(dialing); err != nil {
		return nil, fmt.Errorf("secure mail connection: %w", err)
	}
	return secure, nil
}

// hangUp closes the connection if it is still open; the library leaves it open on some errors.
func (c *conversation) hangUp() {
	if c.conn != nil {
		c.stop()
		_ = c.conn.Close()
	}
}
