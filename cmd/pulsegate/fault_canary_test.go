package main_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	main "github.com/pulsegate/pulsegate/cmd/pulsegate"
	"github.com/pulsegate/pulsegate/cmd/rig"
)

// canaries are texts that must stay where they belong, by what they are.
type canaries struct {
	mu    sync.Mutex
	texts map[string]string
}

// mark adds a text.
func (c *canaries) mark(what, text string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.texts[what] = text
	return text
}

// spellings are all ways to write a text that a careless program might use.
func spellings(text string) map[string]string {
	all := map[string]string{
		"as it is": text, "hex": hex.EncodeToString([]byte(text)), "HEX": strings.ToUpper(hex.EncodeToString([]byte(text))),
		"in a query": url.QueryEscape(text), "in a path": url.PathEscape(text), "backwards": backwards(text),
	}
	quoted, _ := json.Marshal(text) // a text can always be written
	all["in JSON"] = strings.Trim(string(quoted), `"`)
	for shift := range 3 { // base64 of something that holds it, "identity:secret" for one
		for name, enc := range map[string]*base64.Encoding{"base64": base64.RawStdEncoding, "base64 for URLs": base64.RawURLEncoding} {
			full := enc.EncodeToString([]byte(strings.Repeat("x", shift) + text + "xx"))
			all[fmt.Sprint(name, " at ", shift)] = full[[]int{0, 2, 3}[shift] : len(full)-4]
		}
	}
	return all
}

func backwards(text string) string {
	b := []byte(text)
	for i, j := 0, len(b)-1; i < j; i, j = i+1, j-1 {
		b[i], b[j] = b[j], b[i]
	}
	return string(b)
}

// absent requires that no canary sings in what came out of somewhere, but those that may.
func (c *canaries) absent(t testing.TB, where string, out []byte, may ...string) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for what, text := range c.texts {
		if strings.HasPrefix(what, "payload") && strings.Contains(strings.Join(may, " "), "payload") || strings.Contains(strings.Join(may, " "), strings.TrimPrefix(what, "signature of the ")) {
			continue
		}
		for how, spelling := range spellings(text) {
			if at := bytes.Index(out, []byte(spelling)); at >= 0 {
				t.Errorf("%s holds the %s %s: …%q…", where, what, how, out[max(0, at-60):min(len(out), at+len(spelling)+20)])
			}
		}
	}
}

// canaryMail is a mail server that wants a password, over TLS, and keeps what it is told.
type canaryMail struct {
	mu       sync.Mutex
	password string
	refuse   bool // the password, and says so with it
	mails    bytes.Buffer
	count    int
}

func (m *canaryMail) NewSession(*smtp.Conn) (smtp.Session, error) { return &canarySession{m}, nil }

type canarySession struct{ *canaryMail }

func (*canarySession) AuthMechanisms() []string { return []string{sasl.Plain} }

func (s *canarySession) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, _, password string) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.refuse || password != s.password {
			return &smtp.SMTPError{Code: 535, Message: "not with the password " + password}
		}
		return nil
	}), nil
}
func (*canarySession) Mail(string, *smtp.MailOptions) error { return nil }
func (*canarySession) Rcpt(string, *smtp.RcptOptions) error { return nil }
func (*canarySession) Reset()                               {}
func (*canarySession) Logout() error                        { return nil }

func (s *canarySession) Data(r io.Reader) error {
	text, err := io.ReadAll(r)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mails.Write(text)
	s.count++
	return err
}

func (m *canaryMail) sent() (int, []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.count, bytes.Clone(m.mails.Bytes())
}

func (m *canaryMail) refuses(yes bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refuse = yes
}

// open serves it, trusted by what is started from now on, and returns its address.
func (m *canaryMail) open(t *testing.T) string {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	about := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true,
		BasicConstraintsValid: true, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, about, about, &key.PublicKey, key)
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	t.Setenv("SSL_CERT_FILE", file)
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}})
	require.NoError(t, err)
	server := smtp.NewServer(m)
	server.Domain, server.AllowInsecureAuth = "localhost", true
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close(); <-served })
	return listener.Addr().String()
}

// echo is a server that answers with all that it was told, credentials first.
func echo(t testing.TB, status func() int) *httptest.Server {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		auth := r.Header.Get("Authorization")
		_, password, _ := r.BasicAuth()
		w.Header().Set("X-Echo", auth+" "+url.QueryEscape(password))
		w.WriteHeader(status())
		_ = json.NewEncoder(w).Encode(map[string]any{"error": map[string]any{"messages": []string{
			"I was told " + auth + " " + password + " " + r.Header.Get("Webhook-Signature"), string(body),
		}}})
	}))
	t.Cleanup(server.Close)
	return server
}

