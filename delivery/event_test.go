package delivery_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/stretchr/testify/require"
)

const coordinate = `"coordinate":{"companyKey":"acme","networkKey":"sms","externalId":"e"}`

func TestEventFaultsNameTheField(t *testing.T) {
	for _, c := range []struct{ body, want string }{
		{``, "event is not valid JSON"},
		{`null`, "event must be a JSON object"},
		{`[]`, "event must be a JSON object"},
		{"\xef\xbb\xbf{}", "event is not valid JSON"},
		{`{}`, "type may not be empty"},
		{`{"type":"message",` + coordinate + `}`, "author.id may not be empty"},
		{`{"coordinate":{"companyKey":"a","networkKey":"n","externalId":"e","normalizedAuthorId":"z"},"type":"message"}`, "author.id may not be empty"},
		{`{"type":1}`, "type must be a string"},
		{`{"type":"message"}`, "coordinate.companyKey may not be empty"},
		{`{"type":"message","coordinate":[]}`, "coordinate must be a JSON object"},
		{`{"type":"message","coordinate":{"companyKey":{}}}`, "coordinate.companyKey must be a string"},
		{`{"type":"message","coordinate":{"companyKey":"a","networkKey":"n"}}`, "coordinate.externalId may not be empty"},
		{`{"type":"message","coordinate":{"companyKey":"a","networkKey":"n","externalId":"` + strings.Repeat("x", 1024) + `"},"author":{"id":"a"}}`, "coordinate.externalId may not be longer"},
		{`{"type":"message","coordinate":{"scope":"public"}}`, "coordinate.scope must be PRIVATE or PUBLIC"},
		{`{"type":"message","type":"message"}`, "duplicate key"},
		{`{"type":"message","x":{"a":1,"a":2}}`, "duplicate key"},
		{`{"type":"message",` + coordinate + `,"author":{"id":"a"}} {}`, "trailing data"},
		{"{\"type\":\"mess\xffage\"}", "not valid JSON"},
		{`{"type":"\ud800"}`, "not valid JSON"},
		{`{"type":"message","x":` + strings.Repeat("[", 10001) + strings.Repeat("]", 10001) + `}`, "not valid JSON"},
		{`{"type":"message",` + coordinate + `,"author":{"id":"a"},"targeted":"yes"}`, "targeted must be true or false"},
		{`{"type":"message",` + coordinate + `,"author":{"id":"a"},"sourceTagIds":[1.5]}`, "sourceTagIds must be an array of integers"},
		{`{"type":"control",` + coordinate + `,"author":{"id":"a"},"owner":{"type":"X"}}`, "owner.type must be AGENT or BOT"},
		{`{"type":"control",` + coordinate + `,"author":{"id":"a"},"owner":{"type":"BOT"}}`, "owner.appId must name a bot"},
		{`{"type":"message","x":"` + strings.Repeat("x", 1<<20) + `"}`, "event may not be larger"},
	} {
		_, err := delivery.ParseAndSplice([]byte(c.body), registration("e", "app"), nil)
		var fault *delivery.EventError
		require.True(t, errors.As(err, &fault), "%.80s: %v", c.body, err)
		require.Contains(t, err.Error(), c.want, "%.80s", c.body)
	}
}

func TestUnknownBytesPassUntouched(t *testing.T) {
	for _, extra := range []string{
		`123456789012345678901234567890`, `1e400`, `-0.0`, `"\u0000\u202e\/"`, `{"__proto__":{},"constructor":1}`, `[[[[]]]]`, `"` + strings.Repeat("é", 100000) + `"`,
	} {
		body := `{"type":"message",` + coordinate + `,"author":{"id":"a"},"x": ` + extra + ` }`
		out, err := delivery.ParseAndSplice([]byte(body), registration("e", "app"), &delivery.Owner{Type: delivery.Agent})
		require.NoError(t, err)
		require.Contains(t, string(out), `"x": `+extra+` ,"health":`)
		require.True(t, json.Valid(out))
	}
}

func TestMetadataOfTheSourceNeverPassesForTheRegistrations(t *testing.T) {
	with := registration("e", "app", func(r *delivery.Registration) { r.Metadata = []byte(`{"k":1}`) })
	const health = `{"status":"DEGRADED","failureCount":2,"successCount":23}`
	for _, typ := range []string{"message", "update", "control"} {
		for _, theirs := range []string{`{"internalBot":true,"x":{"y":[1]}}`, `"x"`, `null`, `7`} {
			body := `{"type":"` + typ + `",` + coordinate + `,"author":{"id":"a"},"owner":{"type":"AGENT"},"metadata": ` + theirs + ` ,"health":` + theirs + `}`
			for _, c := range []struct {
				reg  delivery.Registration
				want string
			}{{registration("e", "app"), `{}`}, {with, `{"k":1}`}} {
				out, err := delivery.ParseAndSplice([]byte(body), c.reg, nil)
				require.NoError(t, err)
				require.True(t, strings.HasSuffix(string(out), `,"owner":{"type":"AGENT"},"metadata": `+c.want+` ,"health":`+health+`}`), "%s", out)
			}
		}
		out, err := delivery.ParseAndSplice([]byte(`{"type":"`+typ+`",`+coordinate+`,"author":{"id":"a"},"owner":{"type":"AGENT"}}`), registration("e", "app"), nil)
		require.NoError(t, err)
		require.NotContains(t, string(out), "metadata", "neither of them has any")
	}
}

// FuzzEvent holds the splice to its promise: whatever is accepted stays valid JSON, and only our fields differ.
func FuzzEvent(f *testing.F) {
	f.Add([]byte(`{"type":"message",` + coordinate + `,"author":{"id":"a"}}`))
	f.Add([]byte(` { "type":"update" , "health" : [1,{"a":2}] , "metadata":null,"coordinate": { "botId" : 7 ,"companyKey":"a","networkKey":"b","externalId":"c"},"owner":{}}`))
	f.Add([]byte(`{"type":"control","owner":{"type":"BOT","appId":"x"},` + coordinate + `,"author":{"id":"a"}}`))
	reg := registration("e", "app", func(r *delivery.Registration) { r.Metadata = []byte(`{"k":1}`) })
	f.Fuzz(func(t *testing.T, body []byte) {
		out, err := delivery.ParseAndSplice(body, reg, &delivery.Owner{Type: delivery.Agent})
		if err != nil {
			return
		}
		var was, is map[string]json.RawMessage
		require.NoError(t, json.Unmarshal(body, &was))
		require.NoError(t, json.Unmarshal(out, &is), "%s", out)
		for k, v := range was {
			if k != "coordinate" && k != "health" && k != "metadata" && k != "owner" {
				require.True(t, bytes.Equal(v, is[k]), k)
			}
		}
		require.JSONEq(t, `{"status":"DEGRADED","failureCount":2,"successCount":23}`, string(is["health"]))
		require.JSONEq(t, `{"k":1}`, string(is["metadata"]))
		require.JSONEq(t, `{"type":"AGENT"}`, string(is["owner"]))
		var c map[string]any
		require.NoError(t, json.Unmarshal(is["coordinate"], &c))
		require.Equal(t, "app", c["botId"])
	})
}
