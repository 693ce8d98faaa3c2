package main

import (
	"cmp"
	"context"
	"log/slog"
	"net"
	"net/mail"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/pulsegate/pulsegate/gateway"
	"github.com/pulsegate/pulsegate/health"
)

// serveCommand runs the gateway.
type serveCommand struct {
	Listen    string `help:"Address of the API." default:"127.0.0.1:8080"`
	OpsListen string `help:"Address of /metrics and of the health checks." default:"127.0.0.1:9090"`
	TLSCert   string `help:"File of the certificate chain of the API, PEM; read again when it changes. Default: plain HTTP." name:"tls-cert" placeholder:"FILE"`
	TLSKey    string `help:"File of the key of --tls-cert, PEM." name:"tls-key" placeholder:"FILE"`
	PublicURL string `help:"URL that people reach the gateway by, for links in mails." name:"public-url" placeholder:"URL"`

	Redis          string `help:"Redis to keep everything in: redis://, rediss://, redis+cluster://h,h or redis+sentinel://h,h/master. Default: a redis-server child, or the in-process store where none is on the PATH." placeholder:"URL"`
	RequireDurable bool   `help:"Do not start on a store that may forget what it confirmed."`
	Durability     string `help:"What a 202 must survive: process (the end of the store's process), disk (loss of power), or replicated (loss of the store's server: what no replica has confirmed is refused with 503). Default: what the store gives." placeholder:"TIER"`
	keyFlags

	HealthWindow      time.Duration `help:"How long the outcome of a delivery counts." default:"2m"`
	HealthMinAttempts int64         `help:"Failures without one acknowledgement that make a bot DOWN." default:"10"`
	Pause             time.Duration `help:"How long DOWN pauses delivery." default:"2m"`
	DeliveryTimeout   time.Duration `help:"Time for one try, from the connection to the answer." default:"5s"`
	InFlight          int           `help:"Deliveries that may be under way at once in this process, of all bots together, though not more than a quarter above the files that it may open." default:"24576"`
	QueueEvents       int64         `help:"Events that may wait for one registration." default:"100000"`
	QueueBytes        int64         `help:"Bytes of events that may wait for one registration." default:"268435456"`
	IngestBytes       int64         `help:"Bytes of request bodies in memory at once; what comes on top is answered 503 with Retry-After." default:"67108864"`
	MaxConnections    int           `help:"Connections to the API at once, though not more than half of the files that this process may open; past that, those are closed that have waited longest for a request." default:"16384"`
	TokenRate         float64       `help:"Requests a second that one token is good for, over all gateways; 0: no limit. More are answered 429 with Retry-After." default:"20000"`
	TokenBurst        int           `help:"Requests that one token is good for at once after a rest. Default: those of two seconds."`
	issuerFlags
	HoldTime time.Duration `help:"How long an event is held for a bot that is DOWN, where its registration holds events and sets no timeToLiveMs." default:"24h"`
	keepFlags
	AllowCallback []string `help:"Private addresses that callbacks may reach, as a CIDR or the word loopback; repeatable." placeholder:"CIDR"`
	CallbackCA    string   `help:"File of PEM certificates that callbacks are trusted by, beside this machine's." name:"callback-ca" placeholder:"FILE"`
	AllowHTTP     bool     `help:"Let callbacks be plain http." name:"allow-http"`

	SMTP     string `help:"Where mails go: smtp[s]://user:pass@host:port. Default: notices are listed and logged only." name:"smtp" placeholder:"URL"`
	MailFrom string `help:"Sender of mails; needed with --smtp." placeholder:"ADDRESS"`

	PlatformURL       string           `help:"Where handoffs and the bots' calls go. Default: the gateway itself keeps control and tags." name:"platform-url" placeholder:"URL"`
	PlatformTokenFile string           `help:"File with the platform's bearer token." placeholder:"FILE"`
	TagIDs            map[string]int64 `help:"The platform's ids of the handoff tags: standard=N,automatic=N,maintenance=N,parent=N." name:"tag-ids" mapsep:"," placeholder:"NAME=N,…"`

	MetricsRegistrations int `help:"Registrations that have series of their own in /metrics: the busiest; the others are summed up as \"other\". At most 2000." default:"200"`

	DrainGrace time.Duration `help:"Time between not being ready and closing the listeners, when stopping." default:"500ms"`
	Try        bool          `help:"Print an admin token of the company demo, and three curl lines to try."`
}

