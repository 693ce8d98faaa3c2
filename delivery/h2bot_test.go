package delivery_test

import (
	"bytes"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/pulsegate/pulsegate/health"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// h2Peer is one connection of a bot that speaks HTTP/2, frame by frame.
type h2Peer struct {
	*http2.Framer
	conn   net.Conn
	n      int64 // of the connection
	mute   bool  // pings and settings get no answer
	window int   // of a stream, as the other side set it
	bot    *h2Bot

	floods  sync.WaitGroup
	mu      sync.Mutex // of writing
	headers map[uint32]http.Header
}

// h2Bot does with each request, read as a whole, what it is told.
type h2Bot struct {
	*wildBot
	settings  []http2.Setting
	greet     func(p *h2Peer)                               // nil: settings
	onHeaders func(p *h2Peer, stream uint32)                // nil: nothing
	onRequest func(p *h2Peer, stream uint32, h http.Header) // nil: nothing
	onOther   func(p *h2Peer, f http2.Frame)                // nil: nothing
	mu        sync.Mutex
	got       []http.Header
}

func startH2Bot(t testing.TB, a *authority, b *h2Bot) *h2Bot {
	cfg := a.serverConfig(t)
	cfg.NextProtos = []string{"h2"}
	b.wildBot = startWildBot(t, overTLS(cfg, func(_ *wildBot, c net.Conn, n int64) {
		preface := make([]byte, len(http2.ClientPreface))
		if _, err := io.ReadFull(c, preface); err != nil {
			return
		}
		p := &h2Peer{Framer: http2.NewFramer(c, c), conn: c, n: n, bot: b, headers: map[uint32]http.Header{}}
		p.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
		if b.greet != nil {
			b.greet(p)
		} else {
			_ = p.WriteSettings(b.settings...)
		}
		p.serve()
		_ = c.Close()
		p.floods.Wait()
		b.closed.Add(1)
	}))
	return b
}

func (p *h2Peer) serve() {
	for {
		f, err := p.ReadFrame()
		if err != nil {
			return
		}
		p.mu.Lock()
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if v, ok := f.Value(http2.SettingInitialWindowSize); ok {
				p.window = int(v)
			}
			if !f.IsAck() && !p.mute {
				_ = p.WriteSettingsAck()
			}
		case *http2.PingFrame:
			if !f.IsAck() && !p.mute {
				_ = p.WritePing(true, f.Data)
			}
		case *http2.MetaHeadersFrame:
			h := http.Header{}
			for _, field := range f.RegularFields() {
				h.Add(field.Name, field.Value)
			}
			p.headers[f.StreamID] = h
			if p.bot.onHeaders != nil {
				p.bot.onHeaders(p, f.StreamID)
			}
		case *http2.WindowUpdateFrame, *http2.RSTStreamFrame:
			if p.bot.onOther != nil {
				p.bot.onOther(p, f)
			}
		case *http2.DataFrame:
			if f.StreamEnded() {
				p.whole(f.StreamID)
			}
		}
		p.mu.Unlock()
	}
}

func (p *h2Peer) whole(stream uint32) {
	h := p.headers[stream]
	p.bot.mu.Lock()
	p.bot.got = append(p.bot.got, h)
	p.bot.mu.Unlock()
	if p.bot.onRequest != nil {
		p.bot.onRequest(p, stream, h)
	}
}

// answer answers a request as it should be.
func (p *h2Peer) answer(stream uint32, status string, end bool) error {
	var block bytes.Buffer
	_ = hpack.NewEncoder(&block).WriteField(hpack.HeaderField{Name: ":status", Value: status})
	return p.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: end})
}

// flood writes a frame again and again, as fast as the other side reads, until it is gone.
func (p *h2Peer) flood(frame func() error) {
	p.floods.Go(func() {
		for err := error(nil); err == nil; {
			p.mu.Lock()
			err = frame()
			p.mu.Unlock()
		}
	})
}

func (b *h2Bot) requestsSeen() []http.Header {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]http.Header(nil), b.got...)
}

