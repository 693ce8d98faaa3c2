package notify_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/pulsegate/pulsegate/notify"
)

// asked is one call that the platform got.
type asked struct {
	at     time.Time
	method string
	path   string
	token  string
	body   string
	author string
}

// calls notes what a platform is asked and answers as told.
type calls struct {
	mu     sync.Mutex
	all    []asked
	answer func(asked, int) (status int, retryAfter string) // the int counts the calls before
}

func (c *calls) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	a := asked{time.Now(), r.Method, r.URL.Path, r.Header.Get("Authorization"), string(body), ""}
	var parsed struct{ Author struct{ ID string } }
	_ = json.Unmarshal(body, &parsed)
	a.author = parsed.Author.ID
	c.mu.Lock()
	n := len(c.all)
	c.all = append(c.all, a)
	c.mu.Unlock()
	status, retry := http.StatusAccepted, ""
	if c.answer != nil {
		status, retry = c.answer(a, n)
	}
	if status == 0 { // a call that names no status: somebody followed a redirect
		status = http.StatusNotFound
	}
	if retry != "" {
		w.Header().Set("Retry-After", retry)
	}
	if status/100 == 3 {
		w.Header().Set("Location", "http://elsewhere.example.org/")
	}
	w.WriteHeader(status)
}

func (c *calls) paths() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	for _, a := range c.all {
		out = append(out, strings.TrimPrefix(a.path, "/care/bots/v3/"))
	}
	return out
}

func (c *calls) list() []asked {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]asked(nil), c.all...)
}

// tags are the platform's ids.
func tags() map[string]int64 {
	return map[string]int64{"parent": 11, "standard": 12, "automatic": 13, "maintenance": 14}
}

// onPlatform runs a story against a platform.
func onPlatform(t *testing.T, c *calls, tell func(t *testing.T, o *outbox, cfg notify.Config)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		platform, _ := openPlatform(t, c.ServeHTTP)
		o := newOutbox()
		tell(t, o, notify.Config{Outbox: o, Platform: platform, TagIDs: tags()})
	})
}

func handoff() delivery.Handoff {
	return delivery.Handoff{
		HandoffKind: delivery.AutomaticHandoff, AuthorID: "urn:a/9", AuthorName: "Ann Other", MessageID: "m-77", Scope: "PRIVATE",
		Owner: delivery.Owner{Type: delivery.Agent}, Reason: "failed", RequestID: "r-1",
	}
}

func TestHandoffIsTagThenControl(t *testing.T) {
	c := &calls{}
	onPlatform(t, c, func(t *testing.T, o *outbox, cfg notify.Config) {
		start(t, cfg)
		id := o.add(t, delivery.EntryHandoff, acme(), handoff())
		after(time.Second)
		require.Equal(t, delivery.EntryDone, o.entry(id).State)
		require.Equal(t, []string{"tag", "control"}, c.paths())
		tag, control := c.list()[0], c.list()[1]
		require.Equal(t, http.MethodPut, tag.method)
		require.Equal(t, "Bearer t0ken", tag.token)
		coordinate := `{"companyKey":"acme","networkKey":"whatsapp","externalId":"channel-1","botId":"acme-bot","messageId":"m-77","scope":"PRIVATE"}`
		require.JSONEq(t, `{"type":"tag","entityType":"POST","tagIds":[11,13],"author":{"id":"urn:a/9","fullName":"Ann Other"},"coordinate":`+
			coordinate+`}`, tag.body)
		require.JSONEq(t, `{"type":"control","owner":{"type":"AGENT"},"author":{"id":"urn:a/9","fullName":"Ann Other"},"coordinate":`+coordinate+
			`,"comment":"Handed over automatically: a message could not be delivered to the bot.","lastUpdateTS":"`+
			strconv.FormatInt(o.entry(id).At, 10)+`"}`, control.body)
	})
}

func TestControlEntryIsOneCallAndKeepsTheBotsComment(t *testing.T) {
	c := &calls{}
	onPlatform(t, c, func(t *testing.T, o *outbox, cfg notify.Config) {
		start(t, cfg)
		h := delivery.Handoff{AuthorID: "a-9", Owner: delivery.Owner{Type: delivery.Bot, AppID: "other"}, Comment: "yours"}
		o.add(t, delivery.EntryControl, acme(), h)
		after(time.Second)
		require.Equal(t, []string{"control"}, c.paths())
		require.Contains(t, c.list()[0].body, `"owner":{"type":"BOT","appId":"other"}`)
		require.Contains(t, c.list()[0].body, `"comment":"yours"`)
		require.Contains(t, c.list()[0].body, `"scope":"PRIVATE"`)
	})
}