// canaryRun is a gateway with everything around it, and a mark on each secret.
type canaryRun struct {
	canaries
	t       *testing.T
	redis   *rig.Server
	client  *redis.Client
	mail    *canaryMail
	gateway *gatewayProcess
	data    string
	status  int        // of bots and platform
	wire    sync.Mutex // guards status
	seen    int        // answers that were looked at
}

func (c *canaryRun) answer() int {
	c.wire.Lock()
	defer c.wire.Unlock()
	return c.status
}

func (c *canaryRun) answers(status int) {
	c.wire.Lock()
	defer c.wire.Unlock()
	c.status = status
}

// secrets marks everything that is there before the gateway starts, and starts it.
func startCanaryRun(t *testing.T) *canaryRun {
	c := &canaryRun{canaries: canaries{texts: map[string]string{}}, t: t, data: t.TempDir(), status: http.StatusAccepted}
	c.redis = rig.StartServer(t, rig.ServerConfig{Args: append(rig.AppendAlways(), "--rdbcompression", "no")})
	password := c.mark("password of Redis", "redis-canary-8s7df6g")
	require.NoError(t, c.redis.Client().ConfigSet(t.Context(), "requirepass", password).Err())
	c.client = redis.NewClient(&redis.Options{Addr: c.redis.Addr, Password: password})
	t.Cleanup(func() { _ = c.client.Close() })
	c.mail = &canaryMail{password: c.mark("password of the mail server", "smtp-canary:/+ 1")}
	platform := echo(t, c.answer)
	tokenFile := filepath.Join(t.TempDir(), "platform.token")
	require.NoError(t, os.WriteFile(tokenFile, []byte(c.mark("token of the platform", "platform-canary-k2j3h4")), 0o600))
	c.gateway = startGateway(t, c.data, "--log-level", "debug", "--redis", "redis://:"+password+"@"+c.redis.Addr, "--health-window", "3s",
		"--health-min-attempts", "2", "--pause", "1s", "--smtp", "smtps://"+url.UserPassword("gate", c.mail.password).String()+"@"+c.mail.open(t), "--mail-from", "gate@example.net",
		"--platform-url", platform.URL, "--platform-token-file", tokenFile, "--tag-ids", "standard=1,automatic=2,maintenance=3,parent=4")
	c.markToken("admin's token", c.gateway.token)
	key, err := os.ReadFile(filepath.Join(c.data, "pulsegate.key"))
	require.NoError(t, err)
	c.mark("line of the key file", strings.TrimSpace(string(key)))
	raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(key)))
	require.NoError(t, err)
	c.mark("secret of the key file", string(raw))
	tokens, sealing, _, err := main.Keys(filepath.Join(c.data, "pulsegate.key"))
	require.NoError(t, err)
	c.mark("signing key", string(tokens))
	c.mark("sealing key", string(sealing))
	return c
}

// markToken marks a token and its signature.
func (c *canaryRun) markToken(what, token string) {
	c.mark(what, token)
	c.mark("signature of the "+what, token[strings.LastIndexByte(token, '.')+1:])
}

// ask makes a call and looks at the whole answer, whose body may hold what is named.
func (c *canaryRun) ask(method, path, auth, body string, may ...string) (int, string) {
	c.t.Helper()
	request, err := http.NewRequestWithContext(c.t.Context(), method, c.gateway.api+path, strings.NewReader(body))
	require.NoError(c.t, err)
	if auth != "" {
		request.Header.Set("Authorization", auth)
	}
	answer, err := newPoster(c.t).client.Do(request)
	require.NoError(c.t, err)
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(answer.Body)
	require.NoError(c.t, err)
	var header bytes.Buffer
	require.NoError(c.t, answer.Header.Write(&header))
	c.absent(c.t, "answer to "+method+" "+path, append(header.Bytes(), text...), may...)
	c.seen++
	return answer.StatusCode, string(text)
}

func (c *canaryRun) admin() string { return "Bearer " + c.gateway.token }

