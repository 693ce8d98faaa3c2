package main_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/pulsegate/pulsegate/cmd/rig"
)

// storyRedis starts a redis-server with an append-only file, and returns its URL and a client.
func storyRedis(t testing.TB) (string, *redis.Client) {
	t.Helper()
	s := rig.StartServer(t, rig.ServerConfig{Args: rig.AppendOnly()})
	return s.URL, s.Client()
}

// arrival is one request at a bot.
type arrival struct {
	at         time.Time
	path, page string // of the bot, and the event's entity
	id, author string // webhook-id and author
	n, try     int    // number in the text, and Pulsegate-Try
	secret     string // that the gateway proved itself with
	status     int
}

// recorder is a bot that notes what it gets, and answers what it is told to.
type recorder struct {
	url    string
	answer atomic.Pointer[func(arrival, <-chan struct{}) int] // the channel ends with the request; 0: no answer

	mu  sync.Mutex
	got []arrival
}

func startRecorder(t testing.TB, answer func(arrival, <-chan struct{}) int) *recorder {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	b := &recorder{url: "http://" + listener.Addr().String()}
	b.answers(answer)
	s := &http.Server{Handler: b}
	served := make(chan struct{})
	go func() { defer close(served); _ = s.Serve(listener) }()
	t.Cleanup(func() { _ = s.Close(); <-served })
	return b
}

func (b *recorder) answers(f func(arrival, <-chan struct{}) int) { b.answer.Store(&f) }

// ServeHTTP implements http.Handler.
func (b *recorder) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a := arrival{at: time.Now(), path: r.URL.Path, id: r.Header.Get("webhook-id")}
	var event struct {
		Text   string
		Author struct{ ID string }

		Coordinate struct{ ExternalID string }
	}
	_ = json.NewDecoder(r.Body).Decode(&event)
	a.author, a.page = event.Author.ID, event.Coordinate.ExternalID
	a.n, _ = strconv.Atoi(event.Text)
	a.try, _ = strconv.Atoi(r.Header.Get("Pulsegate-Try"))
	_, a.secret, _ = r.BasicAuth()
	a.status = (*b.answer.Load())(a, r.Context().Done())
	b.mu.Lock()
	b.got = append(b.got, a)
	b.mu.Unlock()
	if a.status != 0 {
		w.WriteHeader(a.status)
	}
}

// all returns what has been answered so far, in the order of the answers.
func (b *recorder) all() []arrival {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]arrival(nil), b.got...)
}

// count is how many there are.
func (b *recorder) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.got)
}

// accepts answers 202 to everything.
func accepts(arrival, <-chan struct{}) int { return http.StatusAccepted }

// poster posts events over kept connections.
type poster struct{ client *http.Client }

func newPoster(t testing.TB) *poster {
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	t.Cleanup(transport.CloseIdleConnections)
	return &poster{&http.Client{Timeout: 10 * time.Second, Transport: transport}}
}

// eventOf is the n-th message of an author on a page, with an id of its own so that it may be posted again.
func eventOf(page, author string, n int) string {
	return fmt.Sprintf(`{"type":"message","id":"%s/%s/%d","text":"%d","author":{"id":%q},"coordinate":{"companyKey":"demo","networkKey":"chat","externalId":%q,"messageId":"m-%d","scope":"PRIVATE"}}`,
		page, author, n, n, author, page, n)
}

// answer is what a gateway answered to one event.
type answer struct {
	status   int // 0: nothing
	id, fate string
	text     string
	header   http.Header
}

// post posts one event, and returns the answer's status, the event's id and its fate; status 0 when there was no answer.
func (s *poster) post(p *gatewayProcess, event string) (status int, id, fate string) {
	a := s.ask(p, event)
	return a.status, a.id, a.fate
}