// Validate refuses settings that cannot be kept or contradict each other, before anything is opened.
func (c serveCommand) Validate() error {
	for _, check := range []func() error{c.checkAddresses, c.checkStore, c.checkRules, c.checkCallbacks, c.checkMail, c.checkPlatform, c.issuerFlags.check, c.keepFlags.check} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func (c serveCommand) checkAddresses() error {
	for flag, address := range map[string]string{"--listen": c.Listen, "--ops-listen": c.OpsListen} {
		_, port, err := net.SplitHostPort(address)
		if n, bad := strconv.Atoi(port); err != nil || bad != nil || n < 0 || n > 65535 {
			return wrongSetting("%s %s: write HOST:PORT, as in 127.0.0.1:8080", flag, address)
		}
	}
	if (c.TLSCert == "") != (c.TLSKey == "") {
		return wrongSetting("--tls-cert and --tls-key: need each other")
	}
	if c.Listen == c.OpsListen && !strings.HasSuffix(c.Listen, ":0") {
		return wrongSetting("--ops-listen %s: must differ from --listen", c.OpsListen)
	}
	return checkURL("--public-url", c.PublicURL)
}

func (c serveCommand) checkStore() error {
	switch tier(c.Durability) {
	case "", tierProcess, tierDisk, tierReplicated:
	default:
		return wrongSetting("--durability %s: must be process, disk or replicated", c.Durability)
	}
	if c.Redis == "" {
		return nil
	}
	_, err := redisOptions(c.Redis)
	return err
}

func (c serveCommand) checkRules() error {
	rules := c.rules()
	switch {
	case c.HealthMinAttempts < 1:
		return wrongSetting("--health-min-attempts %d: must be at least 1", c.HealthMinAttempts)
	case c.HealthWindow <= 0 || c.Pause <= 0:
		return wrongSetting("--health-window and --pause: must be positive")
	case c.DeliveryTimeout < 500*time.Millisecond || c.DeliveryTimeout > 30*time.Second:
		return wrongSetting("--delivery-timeout %v: must be from 500ms to 30s", c.DeliveryTimeout)
	case c.QueueEvents < 1 || c.QueueBytes < 256<<10:
		return wrongSetting("--queue-events must be at least 1, --queue-bytes at least 262144, which is one event")
	case c.IngestBytes < 8<<20:
		return wrongSetting("--ingest-bytes %d: must be at least 8388608, which is one body", c.IngestBytes)
	case c.InFlight < 16 || c.InFlight > 1_000_000:
		return wrongSetting("--in-flight %d: must be from 16 to 1000000", c.InFlight)
	case c.MaxConnections < 16 || c.MaxConnections > 1_000_000:
		return wrongSetting("--max-connections %d: must be from 16 to 1000000", c.MaxConnections)
	case c.TokenRate < 0 || c.TokenRate > 1e9 || c.TokenRate > 0 && c.TokenRate < 0.001:
		return wrongSetting("--token-rate %v: must be from 0.001 to 1000000000, or 0", c.TokenRate)
	case c.TokenBurst < 0 || c.TokenBurst > 1e9:
		return wrongSetting("--token-burst %d: must be from 1 to 1000000000", c.TokenBurst)
	case c.HoldTime < time.Second || c.HoldTime > 31*24*time.Hour:
		return wrongSetting("--hold-time %v: must be from 1s to 744h", c.HoldTime)
	case c.MetricsRegistrations < 0 || c.MetricsRegistrations > 2000:
		return wrongSetting("--metrics-registrations %d: must be from 0 to 2000", c.MetricsRegistrations)
	case c.DrainGrace < 0 || c.DrainGrace > time.Minute:
		return wrongSetting("--drain-grace %v: must be from 0s to 1m", c.DrainGrace)
	}
	if err := rules.Validate(); err != nil {
		return wrongSetting("%v", err)
	}
	return nil
}

func (c serveCommand) checkCallbacks() error {
	if _, err := c.allowed(); err != nil {
		return err
	}
	_, err := c.callbackCA()
	return err
}

// callbackCA reads the certificates that callbacks are trusted by; empty when there is no file.
func (c serveCommand) callbackCA() (string, error) {
	if c.CallbackCA == "" {
		return "", nil
	}
	text, err := os.ReadFile(c.CallbackCA)
	if err != nil {
		return "", wrongSetting("--callback-ca: %v", err)
	}
	if len(text) == 0 {
		return "", wrongSetting("--callback-ca %s: is empty", c.CallbackCA)
	}
	if problem := delivery.CertificateProblem(string(text)); problem != "" {
		return "", wrongSetting("--callback-ca %s: %s", c.CallbackCA, problem)
	}
	return string(text), nil
}

func (c serveCommand) checkMail() error {
	if c.SMTP == "" {
		if c.MailFrom != "" {
			return wrongSetting("--mail-from: only with --smtp")
		}
		return nil
	}
	u, err := url.Parse(c.SMTP)
	if err != nil || u.Scheme != "smtp" && u.Scheme != "smtps" || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" {
		return wrongSetting("--smtp: write smtp://user:pass@host:port or smtps://user:pass@host:port")
	}
	if c.MailFrom == "" {
		return wrongSetting("--smtp: needs --mail-from")
	}
	if _, err := mail.ParseAddress(c.MailFrom); err != nil {
		return wrongSetting("--mail-from %s: is not a mail address", c.MailFrom)
	}
	return nil
}