// TestE14SecretsStayWhereTheyBelong leads marked secrets through everything that a gateway does, with bots, a platform and a mail server that
// send back what they were told. Then it looks for the marks in everything that came out.
func TestE14SecretsStayWhereTheyBelong(t *testing.T) {
	c := startCanaryRun(t)
	c.register()
	c.mail.refuses(true)
	c.deliver()
	c.issueTokens()
	c.blunder()
	c.look()
	dumps := c.dump()
	c.loseStore()
	require.NoError(t, c.gateway.command.Process.Signal(syscall.SIGQUIT)) // every goroutine's stack
	var exit error
	select {
	case exit = <-c.gateway.ended:
	case <-time.After(20 * time.Second):
	}
	require.Error(t, exit)
	log := c.gateway.errs.Bytes()
	require.Contains(t, string(log), "goroutine ")
	c.absent(t, "log", log)
	mails, text := c.mail.sent()
	require.Positive(t, mails)
	c.absent(t, "mails", text)
	measured(t, "%d secrets in %d spellings each: 0 hits in %d answers, %d mails, the log at level debug with every goroutine's stack (%d KiB), metrics, and %d KiB of RDB and append-only files",
		len(c.texts), len(spellings("x")), c.seen, mails, len(log)>>10, dumps>>10)
}

// register writes registrations with secrets of every kind.
func (c *canaryRun) register() {
	basic := c.mark("secret for Basic", `basic-canary:"é/+&= 1`)
	hmac := c.mark("secret for signatures", "hmac-canary-0123456789abcdef")
	whsec := c.mark("secret of Standard Webhooks", "whsec_"+base64.StdEncoding.EncodeToString([]byte("standard-canary-0123456789")))
	c.mark("bytes of that secret", "standard-canary-0123456789")
	bot := echo(c.t, c.answer)
	query := c.mark("secret of a callback URL", "url-canary-5f6g7h")
	for app, credentials := range map[string]map[string]any{
		"basic-bot": {"type": "BASIC_AUTH", "identity": "gw", "secret": basic}, "hmac-bot": {"type": "HMAC", "secret": hmac}, "sw-bot": {"type": "HMAC", "secret": whsec},
	} {
		body, err := json.Marshal(map[string]any{
			"companyKey": "demo", "networkKey": "chat", "externalId": app, "appId": app, "name": app, "callbackUrl": bot.URL + "/hook?key=" + query,
			"contact": map[string]any{"email": "owner@example.net"}, "credentials": credentials,
		})
		require.NoError(c.t, err)
		status, text := c.ask(http.MethodPut, "/bots/v3/registrations", c.admin(), string(body))
		require.Equal(c.t, http.StatusAccepted, status, text)
	}
	changed, err := json.Marshal(map[string]any{
		"networkKey": "chat", "externalId": "hmac-bot", "appId": "hmac-bot", "callbackUrl": bot.URL + "/hook?key=" + query,
		"contact": map[string]any{"email": "owner@example.net"}, "credentials": map[string]any{"type": "HMAC", "secret": c.mark("new secret for signatures", "hmac-canary-new-9876543210")},
	})
	require.NoError(c.t, err)
	status, text := c.ask(http.MethodPut, "/bots/v3/registrations", c.admin(), string(changed))
	require.Equal(c.t, http.StatusAccepted, status, text)
}

// event is a message with a marked text.
func (c *canaryRun) event(app, author string) string {
	return fmt.Sprintf(`{"type":"message","text":%q,"author":{"id":%q},"coordinate":{"companyKey":"demo","networkKey":"chat","externalId":%q,"messageId":"m","scope":"PRIVATE"}}`,
		c.mark("payload", "payload-canary: the customer's words"), author, app)
}

// deliver has events delivered, fail, make bots DOWN, be handed off, and be delivered again.
func (c *canaryRun) deliver() {
	apps := []string{"basic-bot", "hmac-bot", "sw-bot"}
	for i, status := range []int{http.StatusAccepted, http.StatusInternalServerError, http.StatusUnauthorized, http.StatusForbidden} {
		c.answers(status)
		for _, app := range apps {
			for n := range 4 {
				got, text := c.ask(http.MethodPost, "/bots/v3/events", c.admin(), c.event(app, fmt.Sprint("author ", i, n)))
				require.Equal(c.t, http.StatusAccepted, got, text)
			}
		}
	}
	for _, app := range apps {
		eventually(c.t, func() bool {
			_, text := c.ask(http.MethodGet, "/bots/v3/health/appId/"+app, c.admin(), "")
			return strings.Contains(text, `"DOWN"`)
		}, app+" to be DOWN")
	}
	_, text := c.ask(http.MethodGet, "/bots/v3/request/appId/basic-bot?state=ERROR&origin=KHOROS", c.admin(), "", "payload", "secret of a callback URL")
	var list struct{ Data []struct{ ID, Fate string } }
	require.NoError(c.t, json.Unmarshal([]byte(text), &list))
	for _, r := range list.Data[:2] {
		c.ask(http.MethodPost, "/bots/v3/request/"+r.ID+"/redeliver", c.admin(), "")
	}
	eventually(c.t, func() bool {
		_, text := c.ask(http.MethodGet, "/bots/v3/notices", c.admin(), "")
		return strings.Contains(text, "SMTP AUTH")
	}, "a refused mail")
	c.mail.refuses(false)
	c.answers(http.StatusAccepted)
	eventually(c.t, func() bool { n, _ := c.mail.sent(); return n > 0 }, "a mail")
}