func TestD08NoRequestIsRepeatedInSecretOverHTTP2(t *testing.T) {
	t.Parallel()
	trust := newAuthority(t)
	events := size(200, 12)
	r := outward(t, func(c *delivery.Config) { c.CallbackCA = trust.pem })
	// Each first try is read as a whole, and then thrown back in a way that allows a client to send it again.
	throws := map[string]func(p *h2Peer, stream uint32){
		"refused stream": func(p *h2Peer, stream uint32) { _ = p.WriteRSTStream(stream, http2.ErrCodeRefusedStream) },
		"protocol error": func(p *h2Peer, stream uint32) { _ = p.WriteRSTStream(stream, http2.ErrCodeProtocol) },
		"going away":     func(p *h2Peer, _ uint32) { _ = p.WriteGoAway(0, http2.ErrCodeNo, nil); _ = p.conn.Close() },
		"end":            func(p *h2Peer, _ uint32) { _ = p.conn.Close() },
	}
	bots, ids := map[string]*h2Bot{}, map[string][]string{}
	for name, throw := range throws {
		bots[name] = startH2Bot(t, trust, &h2Bot{onRequest: func(p *h2Peer, stream uint32, h http.Header) {
			if h.Get("Pulsegate-Try") == "1" {
				throw(p, stream)
				return
			}
			_ = p.answer(stream, "202", true)
		}})
		ids[name] = r.sendAll(t, registration(name, "app", func(r *delivery.Registration) { r.CallbackURL = "https://" + bots[name].addr + "/" }), events)
	}
	requests := 0
	for name, bot := range bots {
		t.Run(name, func(t *testing.T) {
			recs := r.settledAll(t, ids[name])
			seen := bot.requestsSeen()
			requireEveryTryOnce(t, recs, seen)
			require.Len(t, seen, 2*events)
			for _, rec := range recs {
				require.Equal(t, delivery.Delivered, rec.Fate, rec.Message)
			}
			requests += len(seen)
		})
	}
	t.Attr("measured", fmt.Sprintf("%d events over HTTP/2 thrown back once each, %d requests at the bots, as many tries in the ledger", 4*events, requests))
}

func TestD14HTTP2BotsHangNothing(t *testing.T) {
	trust := newAuthority(t)
	timeout := time.Duration(size(5, 1)) * time.Second
	r := outward(t, func(c *delivery.Config) { c.CallbackCA, c.DeliveryTimeout = trust.pem, timeout })
	bots := map[string]*h2Bot{
		"silent":                 {greet: func(p *h2Peer) { p.mute = true }},
		"no reply to pings":      {greet: func(p *h2Peer) { p.mute = true; _ = p.WriteSettings() }},
		"going away mid-request": {onHeaders: func(p *h2Peer, _ uint32) { _ = p.WriteGoAway(0, http2.ErrCodeNo, []byte("bye")) }},
		"going away, then quiet": {onHeaders: func(p *h2Peer, stream uint32) { _ = p.WriteGoAway(stream, http2.ErrCodeNo, nil) }},
		"window 0":               {settings: []http2.Setting{{ID: http2.SettingInitialWindowSize, Val: 0}}},
		"no streams allowed":     {settings: []http2.Setting{{ID: http2.SettingMaxConcurrentStreams, Val: 0}}},
		"flood of resets": {onHeaders: func(p *h2Peer, stream uint32) {
			for range 10_000 {
				_ = p.WriteRSTStream(stream, http2.ErrCodeInternal)
			}
		}},
		"resets of strangers": {onHeaders: func(p *h2Peer, stream uint32) { _ = p.WriteRSTStream(stream+100, http2.ErrCodeInternal) }},
		"flood of pings":      {onHeaders: func(p *h2Peer, _ uint32) { p.flood(func() error { return p.WritePing(false, [8]byte{1}) }) }},
		"flood of settings":   {onHeaders: func(p *h2Peer, _ uint32) { p.flood(func() error { return p.WriteSettings() }) }},
		"headers without end": {onHeaders: func(p *h2Peer, stream uint32) {
			_ = p.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: []byte{0x88}})
			p.flood(func() error { return p.WriteContinuation(stream, false, bytes.Repeat([]byte{0, 1, 'a', 1, 'b'}, 1000)) })
		}},
		"garbage": {onHeaders: func(p *h2Peer, _ uint32) { _ = p.WriteRawFrame(0x0, 0, 7777, bytes.Repeat([]byte{0xff}, 1000)) }},
		"hundreds": {onHeaders: func(p *h2Peer, stream uint32) {
			p.flood(func() error {
				p.answer(stream, "103", false)
				_, err := p.conn.Write(nil)
				time.Sleep(time.Millisecond)
				return err
			})
		}},
	}
	urls := map[string]string{}
	for name := range bots {
		startH2Bot(t, trust, bots[name])
		urls[name] = name
	}
	var worst time.Duration
	together(t, r, urls, func(name string) string { return "https://" + bots[name].addr + "/" }, func(t *testing.T, _ string, rec delivery.Record) {
		require.Equal(t, delivery.Failed, rec.Fate)
		require.Contains(t, []health.Class{health.Timeout, health.Broken}, rec.Class, rec.Message)
		require.LessOrEqual(t, rec.Latency, timeout+time.Second, "not a moment that the machine did not need")
		requireHarmless(t, rec.Message)
		worst = max(worst, rec.Latency)
	})
	r.free(t)
	well := startH2Bot(t, trust, &h2Bot{onRequest: func(p *h2Peer, stream uint32, _ http.Header) { _ = p.answer(stream, "202", true) }})
	rec := r.deliver(t, "well", "https://"+well.addr+"/")
	require.Equal(t, delivery.Delivered, rec.Fate)
	t.Attr("measured", fmt.Sprintf("%d kinds of sick HTTP/2 bots, no try longer than %v, every slot released", len(bots), worst))
}