func (c serveCommand) checkPlatform() error {
	if c.PlatformURL == "" && (c.PlatformTokenFile != "" || len(c.TagIDs) > 0) {
		return wrongSetting("--platform-token-file and --tag-ids: only with --platform-url")
	}
	for name, id := range c.TagIDs {
		switch name {
		case "standard", "automatic", "maintenance", "parent":
		default:
			return wrongSetting("--tag-ids %s: the names are standard, automatic, maintenance and parent", name)
		}
		if id <= 0 {
			return wrongSetting("--tag-ids %s=%d: must be positive", name, id)
		}
	}
	return checkURL("--platform-url", c.PlatformURL)
}

// checkURL refuses what is not an http or https URL; an empty one is fine. The text of an error does not hold the URL.
func checkURL(flag, text string) error {
	if text == "" {
		return nil
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return wrongSetting("%s: write http[s]://host[:port][/path], without user, query and fragment", flag)
	}
	return nil
}

// rules are the settings of judging.
func (c serveCommand) rules() health.Rules {
	return health.Rules{Window: c.HealthWindow, MinAttempts: c.HealthMinAttempts, Pause: c.Pause}
}

// allowed are the address ranges that callbacks may reach beside the public ones.
func (c serveCommand) allowed() ([]netip.Prefix, error) {
	var list []netip.Prefix
	for _, text := range c.AllowCallback {
		if text == "loopback" {
			list = append(list, netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128"))
			continue
		}
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, wrongSetting("--allow-callback %s: write a CIDR as in 10.1.0.0/16, or loopback", text)
		}
		list = append(list, prefix.Masked())
	}
	return list, nil
}

// platformToken reads the platform's token; empty when there is no file.
func (c serveCommand) platformToken() (string, error) {
	if c.PlatformTokenFile == "" {
		return "", nil
	}
	text, err := os.ReadFile(c.PlatformTokenFile)
	if err != nil {
		return "", wrongSetting("--platform-token-file: %v", err)
	}
	token := strings.TrimSpace(string(text))
	if token == "" || strings.ContainsAny(token, " \r\n\t") {
		return "", wrongSetting("--platform-token-file %s: must hold one token", c.PlatformTokenFile)
	}
	return token, nil
}

// Run serves until a signal ends it.
func (c serveCommand) Run(s streams, log *slog.Logger) error {
	defer keepMemory()()
	ctx, release := untilSignal()
	defer release()
	i, err := c.build(ctx, s, log)
	if err != nil {
		return err
	}
	return i.run(ctx, func() {
		i.announce(s.out)
		if c.Try {
			c.printTry(s.out, i)
		}
	})
}

// build opens the keys and the store, and assembles the gateway on them.
func (c serveCommand) build(ctx context.Context, s streams, log *slog.Logger) (*instance, error) {
	keys, err := openKeys(c.path())
	if err != nil {
		return nil, err
	}
	if keys.exposed {
		log.Warn("others than its owner may read the key file: chmod 600 it", "file", c.path())
	}
	store, err := openStore(ctx, storeConfig{url: c.Redis, data: c.Data, requireDurable: c.RequireDurable, durability: tier(c.Durability), banner: s.err, log: log})
	if err != nil {
		return nil, err
	}
	return assemble(assembly{serveCommand: c, keys: keys, file: c.path(), store: store, name: openLineage(c.Data, log), log: log})
}

// connections is how many connections to the API there may be.
func (c serveCommand) connections() int {
	limit := cmp.Or(c.MaxConnections, 16384)
	if files := openFiles(); files > 0 {
		limit = min(limit, max(16, files/2))
	}
	return limit
}

// inFlight is how many deliveries may be under way at once: so many that those of slow bots, which are half at most, leave some of the files to others.
func (c serveCommand) inFlight() int {
	if files := openFiles(); files > 0 {
		return min(c.InFlight, max(16, files+files/4))
	}
	return c.InFlight
}

// certificate is that of the API; nil: it is plain HTTP.
func (c serveCommand) certificate(log *slog.Logger) (*gateway.Certificate, error) {
	if c.TLSCert == "" {
		return nil, nil
	}
	certificate, err := gateway.NewCertificate(c.TLSCert, c.TLSKey, log)
	if err != nil {
		return nil, wrongSetting("--tls-cert, --tls-key: %v", err)
	}
	return certificate, nil
}

// listenLine begins the first line that a gateway without a certificate prints; the address of its API follows.
const listenLine = "pulsegate listens on http://"

// operationsLine begins the second; the address of its operations listener follows.
const operationsLine = "operations on http://"
