package gateway_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulsegate/pulsegate/gateway"
)

var update = flag.Bool("update", false, "write the answers as they are into the transcripts")

// Target is what transcripts are run against: a gateway over any carrier, empty at the start, and tokens of its key.
type Target struct {
	Handler http.Handler
	Tokens  *gateway.Tokens
}

// A transcript is a text file of requests and the answers expected. Lines that begin with "#" are comments.
//
//	> PUT /bots/v3/note          a request: its line, headers, an empty line, the body
//	> Authorization: Bearer {admin:acme}
//	>
//	> {"note":"…"}
//	< 202                        the answer: status, headers that must be there, an empty line, the body
//	< Retry-After: 1
//	<
//	< {"requestId":"*"}
//
// "*" in an answer stands for any value. "{name}" stands for a value that is kept under that name at its first place in an answer and
// stands for the same value from then on, in requests too. {admin:company}, {source:company} and {bot:company/app} are tokens.
// Content type and request id are checked in every answer without being written down.

// exchange is one request and its answer, as lines without their marks.
type exchange struct{ before, request, answer []string }

// RunTranscript runs the transcript in file against target.
func RunTranscript(t *testing.T, file string, target Target) {
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	exchanges, tail := parseTranscript(t, string(text))
	kept := map[string]string{}
	var out strings.Builder
	for _, x := range exchanges {
		res := send(t, target, x.request, kept)
		if *update {
			x.answer = rewritten(x.answer, res, kept)
		} else {
			compare(t, x, res, kept)
		}
		writeLines(&out, "", x.before)
		writeLines(&out, "> ", x.request)
		writeLines(&out, "< ", x.answer)
	}
	if *update {
		writeLines(&out, "", tail)
		require.NoError(t, os.WriteFile(file, []byte(out.String()), 0o600))
	}
}

func writeLines(out *strings.Builder, mark string, lines []string) {
	for _, line := range lines {
		out.WriteString(strings.TrimRight(mark+line, " ") + "\n")
	}
}

// parseTranscript cuts a file into its exchanges; tail are the lines behind the last.
func parseTranscript(t testing.TB, text string) (all []exchange, tail []string) {
	var x exchange
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		rest := strings.TrimPrefix(line[min(1, len(line)):], " ")
		switch {
		case strings.HasPrefix(line, "<"):
			x.answer = append(x.answer, rest)
			continue
		case len(x.answer) > 0:
			all, x = append(all, x), exchange{}
		}
		switch {
		case strings.HasPrefix(line, ">"):
			x.request = append(x.request, rest)
		case line == "" || strings.HasPrefix(line, "#"):
			require.Empty(t, x.request, "comment inside an exchange: %s", line)
			x.before = append(x.before, line)
		default:
			t.Fatalf("line of a transcript without a mark: %s", line)
		}
	}
	if len(x.request) > 0 {
		return append(all, x), nil
	}
	return all, x.before
}

// part cuts lines into their first line, headers and body.
func part(lines []string) (first string, header [][2]string, body string) {
	if len(lines) == 0 {
		return "", nil, ""
	}
	first = lines[0]
	for i, line := range lines[1:] {
		if line == "" {
			return first, header, strings.Join(lines[i+2:], "\n")
		}
		name, value, _ := strings.Cut(line, ": ")
		header = append(header, [2]string{name, value})
	}
	return first, header, ""
}

var placeholder = regexp.MustCompile(`\{[a-z]+(:[^{}"]+)?\}`)

// filled replaces the names in a line of a request by what they stand for.
func filled(t testing.TB, line string, target Target, kept map[string]string) string {
	return placeholder.ReplaceAllStringFunc(line, func(name string) string {
		if value, ok := kept[name]; ok {
			return value
		}
		scope, who, ok := strings.Cut(strings.Trim(name, "{}"), ":")
		require.True(t, ok, "nothing is known as %s", name)
		company, app, _ := strings.Cut(who, "/")
		token, err := target.Tokens.Sign(gateway.Claims{Scope: gateway.Scope(scope), CompanyKey: company, AppID: app}, time.Hour)
		require.NoError(t, err)
		return token
	})
}

// send makes a request.
func send(t testing.TB, target Target, lines []string, kept map[string]string) *httptest.ResponseRecorder {
	first, header, body := part(lines)
	method, path, _ := strings.Cut(filled(t, first, target, kept), " ")
	body = filled(t, body, target, kept)
	req := httptest.NewRequest(method, path, strings.NewReader(body))
	for _, h := range header {
		req.Header.Set(h[0], filled(t, h[1], target, kept))
	}
	res := httptest.NewRecorder()
	target.Handler.ServeHTTP(res, req)
	checkDescribed(t, req, body, res)
	return res
}

// compare holds an answer against what is expected of it.
func compare(t testing.TB, x exchange, res *httptest.ResponseRecorder, kept map[string]string) {
	status, header, body := part(x.answer)
	where := x.request[0] + "\n" + res.Body.String()
	require.Equal(t, status, fmt.Sprint(res.Code), where)
	for _, h := range header {
		if h[1] == "*" {
			require.NotEmpty(t, res.Header().Get(h[0]), where)
			continue
		}
		require.Equal(t, h[1], res.Header().Get(h[0]), where)
	}
	CheckAnswer(t, res, where)
	if body == "" {
		require.Empty(t, res.Body.String(), where)
		return
	}
	var want, got any
	require.NoError(t, parse([]byte(body), &want), "expected body of %s", x.request[0])
	require.NoError(t, parse(res.Body.Bytes(), &got), where)
	require.Equal(t, matched(want, got, kept), got, where)
}

