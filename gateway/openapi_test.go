package gateway_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/stretchr/testify/require"

	"github.com/pulsegate/pulsegate/gateway"
)

// description is openapi.yaml, with answers that may hold nothing that it does not name.
var description = sync.OnceValues(func() (*openapi3.T, error) {
	text, err := os.ReadFile("openapi.yaml")
	if err != nil {
		return nil, err
	}
	openapi3filter.RegisterBodyDecoder("application/x-ndjson", textDecoder)
	openapi3filter.RegisterBodyDecoder("application/yaml", textDecoder)
	loader := openapi3.NewLoader()
	doc, err := loader.LoadFromData(text)
	if err != nil {
		return nil, err
	}
	if err := doc.Validate(loader.Context); err != nil {
		return nil, err
	}
	for _, item := range doc.Paths.Map() {
		for _, operation := range item.Operations() {
			for _, response := range operation.Responses.Map() {
				for _, media := range response.Value.Content {
					closeSchema(media.Schema)
				}
			}
		}
	}
	return doc, nil
})

func textDecoder(body io.Reader, _ http.Header, _ *openapi3.SchemaRef, _ openapi3filter.EncodingFn) (any, error) {
	text, err := io.ReadAll(body)
	return string(text), err
}

// closeSchema admits no members that a schema does not name.
func closeSchema(ref *openapi3.SchemaRef) {
	if ref == nil || ref.Value == nil {
		return
	}
	s := ref.Value
	if s.Items != nil {
		closeSchema(s.Items)
	}
	if len(s.Properties) == 0 || s.AdditionalProperties.Has != nil || s.AdditionalProperties.Schema != nil {
		return
	}
	no := false
	s.AdditionalProperties.Has = &no
	for _, p := range s.Properties {
		closeSchema(p)
	}
}

// described is the operation that serves a request, and the values in its path; nil when there is none. Of two that fit, the one with
// fewer values in its path serves.
func described(doc *openapi3.T, method, path string) (*routers.Route, map[string]string) {
	var best *routers.Route
	var values map[string]string
	for template, item := range doc.Paths.Map() {
		operation := item.GetOperation(method)
		got, ok := match(template, path)
		if operation == nil || !ok || best != nil && len(got) >= len(values) {
			continue
		}
		best, values = &routers.Route{Spec: doc, Path: template, PathItem: item, Method: method, Operation: operation}, got
	}
	return best, values
}

// match holds a path as it was sent against a template; {author} stands for the rest.
func match(template, path string) (map[string]string, bool) {
	values := map[string]string{}
	for template != "" || path != "" {
		name, rest, named := strings.Cut(strings.TrimPrefix(template, "/"), "/")
		part, after, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
		if name == "{author}" {
			part, after = strings.TrimPrefix(path, "/"), ""
		}
		value, err := url.PathUnescape(part)
		switch {
		case err != nil || part == "":
			return nil, false
		case strings.HasPrefix(name, "{"):
			values[strings.Trim(name, "{}")] = value
		case name != part:
			return nil, false
		}
		if path = after; !named {
			return values, path == ""
		}
		template = rest
	}
	return values, true
}

// checkDescribed holds a request that was served, and any answer, to the description of the API.
func checkDescribed(t testing.TB, req *http.Request, body string, res *httptest.ResponseRecorder) {
	t.Helper()
	doc, err := description()
	require.NoError(t, err)
	where := req.Method + " " + req.URL.String() + "\n" + body + "\n" + res.Body.String()
	route, values := described(doc, req.Method, req.URL.EscapedPath())
	if route == nil || route.Path == "/metrics" { // that is of the other listener
		require.Contains(t, []int{http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusBadRequest}, res.Code, "not in openapi.yaml: %s", where)
		return
	}
	in := &openapi3filter.RequestValidationInput{
		Request: sent(req, body), PathParams: values, Route: route, QueryParams: given(req.URL.Query()),
		Options: &openapi3filter.Options{AuthenticationFunc: openapi3filter.NoopAuthenticationFunc, IncludeResponseStatus: true, SkipSettingDefaults: true},
	}
	if res.Code < 300 && !strings.Contains(res.Body.String(), `"retryable":`) { // one of its events was refused
		require.NoError(t, openapi3filter.ValidateRequest(t.Context(), in), where)
	}
	out := &openapi3filter.ResponseValidationInput{RequestValidationInput: in, Status: res.Code, Header: res.Header(), Options: in.Options}
	require.NoError(t, openapi3filter.ValidateResponse(t.Context(), out.SetBodyBytes(res.Body.Bytes())), where)
}

// given is a query without the parameters that say nothing.
func given(q url.Values) url.Values {
	for name, values := range q {
		if len(values) == 1 && values[0] == "" {
			q.Del(name)
		}
	}
	return q
}