// issueTokens makes, refreshes and revokes a bot's token as an administrator.
func (c *canaryRun) issueTokens() {
	password := c.mark("password of an administrator", "admin-canary/+ 4k5j6h")
	file := filepath.Join(c.t.TempDir(), "password")
	require.NoError(c.t, os.WriteFile(file, []byte(password+"\n"), 0o600))
	status, out, errs := run("admin", "add", "root", "--company", "demo", "--password-file", file, "--redis", "redis://:"+c.texts["password of Redis"]+"@"+c.redis.Addr)
	require.Zero(c.t, status, errs)
	c.absent(c.t, "admin add", []byte(out+errs))
	basic := "Basic " + base64.StdEncoding.EncodeToString([]byte("root:"+password))
	tokenOf := func(text string) string {
		var answer struct{ Data struct{ Token string } }
		require.NoError(c.t, json.Unmarshal([]byte(text), &answer), text)
		require.NotEmpty(c.t, answer.Data.Token, text)
		return answer.Data.Token
	}
	const owner = "/api/v2/tokens/khorosapi/ownerId/basic-bot"
	_, text := c.ask(http.MethodPost, owner, basic, "")
	first := tokenOf(text)
	c.markToken("bot's token", first)
	c.ask(http.MethodPost, owner, basic, "", "bot's token")
	c.ask(http.MethodGet, owner, basic, "", "bot's token")
	_, text = c.ask(http.MethodPut, "/bots/v3/tokens/appId/basic-bot", "Bearer "+first, "")
	second := tokenOf(text)
	c.markToken("refreshed token", second)
	for _, path := range []string{"/bots/v3/tag", "/bots/v3/note", "/bots/v3/control", "/bots/v3/authors/attributes"} {
		for _, status := range []int{http.StatusOK, http.StatusBadRequest, http.StatusServiceUnavailable} {
			c.answers(status)
			c.ask(http.MethodPut, path, "Bearer "+second, `{"note":"payload-canary: the customer's words","owner":{"type":"AGENT"},"author":{"id":"a"},"coordinate":{"networkKey":"chat","externalId":"basic-bot"}}`, "payload")
		}
	}
	c.ask(http.MethodDelete, "/bots/v3/tokens/appId/basic-bot", "Bearer "+second, "")
	c.ask(http.MethodPost, owner, "Basic "+base64.StdEncoding.EncodeToString([]byte("root:wrong"+password)), "")
}

// blunder makes calls that are wrong, with marks in every place.
func (c *canaryRun) blunder() {
	garbage := c.mark("token that is none", "eyJhbGciOiJIUzUxMiJ9.garbage-canary.sig")
	secret := c.texts["secret for Basic"]
	quoted, err := json.Marshal(secret)
	require.NoError(c.t, err)
	for _, x := range [][4]string{
		{"GET", "/bots/v3/registrations", "Bearer " + garbage, ""},
		{"GET", "/bots/v3/registrations?token=" + garbage, "", ""},
		{"GET", "/bots/v3/nowhere?token=" + c.gateway.token, c.admin(), ""},
		{"GET", "/bots/v3/health/appId/x?limit=" + garbage + "&from=" + garbage, c.admin(), ""},
		{"GET", "/bots/v3/notices?limit=" + garbage, c.admin(), ""},
		{"POST", "/bots/v3/registrations", c.admin(), `{"credentials":{"type":"BASIC_AUTH","secret":` + string(quoted)},
		{"POST", "/bots/v3/registrations", c.admin(), `{"credentials":{"type":` + string(quoted) + `,"secret":[` + string(quoted) + `]}}`},
		{"POST", "/bots/v3/registrations", c.admin(), `{"networkKey":"chat","externalId":"e","appId":"a","callbackUrl":"https://u:` + garbage + `@bot.example/","credentials":{"type":"HMAC","secret":` + string(quoted) + `}}`},
		{"POST", "/bots/v3/registrations", c.admin(), `{"networkKey":"chat","externalId":"e","appId":"a","callbackUrl":"http://[` + garbage + `/","credentials":{"type":"HMAC","secret":"` + strings.Repeat("z", 5000) + garbage + `"}}`},
		{"POST", "/bots/v3/events", c.admin(), `{"type":"message","text":"payload-canary: the customer's words"`},
		{"POST", "/bots/v3/events", c.admin(), `{"type":"message","text":"payload-canary: the customer's words","coordinate":{"companyKey":1}}`},
		{"PUT", "/bots/v3/respond", c.admin(), `{"text":"payload-canary: the customer's words"}`},
	} {
		status, text := c.ask(x[0], x[1], x[2], x[3])
		require.GreaterOrEqual(c.t, status, 400, text)
	}
}