func TestThePlatformGetsWhatABotSentToPassControl(t *testing.T) {
	c := &calls{}
	onPlatform(t, c, func(t *testing.T, o *outbox, cfg notify.Config) {
		start(t, cfg)
		h := delivery.Handoff{AuthorID: "a-9", Owner: delivery.Owner{Type: delivery.Agent}, Comment: "yours", MessageID: "m", Scope: "PUBLIC", Sent: []byte(`{
			"type":"control","owner":{"type":"AGENT","appId":"nobody"},"author":{"id":"a-9","properties":{"vip":1e2}},"conversationDisplayId":"4711","lastUpdatedTS":17,
			"coordinate":{"companyKey":"wrong","networkKey":"sms","externalId":"e","parentId":"p","topLevelId":"t","messageId":"m","scope":"PUBLIC"}}`)}
		o.add(t, delivery.EntryControl, acme(), h)
		after(time.Second)
		require.Equal(t, []string{"control"}, c.paths())
		var got map[string]any
		require.NoError(t, json.Unmarshal([]byte(c.list()[0].body), &got))
		require.NotEmpty(t, got["lastUpdateTS"])
		delete(got, "lastUpdateTS")
		at := acme()
		require.Equal(t, map[string]any{
			"type": "control", "owner": map[string]any{"type": "AGENT"}, "author": map[string]any{"id": "a-9", "properties": map[string]any{"vip": 100.0}},
			"conversationDisplayId": "4711", "comment": "yours", "coordinate": map[string]any{
				"companyKey": at.CompanyKey, "networkKey": at.NetworkKey, "externalId": at.ExternalID, "botId": at.AppID,
				"parentId": "p", "topLevelId": "t", "messageId": "m", "scope": "PUBLIC",
			},
		}, got)
		require.Contains(t, c.list()[0].body, `"vip":1e2`)
	})
}

func TestWithoutTagIDsThereIsNoTagCall(t *testing.T) {
	c := &calls{}
	onPlatform(t, c, func(t *testing.T, o *outbox, cfg notify.Config) {
		cfg.TagIDs = nil
		start(t, cfg)
		o.add(t, delivery.EntryHandoff, acme(), handoff())
		after(time.Second)
		require.Equal(t, []string{"control"}, c.paths())
	})
}

func TestWithoutAPlatformHandoffsAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutbox()
		start(t, notify.Config{Outbox: o})
		id := o.add(t, delivery.EntryHandoff, acme(), handoff())
		after(time.Second)
		require.Equal(t, delivery.EntryKept, o.entry(id).State)
	})
}

// TestEveryStatusOfThePlatform walks them all: one handoff per status, named by its author.
func TestEveryStatusOfThePlatform(t *testing.T) {
	c := &calls{answer: func(a asked, _ int) (int, string) {
		status, _ := strconv.Atoi(a.author)
		return status, ""
	}}
	onPlatform(t, c, func(t *testing.T, o *outbox, cfg notify.Config) {
		cfg.TagIDs = nil
		start(t, cfg)
		for first := 200; first < 600; first += 100 {
			ids := map[int]string{}
			for status := first; status < first+100; status++ {
				ids[status] = o.add(t, delivery.EntryControl, acme(), delivery.Handoff{
					AuthorID: strconv.Itoa(status), Owner: delivery.Owner{Type: delivery.Agent},
				})
			}
			after(700 * time.Millisecond) // before the second try of any
			for status, id := range ids {
				checkStatus(t, status, o.entry(id))
			}
		}
		for _, a := range c.list() {
			require.Equal(t, "/care/bots/v3/control", a.path, "no redirect is followed")
		}
	})
}

func checkStatus(tb testing.TB, status int, e delivery.Entry) {
	tb.Helper()
	require.Equal(tb, 1, e.Tries, status)
	switch {
	case status < 300:
		require.Equal(tb, delivery.EntryDone, e.State, status)
	case status >= 400 && status < 500 && status != 408 && status != 409 && status != 429:
		require.Equal(tb, delivery.EntryRefused, e.State, status)
	default:
		require.Equal(tb, delivery.EntryPending, e.State, status)
		require.InDelta(tb, time.Now().UnixMilli()+300, e.NextTry, 310, status)
	}
}

func TestTagThatWentThroughIsNotRepeated(t *testing.T) {
	c := &calls{answer: func(a asked, n int) (int, string) {
		if strings.HasSuffix(a.path, "/control") && n < 4 {
			return http.StatusConflict, ""
		}
		return http.StatusOK, ""
	}}
	onPlatform(t, c, func(t *testing.T, o *outbox, cfg notify.Config) {
		_, stop := start(t, cfg)
		id := o.add(t, delivery.EntryHandoff, acme(), handoff())
		after(600 * time.Millisecond)
		require.Equal(t, 1, o.entry(id).Step)
		stop()
		start(t, cfg) // another process goes on
		after(time.Minute)
		require.Equal(t, delivery.EntryDone, o.entry(id).State)
		require.Equal(t, []string{"tag", "control", "control", "control", "control"}, c.paths())
	})
}