// sent is a request as a careful client sends it: its body, and what kind it is of, which the gateway does not ask for.
func sent(req *http.Request, body string) *http.Request {
	r := req.Clone(req.Context())
	r.Body, r.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
	kind := "application/json"
	if strings.HasSuffix(req.URL.Path, "/events") && !json.Valid([]byte(body)) {
		kind = "application/x-ndjson"
	}
	r.Header.Set("Content-Type", kind)
	return r
}

// TestOpenAPINamesEveryRouteAndNoOther walks the table of routes and the description.
func TestOpenAPINamesEveryRouteAndNoOther(t *testing.T) {
	doc, err := description()
	require.NoError(t, err)
	require.Equal(t, "3.1.0", doc.OpenAPI)
	names := map[string]string{"GET /metrics": "metrics"} // of the other listener
	scopes := map[string]bool{"GET /metrics": false}
	for _, r := range gateway.Routes() {
		path := r.Path
		for _, name := range []string{"networkKey", "externalId", "appId", "mode", "id"} {
			path = strings.ReplaceAll(path+"/", ":"+name+"/", "{"+name+"}/")
			path = strings.TrimSuffix(path, "/")
		}
		path = strings.ReplaceAll(path, "*", "{author}")
		names[r.Method+" "+path], scopes[r.Method+" "+path] = r.Name, len(r.Scopes) > 0
	}
	got := map[string]string{}
	for path, item := range doc.Paths.Map() {
		for method, operation := range item.Operations() {
			key := method + " " + path
			got[key] = operation.OperationID
			open := operation.Security != nil && len(*operation.Security) == 0
			require.Equal(t, scopes[key], !open, "%s: token needed", key)
			if scopes[key] {
				for _, status := range []string{"401", "503"} {
					require.NotNil(t, operation.Responses.Value(status), "%s %s", key, status)
				}
			}
		}
	}
	require.Equal(t, names, got)
	t.Attr("measured", fmt.Sprintf("%d operations described, each served; %d routes, each described", len(got), len(gateway.Routes())))
}

func TestOpenAPIIsServedWithoutAToken(t *testing.T) {
	s := newStage(t)
	req := httptest.NewRequest(http.MethodGet, "/openapi.yaml", http.NoBody)
	res := httptest.NewRecorder()
	s.gateway.Handler().ServeHTTP(res, req)
	require.Equal(t, http.StatusOK, res.Code)
	require.Equal(t, "application/yaml", res.Header().Get("Content-Type"))
	require.NotEmpty(t, res.Header().Get("x-amzn-RequestId"))
	checkDescribed(t, req, "", res)
	text, err := os.ReadFile("openapi.yaml")
	require.NoError(t, err)
	require.True(t, bytes.Equal(text, res.Body.Bytes()))
}

// TestOpenAPICheckCatchesWhatIsNotDescribed breaks answers and requests on purpose.
func TestOpenAPICheckCatchesWhatIsNotDescribed(t *testing.T) {
	for name, x := range map[string]struct{ method, path, body, answer string }{
		"a secret in an answer": {"GET", "/bots/v3/registrations", "", `{"data":[{"companyKey":"c","networkKey":"n","externalId":"e","appId":"a","callbackUrl":"u","mode":"LIVE","credentials":{"type":"HMAC","secret":"s"},"createdEpochMillis":1,"lastUpdatedEpochMillis":1}],"requestId":"r"}`},
		"a member too many":     {"GET", "/healthz", "", `{"alive":true,"requestId":"r","more":1}`},
		"no request id":         {"PUT", "/bots/v3/registrations", `{}`, `{}`},
		"a wrong request":       {"PUT", "/bots/v3/control", `{"owner":{"type":"ME"},"author":{"id":"a"},"coordinate":{"networkKey":"n","externalId":"e"}}`, `{"data":{},"requestId":"r"}`},
		"an unknown status":     {"DELETE", "/bots/v3/registrations/network/n/externalId/e/appId/a", "", `{"requestId":"r"}`},
		"an unknown path":       {"GET", "/bots/v3/nothing", "", `{"requestId":"r"}`},
	} {
		t.Run(name, func(t *testing.T) {
			res := httptest.NewRecorder()
			res.Header().Set("Content-Type", "application/json; charset=utf-8")
			_, _ = res.WriteString(x.answer)
			caught := &catcher{TB: t}
			func() {
				defer func() { _ = recover() }()
				checkDescribed(caught, httptest.NewRequest(x.method, x.path, strings.NewReader(x.body)), x.body, res)
			}()
			require.True(t, caught.failed)
		})
	}
}

// catcher notes that a test would have failed.
type catcher struct {
	testing.TB
	failed bool
}

func (c *catcher) Errorf(string, ...any) { c.failed = true }
func (c *catcher) FailNow()              { panic("failed") }
