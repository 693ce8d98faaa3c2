package gateway_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/pulsegate/pulsegate/gateway"
)

// slow is a carrier that takes its time over events.
type slow struct {
	gateway.Carrier
	entered chan struct{}
	leave   chan struct{}
}

func (s slow) Accept(ctx context.Context, company string, events []delivery.Incoming) []delivery.Receipt {
	s.entered <- struct{}{}
	<-s.leave
	return s.Carrier.Accept(ctx, company, events)
}

// megabyte is a body of five events.
func megabyte() string {
	return strings.Repeat(message("a", `"`+strings.Repeat("x", 200_000)+`"`)+"\n", 5)
}

func TestC06SourcesThatBringMoreThanFitsAreToldAtOnce(t *testing.T) {
	var carrier slow
	s := newStage(t, func(c *gateway.Config) {
		carrier = slow{c.Carrier, make(chan struct{}, 100), make(chan struct{})}
		c.Carrier, c.BodyBytes = carrier, 8<<20
	})
	s.register(t, "acme/own", "LIVE")
	server := httptest.NewServer(s.gateway.Handler())
	t.Cleanup(server.Close)
	source := s.as(t, gateway.ScopeSource, "acme")
	post := func(body io.Reader) (status int, after string) {
		req, err := http.NewRequest(http.MethodPost, server.URL+"/bots/v3/events", body)
		require.NoError(t, err)
		req.Header.Set("Authorization", "Bearer "+source)
		res, err := server.Client().Do(req)
		if err != nil {
			return 0, "" // the rest of the body met a closed connection
		}
		defer res.Body.Close()
		_, _ = io.Copy(io.Discard, res.Body)
		return res.StatusCode, res.Header.Get("Retry-After")
	}
	var accepted atomic.Int64
	var inside sync.WaitGroup
	fill := 8
	for range fill {
		inside.Go(func() {
			if status, _ := post(strings.NewReader(megabyte())); status == http.StatusAccepted {
				accepted.Add(1)
			}
		})
	}
	for range fill {
		<-carrier.entered
	}
	n, slowest := 200, time.Duration(0)
	for i := range n {
		began := time.Now()
		var more io.Reader = strings.NewReader(megabyte())
		if i%2 == 0 {
			more = io.MultiReader(more) // of unknown length: seen while it is read
		}
		if status, after := post(more); status != 0 {
			require.Equal(t, http.StatusServiceUnavailable, status)
			require.Equal(t, "1", after)
			slowest = max(slowest, time.Since(began))
		}
	}
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	close(carrier.leave)
	inside.Wait()
	require.EqualValues(t, fill, accepted.Load(), "what was taken in is kept")
	status, _ := post(strings.NewReader(message("a", "1")))
	require.Equal(t, http.StatusAccepted, status, "there is room again")
	res := httptest.NewRecorder()
	s.gateway.OpsHandler().ServeHTTP(res, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	require.Contains(t, res.Body.String(), "pulsegate_gateway_body_bytes 0\n")
	t.Attr("measured", fmt.Sprintf("%d MB of %d MB taken in, the rest refused with 503 and Retry-After within %v, heap %d MB", fill, fill+n, slowest.Round(time.Millisecond), memory.HeapInuse>>20))
}

// untouchable is a body that may not be read.
type untouchable struct{ read *atomic.Int64 }

func (u untouchable) Read(p []byte) (int, error) {
	u.read.Add(1)
	return copy(p, "x"), nil
}

func TestOfStrangersNothingIsRead(t *testing.T) {
	s := newStage(t)
	for path, want := range map[string]int{
		"/nope": http.StatusNotFound, "/healthz": http.StatusMethodNotAllowed, "/bots/v3/events": http.StatusUnauthorized,
		"/bots/v3/health/appId/a": http.StatusMethodNotAllowed, owner("bot"): http.StatusUnauthorized,
	} {
		var read atomic.Int64
		req := httptest.NewRequest(http.MethodPost, path, untouchable{&read})
		req.ContentLength = 8 << 20
		res := httptest.NewRecorder()
		s.gateway.Handler().ServeHTTP(res, req)
		require.Equal(t, want, res.Code, path)
		require.Zero(t, read.Load(), path)
	}
}