func TestRefusedTagStillGivesPeopleTheConversation(t *testing.T) {
	c := &calls{answer: func(a asked, n int) (int, string) {
		switch {
		case strings.HasSuffix(a.path, "/tag"):
			return http.StatusBadRequest, ""
		case n < 2:
			return http.StatusBadGateway, ""
		}
		return http.StatusOK, ""
	}}
	onPlatform(t, c, func(t *testing.T, o *outbox, cfg notify.Config) {
		start(t, cfg)
		id := o.add(t, delivery.EntryHandoff, acme(), handoff())
		after(time.Minute)
		require.Equal(t, delivery.EntryRefused, o.entry(id).State)
		require.Contains(t, o.entry(id).LastError, "tag was refused: PUT /bots/v3/tag: status 400")
		require.Equal(t, []string{"tag", "control", "control"}, c.paths())
	})
}

func TestRetryAfterIsHonouredUpToTenMinutes(t *testing.T) {
	for value, want := range map[string]time.Duration{
		"120":                           2 * time.Minute,
		"99999999999":                   10 * time.Minute,
		"Sat, 01 Jan 2000 00:05:00 GMT": 5 * time.Minute, // a bubble's time begins at midnight
		"-5":                            time.Second,
		"soon":                          time.Second,
	} {
		c := &calls{answer: func(_ asked, n int) (int, string) {
			if n == 0 {
				return http.StatusTooManyRequests, value
			}
			return http.StatusOK, ""
		}}
		onPlatform(t, c, func(t *testing.T, o *outbox, cfg notify.Config) {
			cfg.TagIDs = nil
			start(t, cfg)
			o.add(t, delivery.EntryHandoff, acme(), handoff())
			after(time.Hour)
			require.Len(t, c.list(), 2, value)
			require.InDelta(t, want.Seconds(), c.list()[1].at.Sub(c.list()[0].at).Seconds(), 1, value)
		})
	}
}

func TestUnreachablePlatformIsTriedForADayAndHoldsUpNothingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &calls{}
		platform, w := openPlatform(t, c.ServeHTTP)
		w.setCut(true)
		o := newOutbox()
		start(t, notify.Config{Outbox: o, Platform: platform})
		lost := o.add(t, delivery.EntryHandoff, acme(), handoff())
		after(25 * time.Hour)
		require.Equal(t, delivery.EntryGivenUp, o.entry(lost).State)
		require.InDelta(t, 160, w.dialled(), 40)
		require.NotContains(t, o.entry(lost).LastError, "platform.example.org")
		w.setCut(false)
		good := o.add(t, delivery.EntryHandoff, acme(), handoff())
		after(time.Second)
		require.Equal(t, delivery.EntryDone, o.entry(good).State)
	})
}

func TestPlatformThatHangsIsLeftAfterTenSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		platform, _ := openPlatform(t, func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-release:
			case <-r.Context().Done():
			}
		})
		defer close(release)
		began := time.Now()
		_, _, _, err := platform.Pass(t.Context(), http.MethodPut, "/bots/v3/note", nil)
		require.Error(t, err)
		require.Equal(t, 10*time.Second, time.Since(began))
	})
}

func TestPassHandsOverTheCallAndItsAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		platform, _ := openPlatform(t, func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			h := w.Header()
			h.Set("X-Amzn-Requestid", "p-1")
			h.Set("Set-Cookie", "s=1")
			h.Set("Connection", "X-Hop")
			h.Set("X-Hop", "1")
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, r.Method+" "+r.URL.RequestURI()+" "+r.Header.Get("Authorization")+" "+string(body)+strings.Repeat("x", 100_000))
		})
		status, header, answer, err := platform.Pass(t.Context(), http.MethodPost, "/bots/v3/respond?x=1", []byte(`{"a":1}`))
		require.NoError(t, err)
		require.Equal(t, http.StatusForbidden, status)
		require.Equal(t, "p-1", header.Get("X-Amzn-RequestId"))
		for _, gone := range []string{"Set-Cookie", "X-Hop", "Connection", "Content-Length", "Transfer-Encoding"} {
			require.Empty(t, header.Get(gone), gone)
		}
		require.True(t, strings.HasPrefix(string(answer), `POST /care/bots/v3/respond?x=1 Bearer [token] {"a":1}`))
		require.Len(t, answer, 64<<10)
	})
}

func TestPassStaysUnderTheBotsAPI(t *testing.T) {
	platform, err := notify.NewPlatform("https://platform.example.org", "")
	require.NoError(t, err)
	for _, path := range []string{"", "/", "/api/v2/x", "/bots/v3/../../api", "/bots/v3/%2e%2e/%2e%2e/api", "http://x/bots/v3/tag", "@x/bots/v3/", "/bots/v3/%zz"} {
		_, _, _, err := platform.Pass(t.Context(), http.MethodPut, path, nil)
		require.ErrorContains(t, err, "must lie under", path)
	}
}

func TestPlatformSettings(t *testing.T) {
	for _, url := range []string{"", "platform.example.org", "ftp://x", "https://u:p@x", "https://x?y=1", "https://x#y"} {
		_, err := notify.NewPlatform(url, "")
		require.ErrorContains(t, err, "platform URL", url)
	}
	_, err := notify.NewPlatform("https://x", "c4nary\r\nX-Evil: 1")
	require.ErrorContains(t, err, "platform token")
	require.NotContains(t, err.Error(), "c4nary")
}
