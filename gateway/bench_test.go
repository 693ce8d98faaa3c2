package gateway_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/pulsegate/pulsegate/gateway"
)

// sink accepts everything and keeps nothing.
type sink struct{ gateway.Carrier }

func (sink) Accept(_ context.Context, _ string, events []delivery.Incoming) []delivery.Receipt {
	out := make([]delivery.Receipt, len(events))
	for i := range out {
		out[i] = delivery.Receipt{ID: "ev-0-000001", Fate: delivery.Queued}
	}
	return out
}

// discard is a ResponseWriter without a cost of its own.
type discard struct{ header http.Header }

func (d discard) Header() http.Header { return d.header }

func (discard) Write(p []byte) (int, error) { return len(p), nil }

func (discard) WriteHeader(int) {}

// BenchmarkPostEvent is what one event of 1 KB costs the gateway, without network and store.
func BenchmarkPostEvent(b *testing.B) {
	s := newStage(b, func(c *gateway.Config) { c.Carrier = sink{Carrier: c.Carrier} })
	body := message("a", `"`+strings.Repeat("x", 900)+`"`)
	req := httptest.NewRequest(http.MethodPost, "/bots/v3/events", nil)
	req.Header.Set("Authorization", "Bearer "+s.as(b, gateway.ScopeSource, "acme"))
	req.ContentLength = int64(len(body))
	b.ReportAllocs()
	for b.Loop() {
		req.Body = io.NopCloser(strings.NewReader(body))
		s.gateway.Handler().ServeHTTP(discard{header: http.Header{}}, req)
	}
}

// BenchmarkVerify is what one token costs.
func BenchmarkVerify(b *testing.B) {
	s := newStage(b)
	token, err := s.tokens.Sign(gateway.Claims{CompanyKey: "acme", Scope: gateway.ScopeSource}, time.Hour)
	require.NoError(b, err)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.tokens.Verify(token); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkAdmit is what a token costs a request that was seen before: its digest, the list of revoked tokens, its allowance.
func BenchmarkAdmit(b *testing.B) {
	for name, rate := range map[string]gateway.Rate{"unlimited": {}, "limited": {PerSecond: 1e8, Burst: 1e8}} {
		b.Run(name, func(b *testing.B) {
			_, client := bubbleStore(b)
			s := replicas(b, 1, client, rate)[0]
			token := s.as(b, gateway.ScopeAdmin, "acme")
			b.ReportAllocs()
			for b.Loop() {
				if s.quick(token) != http.StatusOK {
					b.Fatal("refused")
				}
			}
		})
	}
}
