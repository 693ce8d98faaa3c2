package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/pulsegate/pulsegate/gateway"
	"github.com/pulsegate/pulsegate/notify"
)

// assembly is what an instance is built from.
type assembly struct {
	serveCommand
	keys  keys
	file  string   // of the keys, to be followed; "": none
	store *store   // the instance stops it
	name  *lineage // the instance closes it; nil: none
	log   *slog.Logger
}

// instance is a whole gateway in this process: built by assemble, run once.
type instance struct {
	assembly
	api, ops net.Listener
	carrier  *delivery.Carrier
	notifier *notify.Notifier
	access   *gateway.Access
	tokens   *gateway.Tokens
	issuer   *gateway.Issuer // nil: none
	gateway  *gateway.Gateway
	tiers    *tierWatch
	platform *notify.Platform     // nil: none
	cert     *gateway.Certificate // of the API; nil: plain HTTP

	failed chan error // of a part that ended by itself
	lives  lifecycle
}

// assemble builds a gateway from the bottom up; it listens already, and answers when it is run. After an error nothing is left
// open, the store included.
func assemble(a assembly) (_ *instance, err error) {
	i := &instance{assembly: a, failed: make(chan error, 8), lives: lifecycle{log: a.log}}
	i.tiers = newTierWatch(a.store, tier(a.Durability), a.log)
	i.lives.onStop("store", 15*time.Second, a.store.stop)
	i.lives.onStop("name", time.Second, func(context.Context) error {
		a.name.close()
		return nil
	})
	defer func() {
		if err != nil {
			_ = i.lives.stop()
		}
	}()
	if i.cert, err = a.certificate(a.log); err != nil {
		return nil, err
	}
	if i.api, err = i.listen("API listener", a.Listen); err != nil {
		return nil, err
	}
	if i.ops, err = i.listen("operations listener", a.OpsListen); err != nil {
		return nil, err
	}
	if i.carrier, err = i.newCarrier(); err != nil {
		return nil, err
	}
	if i.notifier, err = i.newNotifier(); err != nil {
		return nil, err
	}
	if i.gateway, err = i.newGateway(); err != nil {
		return nil, err
	}
	return i, nil
}

// listen opens a listener. The server that takes it over closes it; closing it again here covers a start that goes no further.
func (i *instance) listen(name, address string) (net.Listener, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", address, err)
	}
	i.lives.onStop(name, time.Second, func(context.Context) error {
		_ = listener.Close()
		return nil
	})
	return listener, nil
}

func (i *instance) newCarrier() (*delivery.Carrier, error) {
	allowed, err := i.allowed()
	if err != nil {
		return nil, err
	}
	bundle, err := i.callbackCA()
	if err != nil {
		return nil, err
	}
	sealer, err := delivery.NewSealer(i.keys.secrets...)
	if err != nil {
		return nil, err
	}
	carrier, err := delivery.New(delivery.Config{
		Client:               i.store.client,
		Replicas:             i.replicas(),
		Rules:                i.rules(),
		DeliveryTimeout:      i.DeliveryTimeout,
		InFlight:             i.inFlight(),
		Lineage:              i.name.text(),
		QueueEvents:          i.QueueEvents,
		QueueBytes:           i.QueueBytes,
		HoldTime:             i.HoldTime,
		DedupeTime:           i.DedupeTime,
		OngoingTime:          i.OngoingTime,
		KeepFailures:         i.KeepFailures,
		KeepSuccesses:        i.KeepSuccesses,
		MetricsRegistrations: cmp.Or(i.MetricsRegistrations, -1),
		Sealer:               sealer,
		Guard:                delivery.GuardConfig{Allow: allowed, AllowHTTP: i.AllowHTTP, Deny: i.denied(), Peers: i.store.peers.list},
		CallbackCA:           bundle,
		Log:                  i.log,
	})
	if err != nil {
		return nil, err
	}
	// A store that is away may come back; one whose data is another gateway's never fits.
	if err := carrier.Ready(context.Background()); err != nil && !errors.Is(err, delivery.ErrUnavailable) {
		return nil, err
	}
	return carrier, nil
}

// replicas are how many servers must confirm what is accepted, beside the one that took it.
func (i *instance) replicas() int {
	if tier(i.Durability) == tierReplicated {
		return 1
	}
	return 0
}

// denied are the addresses that no callback may reach, whatever is allowed: those that this gateway itself depends on.
func (i *instance) denied() []string {
	list := append(localAddresses(i.api.Addr()), localAddresses(i.ops.Addr())...)
	list = append(list, resolved(i.store.addresses...)...)
	if u, err := url.Parse(i.SMTP); err == nil && u.Host != "" {
		port := u.Port()
		if port == "" {
			port = map[string]string{"smtp": "587", "smtps": "465"}[u.Scheme]
		}
		list = append(list, resolved(net.JoinHostPort(u.Hostname(), port))...)
	}
	return list
}

func (i *instance) newNotifier() (*notify.Notifier, error) {
	if i.PlatformURL != "" {
		token, err := i.platformToken()
		if err != nil {
			return nil, err
		}
		if i.platform, err = notify.NewPlatform(i.PlatformURL, delivery.Secret(token)); err != nil {
			return nil, err
		}
		i.lives.onStop("platform connections", time.Second, func(context.Context) error {
			i.platform.Close()
			return nil
		})
	}
	return notify.New(notify.Config{
		Outbox:    i.carrier.Outbox(),
		SMTPURL:   delivery.Secret(i.SMTP),
		MailFrom:  i.MailFrom,
		Platform:  i.platform,
		TagIDs:    i.TagIDs,
		PublicURL: i.PublicURL,
		Log:       i.log,
	})
}