// parse reads JSON without changing its numbers.
func parse(text []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	return dec.Decode(v)
}

// CheckAnswer holds an answer against what is true of every answer: its id, its type, no secret.
func CheckAnswer(t testing.TB, res *httptest.ResponseRecorder, where string) {
	id := res.Header().Get("x-amzn-RequestId")
	require.NotEmpty(t, id, where)
	require.False(t, isCanary(res.Body.String()), where)
	if res.Header().Get("Content-Type") == "application/yaml" {
		return
	}
	if res.Code == http.StatusNoContent {
		require.Zero(t, res.Body.Len(), where)
		return
	}
	require.Equal(t, "application/json; charset=utf-8", res.Header().Get("Content-Type"), where)
	if older := strings.Contains(where, "/api/v2/"); older || strings.HasPrefix(where, "DELETE /bots/v3/tokens/") && strings.TrimSpace(res.Body.String()) == "{}" {
		require.Equal(t, older, strings.Contains(res.Body.String(), `"status"`), where)
		return // these have no room for it
	}
	var body struct {
		RequestID string          `json:"requestId"`
		Error     json.RawMessage `json:"error"`
	}
	require.NoError(t, json.Unmarshal(res.Body.Bytes(), &body), where)
	if res.Code == http.StatusUnauthorized {
		require.NoError(t, json.Unmarshal(body.Error, &body), where)
	}
	require.Equal(t, id, body.RequestID, where)
}

// matched is want with what "*" and new names stand for put in from got.
func matched(want, got any, kept map[string]string) any {
	switch w := want.(type) {
	case string:
		if w == "*" {
			return got
		}
		if !placeholder.MatchString(w) || placeholder.FindString(w) != w {
			return fillKept(w, kept)
		}
		if _, ok := kept[w]; !ok {
			kept[w] = fmt.Sprint(got)
		}
		return kept[w]
	case map[string]any:
		g, _ := got.(map[string]any)
		out := map[string]any{}
		for key, value := range w {
			if value == "*" && g[key] == nil {
				out[key] = value // must be there
				continue
			}
			out[key] = matched(value, g[key], kept)
		}
		return out
	case []any:
		g, _ := got.([]any)
		out := make([]any, len(w))
		for i, value := range w {
			if i < len(g) {
				out[i] = matched(value, g[i], kept)
			} else {
				out[i] = value
			}
		}
		return out
	}
	return want
}

func fillKept(s string, kept map[string]string) string {
	return placeholder.ReplaceAllStringFunc(s, func(name string) string {
		if value, ok := kept[name]; ok {
			return value
		}
		return name
	})
}

// rewritten is the answer as it is, with "*" and names where they stood, and "*" for what differs from run to run.
func rewritten(old []string, res *httptest.ResponseRecorder, kept map[string]string) []string {
	_, header, body := part(old)
	lines := []string{fmt.Sprint(res.Code)}
	for _, h := range header {
		lines = append(lines, h[0]+": "+res.Header().Get(h[0]))
	}
	if res.Body.Len() == 0 {
		return lines
	}
	var want, got any
	_ = parse([]byte(body), &want)
	if parse(res.Body.Bytes(), &got) != nil {
		return append(lines, "", res.Body.String())
	}
	matched(want, got, kept)
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(starred("", want, got, kept))
	return append(lines, "", strings.TrimSpace(b.String()))
}

var varying = regexp.MustCompile(`^(requestId|since|.*EpochMillis|.*TS|latencyMs|windowSeconds)$`)

// starred is got with wildcards where the old expectation had them or where values vary.
func starred(key string, old, got any, kept map[string]string) any {
	if s, ok := old.(string); ok && (s == "*" || placeholder.FindString(s) == s && s != "") {
		return s
	}
	switch g := got.(type) {
	case map[string]any:
		o, _ := old.(map[string]any)
		out := map[string]any{}
		for k, v := range g {
			out[k] = starred(k, o[k], v, kept)
		}
		return out
	case []any:
		o, _ := old.([]any)
		out := make([]any, len(g))
		for i, v := range g {
			var before any
			if i < len(o) {
				before = o[i]
			}
			out[i] = starred("", before, v, kept)
		}
		return out
	case string:
		names := make([]string, 0, len(kept))
		for name := range kept {
			names = append(names, name)
		}
		sort.Strings(names)
		for _, name := range names {
			g = strings.ReplaceAll(g, kept[name], name)
		}
		if _, isNew := old.(string); !isNew && varying.MatchString(key) {
			return "*"
		}
		return g
	}
	if old == nil && varying.MatchString(key) {
		return "*"
	}
	return got
}

func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("../testdata/http/*.txt")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			s := newStage(t)
			require.NoError(t, s.access.Store.AddAdministrator(t.Context(), "ops", "acme", adminPassword))
			RunTranscript(t, file, Target{Handler: s.gateway.Handler(), Tokens: s.tokens})
		})
	}
}