func TestD14EndlessHTTP2BodyIsAcknowledgedAndNotRead(t *testing.T) {
	trust := newAuthority(t)
	var watch watchedDial
	r := outward(t, func(c *delivery.Config) { c.CallbackCA = trust.pem }, watch.on)
	send := func(p *h2Peer, stream uint32, n int) {
		for ; n > 0; n -= 16 << 10 {
			_ = p.WriteData(stream, false, make([]byte, min(n, 16<<10)))
		}
	}
	reset := make(chan struct{}, 1)
	bot := startH2Bot(t, trust, &h2Bot{
		onRequest: func(p *h2Peer, stream uint32, _ http.Header) {
			_ = p.answer(stream, "202", false)
			send(p, stream, p.window)
		},
		onOther: func(p *h2Peer, f http2.Frame) {
			switch f := f.(type) {
			case *http2.WindowUpdateFrame:
				if f.StreamID != 0 {
					send(p, f.StreamID, int(f.Increment))
				}
			case *http2.RSTStreamFrame:
				reset <- struct{}{}
			}
		},
	})
	rec := r.deliver(t, "e", "https://"+bot.addr+"/")
	require.Equal(t, delivery.Delivered, rec.Fate)
	<-reset
	r.free(t)
	require.Less(t, watch.read.Load(), int64(256<<10), "what is read, a window more, and the handshake")
	t.Attr("measured", fmt.Sprintf("acknowledged, %d KiB read of an endless HTTP/2 body, the stream reset", watch.read.Load()>>10))
}

func TestD14DeadHTTP2ConnectionCostsOneTry(t *testing.T) {
	t.Parallel()
	trust := newAuthority(t)
	r := outward(t, func(c *delivery.Config) { c.CallbackCA = trust.pem })
	bot := startH2Bot(t, trust, &h2Bot{onRequest: func(p *h2Peer, stream uint32, _ http.Header) {
		if !p.mute {
			_ = p.answer(stream, "202", true)
			p.mute = p.n == 1 // from now on the first connection is dead, without a sign of it
		}
	}})
	ids := r.sendAll(t, registration("e", "app", func(r *delivery.Registration) { r.CallbackURL = "https://" + bot.addr + "/" }), 3)
	recs := r.settledAll(t, ids)
	requireEveryTryOnce(t, recs, bot.requestsSeen())
	for i, tries := range []int{1, 2, 2} {
		require.Equal(t, delivery.Delivered, recs[i].Fate)
		require.Equal(t, tries, recs[i].Tries, strings.Repeat("event ", i))
	}
	t.Attr("measured", "events that meet a connection that is dead without a sign: one try lost each, none of them failed")
}

func TestD14HTTP2IsSpokenToBotsThatCan(t *testing.T) {
	protos := make(chan string, 1)
	bot := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		protos <- r.Proto
		w.WriteHeader(http.StatusAccepted)
	}))
	bot.EnableHTTP2 = true
	bot.StartTLS()
	t.Cleanup(bot.Close)
	trust := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: bot.Certificate().Raw}))
	r := outward(t, func(c *delivery.Config) { c.CallbackCA = trust })
	require.Equal(t, delivery.Delivered, r.deliver(t, "e", bot.URL+"/").Fate)
	require.Equal(t, "HTTP/2.0", <-protos)
	t.Attr("measured", "a bot that can is spoken to over HTTP/2")
}
