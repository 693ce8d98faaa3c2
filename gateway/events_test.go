package gateway_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/pulsegate/pulsegate/gateway"
)

// receipts are the rows of an answer to events.
type receipts struct {
	Data []struct {
		ID, Fate, Error string
		Retryable       *bool
	}
	Error struct{ Messages []string }
}

// post hands a body in and returns the status and the rows.
func (s *stage) post(t testing.TB, body string, header ...string) (int, receipts) {
	t.Helper()
	res := s.do(t, s.as(t, gateway.ScopeSource, "acme"), http.MethodPost, "/bots/v3/events", body, header...)
	var rows receipts
	require.NoError(t, json.Unmarshal(res.Body.Bytes(), &rows))
	return res.Code, rows
}

// message is a good event of an author, with text put in as it is.
func message(author, text string) string {
	return `{"type":"message", "text":` + text + `,"coordinate":{"companyKey":"acme","networkKey":"sms","externalId":"e"},"author":{"id":"` +
		author + `"}}`
}

func TestEventsArePassedOnByteForByte(t *testing.T) {
	odd := []string{
		`"\u0041\ud83d\ude00 \/ <&>"`, `1.0000000000000000000000001`, `123456789012345678901234567890`, `1e400`, `"\u2028 "`,
		`{ "z" : 1 ,"a":	[ ] }`, `"` + strings.Repeat("é", 1000) + `"`, `{"__proto__":{"x":null}}`, `"\u0000"`, `{"a":1,"A":2}`,
	}
	for _, form := range []string{"one", "array", "lines", "looking"} {
		s := newStage(t)
		s.register(t, "acme/own", "LIVE")
		events := make([]string, len(odd))
		for i, text := range odd {
			events[i] = message(fmt.Sprint(i), text)
		}
		switch form {
		case "one":
			for _, e := range events {
				status, _ := s.post(t, "\n "+e+" \r\n")
				require.Equal(t, http.StatusAccepted, status, e)
			}
		case "array":
			status, _ := s.post(t, " [ "+strings.Join(events, "\n,\t")+"\n]\n")
			require.Equal(t, http.StatusAccepted, status)
		case "lines":
			status, _ := s.post(t, strings.Join(events, "\r\n"), "Content-Type", "application/x-ndjson; charset=utf-8")
			require.Equal(t, http.StatusAccepted, status)
		case "looking":
			status, _ := s.post(t, strings.Join(events, "\n\n")+"\n")
			require.Equal(t, http.StatusAccepted, status)
		}
		require.Len(t, s.carrier.bodies, len(events), form)
		for i, e := range events {
			require.Equal(t, e, string(s.carrier.bodies[i]), form)
		}
	}
}

func TestABrokenFirstLineDoesNotSpoilTheOthers(t *testing.T) {
	for _, bad := range []string{`{"a":1,"a":2}`, `{"a":`, `garbage`, `{"type":"message"`} {
		s := newStage(t)
		s.register(t, "acme/own", "LIVE")
		status, rows := s.post(t, bad+"\n"+message("a", "1")+"\r\n"+message("b", "2"))
		require.Equal(t, http.StatusAccepted, status, bad)
		require.Len(t, rows.Data, 3, bad)
		require.Contains(t, rows.Data[0].Error, "not valid JSON", bad)
		require.Equal(t, []string{"queued", "queued"}, []string{rows.Data[1].Fate, rows.Data[2].Fate}, bad)
	}
	s := newStage(t)
	s.register(t, "acme/own", "LIVE")
	status, rows := s.post(t, "{\n  \"type\": \"message\",\n  \"list\": [\n    {\"a\":1}\n  ],,\n}")
	require.Equal(t, http.StatusBadRequest, status)
	require.Len(t, rows.Data, 1, "a lone event that is written over many lines is one")
}

func TestOneBadEventDoesNotSpoilTheOthers(t *testing.T) {
	bad := []string{`{"a":1,"a":2}`, `{"a":"` + "\xff" + `"}`, `7`, `null`, `"text"`, `[]`, strings.Repeat(`{"a":`, 101) + "1" + strings.Repeat("}", 101)}
	for _, b := range bad {
		for form, body := range map[string]string{
			"array": "[" + message("a", "1") + "," + b + "," + message("b", "2") + "]",
			"lines": message("a", "1") + "\n" + b + "\n" + message("b", "2"),
		} {
			s := newStage(t)
			s.register(t, "acme/own", "LIVE")
			status, rows := s.post(t, body)
			require.Equal(t, http.StatusAccepted, status, form)
			require.Len(t, rows.Data, 3)
			require.Equal(t, "queued", rows.Data[0].Fate)
			require.Equal(t, "queued", rows.Data[2].Fate)
			require.NotEmpty(t, rows.Data[1].Error)
			require.False(t, *rows.Data[1].Retryable)
			require.Len(t, s.carrier.bodies, 2)
		}
	}
}

func TestFaultOfAnEventNamesItsPlaceInTheBody(t *testing.T) {
	s := newStage(t)
	s.register(t, "acme/own", "LIVE")
	first := message("a", "1")
	_, rows := s.post(t, "["+first+`,{"k":1,"k":2}]`)
	at := len("["+first+",") + len(`{"k":1,`)
	require.Equal(t, fmt.Sprintf("event is not valid JSON: a key stands twice in one object at byte %d", at), rows.Data[1].Error)
	_, rows = s.post(t, first+"\n"+`{"k":1,"k":2}`)
	require.Equal(t, fmt.Sprintf("event is not valid JSON: a key stands twice in one object at byte %d", at-1), rows.Data[1].Error)
	_, rows = s.post(t, `{"a":"`+"\xc3\x28"+`"}`)
	require.Equal(t, "event is not valid JSON: invalid UTF-8 at byte 6", rows.Data[0].Error)
}