func (i *instance) newGateway() (*gateway.Gateway, error) {
	var err error
	if i.tokens, err = gateway.NewTokens(i.keys.tokens...); err != nil {
		return nil, err
	}
	if i.access, err = i.newAccess(); err != nil {
		return nil, err
	}
	if i.issuer, err = i.newIssuer(i.log); err != nil {
		return nil, err
	}
	registry := prometheus.NewRegistry()
	cfg := gateway.Config{
		Carrier:   i.carrier,
		Tokens:    i.tokens,
		Access:    i.access,
		Issuer:    i.issuer,
		BodyBytes: i.IngestBytes,
		Metrics:   registry,
		Tier:      i.tiers.tier, Concerns: i.tiers.concerns,
		Log: i.log,
	}
	if i.platform != nil {
		cfg.Platform = i.platform
	}
	g, err := gateway.New(cfg)
	if err != nil {
		return nil, err
	}
	return g, registerMetrics(registry, i.tiers, i.carrier, i.notifier, g)
}

// newAccess knows what was revoked already; when the store is away, no token is believed until it is back.
func (i *instance) newAccess() (*gateway.Access, error) {
	access, err := gateway.NewAccess(gateway.AccessConfig{
		Store: gateway.NewAccessStore(i.store.client),
		Rate:  gateway.Rate{PerSecond: i.TokenRate, Burst: cmp.Or(i.TokenBurst, max(1, int(min(2*i.TokenRate, 1e9))))},
		Log:   i.log,
	})
	if err != nil {
		return nil, err
	}
	if err := access.Sync(context.Background()); err != nil {
		i.log.Warn("the list of revoked tokens cannot be read yet", "error", err)
	}
	return access, nil
}

// run starts everything, calls ready, and serves until the context ends or a part fails. Then it stops: not ready first, after a
// short grace the API, then what carries, what tells, and the store.
func (i *instance) run(ctx context.Context, ready func()) error {
	i.serve("operations", 3*time.Second, gateway.Server("", i.gateway.OpsHandler()), i.ops)
	i.work("durability", 3*time.Second, i.tiers.Run)
	i.work("tokens", 5*time.Second, i.access.Run)
	if i.file != "" {
		i.work("keys", 5*time.Second, (&keyWatch{instance: i}).Run)
	}
	if i.issuer != nil {
		i.work("issuer", 5*time.Second, i.issuer.Run)
	}
	i.work("notices", 30*time.Second, i.notifier.Run)
	i.work("delivery", 60*time.Second, i.carrier.Run)
	server, listener := i.newAPI()
	i.serve("API", 15*time.Second, server, listener)
	i.lives.onStop("readiness", i.DrainGrace+time.Second, func(ctx context.Context) error {
		i.gateway.Drain()
		pause(ctx, i.DrainGrace)
		return nil
	})
	ready()
	var failure error
	select {
	case <-ctx.Done():
		i.log.Info("stopping")
	case failure = <-i.failed:
		i.log.Error("a part has failed, stopping", "error", failure)
	}
	if err := i.lives.stop(); err != nil {
		i.log.Error("not everything stopped in time", "error", err)
		if failure == nil {
			failure = err
		}
	}
	return failure
}

// newAPI is the server of the API and its listener, which bounds the connections.
func (i *instance) newAPI() (*http.Server, net.Listener) {
	server := gateway.Server("", i.gateway.Handler())
	if i.cert != nil {
		server.TLSConfig = i.cert.Config()
	}
	return server, gateway.NewConnections(i.connections()).Guard(server, i.api)
}

// serve answers requests on a listener until it is stopped; those under way are finished within the limit.
func (i *instance) serve(name string, limit time.Duration, server *http.Server, listener net.Listener) {
	server.ErrorLog = slog.NewLogLogger(i.log.Handler(), slog.LevelWarn)
	serve := server.Serve
	if server.TLSConfig != nil {
		serve = func(l net.Listener) error { return server.ServeTLS(l, "", "") }
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		if err := serve(listener); err != http.ErrServerClosed {
			i.failed <- fmt.Errorf("serve %s: %w", name, err)
		}
	}()
	i.lives.onStop(name, limit, func(ctx context.Context) error {
		err := server.Shutdown(ctx)
		if errors.Is(err, context.DeadlineExceeded) {
			i.log.Warn("callers that did not take their answers were cut off", "listener", name)
			err = server.Close()
		}
		<-served
		return err
	})
}

// work runs a loop that ends when it is told to, within the limit.
func (i *instance) work(name string, limit time.Duration, loop func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		err := loop(ctx)
		if ctx.Err() == nil {
			i.failed <- fmt.Errorf("%s ended by itself: %w", name, err)
		}
		ended <- err
	}()
	i.lives.onStop(name, limit, func(stopping context.Context) error {
		cancel()
		select {
		case err := <-ended:
			return err
		case <-stopping.Done():
			return stopping.Err()
		}
	})
}

// scheme is that of the API's URL.
func (i *instance) scheme() string {
	if i.cert != nil {
		return "https"
	}
	return "http"
}

// announce prints where the gateway listens, on what it works, and how to get in.
func (i *instance) announce(out io.Writer) {
	_, _ = fmt.Fprintf(out, "pulsegate listens on %s://%s\n", i.scheme(), i.api.Addr())
	_, _ = fmt.Fprintf(out, operationsLine+"%s (/metrics, /healthz, /readyz)\n", i.ops.Addr())
	_, _ = fmt.Fprintf(out, "store: %s; durability tier: %s\n", i.store.name, i.store.tier)
	_, _ = fmt.Fprintf(out, "make a token: pulsegate token --key-file %s --company KEY\n", i.path())
}