// look reads everything that can be read.
func (c *canaryRun) look() {
	for _, path := range []string{
		"/bots/v3/registrations", "/bots/v3/registrations/network/chat/externalId/basic-bot", "/bots/v3/registrations/network/chat/externalId/hmac-bot/appId/hmac-bot",
		"/bots/v3/request/appId/basic-bot", "/bots/v3/request/appId/hmac-bot", "/bots/v3/request/appId/sw-bot",
		"/bots/v3/handoffs", "/bots/v3/notices", "/bots/v3/audit", "/bots/v3/health/appId/basic-bot", "/bots/v3/control/network/chat/externalId/basic-bot/author/a", "/readyz", "/healthz",
	} {
		may := []string{}
		if strings.Contains(path, "/registrations") || strings.Contains(path, "/request/") { // as its owner wrote it, and records of failures
			may = append(may, "secret of a callback URL")
		}
		if strings.Contains(path, "/request/") {
			may = append(may, "payload")
		}
		status, text := c.ask(http.MethodGet, path, c.admin(), "", may...)
		require.Equal(c.t, http.StatusOK, status, text)
	}
	_, metrics := c.gateway.get(c.gateway.ops + "/metrics")
	require.Contains(c.t, metrics, "pulsegate_")
	c.absent(c.t, "metrics", []byte(metrics))
	at := []string{"--redis", "redis://:" + c.texts["password of Redis"] + "@" + c.redis.Addr}
	for _, args := range [][]string{{"verify"}, {"verify", "--json"}, {"keys", "list", "--data", c.data}, {"admin", "list"}} {
		_, out, errs := run(append(args, at...)...)
		require.NotEmpty(c.t, out, errs)
		c.absent(c.t, strings.Join(args, " "), []byte(out+errs))
	}
	at[1] = "redis://:" + c.mark("wrong password of Redis", "redis-canary-wrong") + "@" + c.redis.Addr
	_, out, errs := run(append([]string{"verify"}, at...)...)
	c.absent(c.t, "verify without a good password", []byte(out+errs))
}

// dump looks into the files of Redis, where payloads and addresses lie as they came, and into the gateway's own, but for the key file. It returns
// how many bytes that were.
func (c *canaryRun) dump() (size int) {
	require.NoError(c.t, c.client.Save(c.t.Context()).Err())
	for _, dir := range []string{c.redis.Dir, c.data} {
		require.NoError(c.t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || strings.HasSuffix(path, ".key") {
				return err
			}
			text, err := os.ReadFile(path)
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			size += len(text)
			c.absent(c.t, path, text, "payload", "secret of a callback URL")
			return err
		}))
	}
	require.Greater(c.t, size, 4096)
	return size
}

// loseStore takes the store away and makes calls that fail for it.
func (c *canaryRun) loseStore() {
	_ = c.client.ShutdownNoSave(c.t.Context()).Err()
	eventually(c.t, func() bool {
		status, _ := c.ask(http.MethodPost, "/bots/v3/events", c.admin(), c.event("basic-bot", "late"))
		return status == http.StatusServiceUnavailable
	}, "the gateway to notice")
	c.ask(http.MethodGet, "/bots/v3/health/appId/basic-bot", c.admin(), "")
	c.ask(http.MethodPut, "/bots/v3/tokens/appId/basic-bot", c.admin(), "")
	c.ask(http.MethodGet, "/readyz", "", "")
}
