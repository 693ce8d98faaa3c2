package gateway

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/pulsegate/pulsegate/delivery"
)

// The limits of the listeners.
const (
	headerTime  = 5 * time.Second
	readTime    = 15 * time.Second
	writeTime   = 30 * time.Second
	idleTime    = time.Minute
	headerLimit = 16 << 10 // bytes
	bodyLimit   = 8 << 20  // bytes
)

// Config is what a Gateway is made of. Carrier and Tokens must be set; the zero value of everything else is good.
type Config struct {
	Carrier   Carrier
	Tokens    *Tokens
	Issuer    *Issuer                             // nil: only our own tokens are good
	Access    *Access                             // nil: no token is known to be revoked, none is limited, and none is made here
	Platform  Platform                            // nil: calls to be passed on are answered with 501
	Metrics   Gatherer                            // nil: the ops listener has no /metrics
	Tier      func() string                       // the durability tier that /readyz names; nil: "unknown"
	Concerns  func() (missing, warnings []string) // what /readyz says beside the store's condition: why it is not ready, and what is amiss; nil: nothing
	Log       *slog.Logger                        // nil: nothing is logged
	BodyBytes int64                               // of request bodies in memory at once; 0 means 64 MiB
	Timeout   time.Duration                       // of the work behind a request that lists much or waits for the platform, its body read; 0 means 10 seconds
}

// storeTime is how long any other request may take, its body read: nobody waits longer for a store that does not answer.
const storeTime = 2 * time.Second

// limit is how long the work behind a request may take.
func (g *Gateway) limit(r Route) time.Duration {
	if r.patient {
		return g.Timeout
	}
	return min(storeTime, g.Timeout)
}

// Gateway is the HTTP face. Safe for concurrent use; it starts no goroutine and holds no connection.
type Gateway struct {
	Config
	metrics  *metrics
	parser   delivery.Parser
	bodies   bodies
	public   http.Handler
	draining atomic.Bool
}

// New returns a Gateway that is ready to serve, or an error that names what cfg lacks.
func New(cfg Config) (*Gateway, error) {
	switch {
	case cfg.Carrier == nil:
		return nil, errors.New("new gateway: Carrier is missing")
	case cfg.Tokens == nil:
		return nil, errors.New("new gateway: Tokens is missing")
	}
	if cfg.Tier == nil {
		cfg.Tier = func() string { return "unknown" }
	}
	if cfg.Concerns == nil {
		cfg.Concerns = func() (missing, warnings []string) { return nil, nil }
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = 10 * time.Second
	}
	g := &Gateway{Config: cfg, metrics: newMetrics()}
	g.bodies.limit = cmp.Or(max(cfg.BodyBytes, 0), bodyBytes)
	g.public = g.router()
	return g, nil
}

// Handler is the public face: the API, /healthz and /readyz.
func (g *Gateway) Handler() http.Handler { return g.public }

// Drain makes /readyz answer 503 from now on, and asks clients to close their connections; requests are served as before.
func (g *Gateway) Drain() { g.draining.Store(true) }

// Server returns a server for addr with every limit set; the caller starts and stops it.
func Server(addr string, handler http.Handler) *http.Server {
	return &http.Server{
		Addr: addr, Handler: handler,
		ReadHeaderTimeout: headerTime, ReadTimeout: readTime, WriteTimeout: writeTime, IdleTimeout: idleTime,
		MaxHeaderBytes: headerLimit,
	}
}

// OpsHandler is the face for operators: /metrics, /healthz and /readyz.
func (g *Gateway) OpsHandler() http.Handler {
	mux := http.NewServeMux()
	for _, r := range opsRoutes() {
		mux.HandleFunc(r.Method+" "+r.Path, func(w http.ResponseWriter, req *http.Request) { g.serve(w, req, r, nil) })
	}
	if g.Metrics != nil {
		mux.Handle("GET /metrics", scrape(g.Metrics))
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, req *http.Request) { g.serve(w, req, stray(errNoRoute), nil) })
	return mux
}

// getHealthz says that the process serves requests, and nothing more.
func (g *Gateway) getHealthz(_ context.Context, c *call) (answer, error) {
	return answer{status: http.StatusOK, data: map[string]any{"alive": true, "requestId": c.requestID}, bare: true}, nil
}

// readiness is the answer of /readyz.
type readiness struct {
	Ready     bool               `json:"ready"`
	Tier      string             `json:"tier"`
	Store     delivery.Condition `json:"store"`
	Missing   []string           `json:"missing"`  // why it is not ready, in words
	Warnings  []string           `json:"warnings"` // what is not as it should be, though it is ready
	RequestID string             `json:"requestId"`
}

// getReadyz says whether requests should be sent here, and if not, why.
func (g *Gateway) getReadyz(ctx context.Context, c *call) (answer, error) {
	missing, warnings := g.Concerns()
	if g.draining.Load() {
		missing = append(missing, "draining: this gateway is about to stop")
	}
	if g.Access != nil {
		if concern := g.Access.concern(); concern != "" {
			missing = append(missing, concern)
		}
	}
	if g.Issuer != nil {
		if w := g.Issuer.warning(); w != "" {
			warnings = append(warnings, w)
		}
	}
	store := g.Carrier.Store()
	if err := g.Carrier.Ready(ctx); err != nil {
		missing = append(missing, "store: "+reason(err))
	} else if w := store.Warning(); w != "" {
		warnings = append(warnings, w)
	}
	for _, loss := range store.Losses {
		warnings = append(warnings, "store: data was lost: "+loss)
	}
	status := http.StatusOK
	if len(missing) > 0 {
		status = http.StatusServiceUnavailable
	}
	return answer{status: status, bare: true, data: readiness{
		Ready: len(missing) == 0, Tier: g.Tier(), Store: store.Condition, Missing: append([]string{}, missing...),
		Warnings: append([]string{}, warnings...), RequestID: c.requestID,
	}}, nil
}

// reason is why the store is not ready, without its own words.
func reason(err error) string {
	var store *delivery.StoreError
	if errors.As(err, &store) {
		return store.Condition.Reason()
	}
	return "it does not answer, or is not prepared yet"
}