// ask posts one event.
func (s *poster) ask(p *gatewayProcess, event string) answer {
	request, err := http.NewRequest(http.MethodPost, p.api+"/bots/v3/events", strings.NewReader(event))
	if err != nil {
		return answer{text: err.Error()}
	}
	request.Header.Set("Authorization", "Bearer "+p.token)
	request.Header.Set("Content-Type", "application/json")
	response, err := s.client.Do(request)
	if err != nil {
		return answer{text: "no answer"}
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return answer{text: "half an answer"}
	}
	a := answer{status: response.StatusCode, text: string(text), header: response.Header}
	var body struct{ Data []struct{ ID, Fate string } }
	if json.Unmarshal(text, &body) == nil && len(body.Data) == 1 {
		a.id, a.fate = body.Data[0].ID, body.Data[0].Fate
	}
	return a
}

// settled is an event's record: one for each registration that it went to.
type settledRecord struct {
	AppID, State, Fate string
	Tries              int
}

// records reads what became of an event.
func (s *poster) records(t testing.TB, p *gatewayProcess, id string) []settledRecord {
	var answer struct{ Data []settledRecord }
	s.read(t, p, "/bots/v3/events/"+id, &answer)
	return answer.Data
}

// healthAnswer is what matters of an answer on health.
type healthAnswer struct {
	Status                     string
	FailureCount, SuccessCount int
}

// health reads the health of an app's only registration.
func (s *poster) health(t testing.TB, p *gatewayProcess, app string) healthAnswer {
	var answer struct{ Data []healthAnswer }
	s.read(t, p, "/bots/v3/health/appId/"+app, &answer)
	require.Len(t, answer.Data, 1)
	return answer.Data[0]
}

// read reads one page of the API; what cannot be read leaves into as it was.
func (s *poster) read(t testing.TB, p *gatewayProcess, path string, into any) {
	request, err := http.NewRequest(http.MethodGet, p.api+path, nil)
	require.NoError(t, err)
	request.Header.Set("Authorization", "Bearer "+p.token)
	answer, err := s.client.Do(request)
	require.NoError(t, err)
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	if answer.StatusCode == http.StatusOK {
		require.NoError(t, json.Unmarshal(text, into), string(text))
	}
}

// registerBot creates or replaces a registration, and returns the status.
func registerBot(t testing.TB, p *gatewayProcess, page, app, url string, fields map[string]any) int {
	t.Helper()
	body := map[string]any{
		"platform": "LITHIUM", "companyKey": "demo", "networkKey": "chat", "externalId": page, "appId": app, "name": app,
		"callbackUrl": url, "mode": "LIVE", "contact": map[string]any{"email": "owner@example.net"},
		"credentials": map[string]any{"type": "BASIC_AUTH", "identity": "me", "secret": "s3cret"},
	}
	maps.Copy(body, fields)
	text, err := json.Marshal(body)
	require.NoError(t, err)
	status, answer := p.call(t, http.MethodPut, "/bots/v3/registrations", string(text))
	if status != http.StatusAccepted {
		t.Logf("registration of %s: %d %s", app, status, bytes.TrimSpace([]byte(answer)))
	}
	return status
}

// ledger adds up the counters that the store keeps of all registrations: "accepted", each fate, and "waiting".
func ledger(t testing.TB, client *redis.Client) map[string]int {
	t.Helper()
	sums := map[string]int{}
	keys, err := client.Keys(t.Context(), "pg:{*}:st:*").Result()
	require.NoError(t, err)
	for _, key := range keys {
		fields, err := client.HGetAll(t.Context(), key).Result()
		require.NoError(t, err)
		for name, text := range fields {
			fate, ok := strings.CutPrefix(name, "c:")
			if name == "qn" {
				fate, ok = "waiting", true
			}
			if ok {
				n, err := strconv.Atoi(text)
				require.NoError(t, err)
				sums[fate] += n
			}
		}
	}
	return sums
}

// balanced says whether every accepted delivery has its one fate, and none waits.
func balanced(sums map[string]int) bool {
	total := 0
	for name, n := range sums {
		if name != "accepted" {
			total += n
		}
	}
	return total == sums["accepted"] && sums["waiting"] == 0
}