func TestEventsHaveLimits(t *testing.T) {
	s := newStage(t)
	s.register(t, "acme/own", "LIVE")
	fits := message("a", `"`+strings.Repeat("x", 256<<10-len(message("a", `""`)))+`"`)
	require.Len(t, fits, 256<<10)
	status, _ := s.post(t, fits)
	require.Equal(t, http.StatusAccepted, status)
	status, rows := s.post(t, strings.Replace(fits, "xx", "xxx", 1))
	require.Equal(t, http.StatusUnprocessableEntity, status)
	require.Equal(t, "event may not be larger than 256 KiB", rows.Data[0].Error)

	thousand := strings.Repeat(message("a", "1")+",", 999) + message("a", "1")
	status, rows = s.post(t, "["+thousand+"]")
	require.Equal(t, http.StatusAccepted, status)
	require.Len(t, rows.Data, 1000)
	status, _ = s.post(t, "["+thousand+",{}]")
	require.Equal(t, http.StatusRequestEntityTooLarge, status)
	status, _ = s.post(t, strings.Repeat("{}\n", 1001))
	require.Equal(t, http.StatusRequestEntityTooLarge, status)
}

func TestNothingStoredIsNeverAnsweredWith202(t *testing.T) {
	s := newStage(t)
	s.register(t, "acme/own", "LIVE")
	unknown := strings.Replace(message("a", "1"), `"e"`, `"f"`, 1)
	for body, want := range map[string]int{
		"[" + unknown + "," + unknown + "]":        404,
		"[" + unknown + `,{"type":"message"}]`:     422,
		"[" + unknown + `,{"type":"message"},{"a]`: 400,
		"[" + unknown + `,{"type":"message"},7]`:   400,
	} {
		status, rows := s.post(t, body)
		require.Equal(t, want, status, body)
		require.NotEmpty(t, rows.Error.Messages)
	}
	s.carrier.away = true
	res := s.do(t, s.as(t, gateway.ScopeSource, "acme"), http.MethodPost, "/bots/v3/events", "["+message("a", "1")+",7]")
	require.Equal(t, http.StatusServiceUnavailable, res.Code)
	require.Equal(t, "1", res.Header().Get("Retry-After"))
	require.Contains(t, res.Body.String(), `"retryable":true`)
	require.Contains(t, res.Body.String(), `"retryable":false`)
}

func TestIdempotencyKeyOfABatchIsThatOfItsElements(t *testing.T) {
	s := newStage(t)
	s.register(t, "acme/own", "LIVE")
	batch := "[" + message("a", "1") + "," + message("b", "2") + "]"
	_, first := s.post(t, batch, "Idempotency-Key", "k")
	status, again := s.post(t, batch, "Idempotency-Key", "k")
	require.Equal(t, http.StatusAccepted, status)
	require.Equal(t, first, again)
	require.NotEqual(t, first.Data[0].ID, first.Data[1].ID)
	require.Len(t, s.carrier.bodies, 2)
	for _, key := range []string{strings.Repeat("k", 256), "tab\tkey", "ümlaut"} {
		status, _ = s.post(t, batch, "Idempotency-Key", key)
		require.Equal(t, http.StatusBadRequest, status)
	}
}

func FuzzEventSplit(f *testing.F) {
	for _, body := range malformedBodies() {
		f.Add(body, "")
		f.Add(body, "application/x-ndjson")
	}
	f.Add("["+message("a", "1")+",\n"+message("b", "{}")+"]", "application/json")
	f.Add(message("a", "1")+"\n"+message("b", "[]"), "")
	f.Fuzz(func(t *testing.T, body, contentType string) {
		s := newStage(t)
		s.register(t, "acme/own", "LIVE")
		status, rows := s.post(t, body, "Content-Type", contentType)
		if status >= 500 {
			t.Fatalf("answered with %d", status)
		}
		stored := 0
		for _, row := range rows.Data {
			if row.Error == "" {
				stored++
			}
		}
		if (status == http.StatusAccepted) != (stored > 0) || stored != len(s.carrier.bodies) {
			t.Fatalf("answered with %d, rows tell of %d stored events, there are %d", status, stored, len(s.carrier.bodies))
		}
		for _, b := range s.carrier.bodies {
			if !json.Valid(b) || !strings.Contains(body, string(b)) {
				t.Fatalf("event was changed: %q", b)
			}
		}
	})
}

// forgetful is a carrier that gives no receipts, or one with an error that nobody knows.
type forgetful struct {
	gateway.Carrier
	receipts []delivery.Receipt
}

func (f forgetful) Accept(context.Context, string, []delivery.Incoming) []delivery.Receipt {
	return f.receipts
}

func TestEventWithoutAReceiptIsNotAnsweredAsStored(t *testing.T) {
	for _, receipts := range [][]delivery.Receipt{nil, {{Err: errors.New("odd redis.secret.internal")}}} {
		s := newStage(t, func(c *gateway.Config) { c.Carrier = forgetful{Carrier: c.Carrier, receipts: receipts} })
		status, rows := s.post(t, message("a", "1"))
		require.Equal(t, http.StatusInternalServerError, status)
		require.Equal(t, "Internal error", rows.Data[0].Error)
		require.True(t, *rows.Data[0].Retryable)
		require.Contains(t, s.log.String(), "event was not accepted")
	}
}
