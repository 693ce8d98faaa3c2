package rig_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pulsegate/pulsegate/cmd/rig"
)

func TestMain(m *testing.M) {
	redis.SetLogger(mute{})
	goleak.VerifyTestMain(m)
}

// mute is a logger that says nothing.
type mute struct{}

func (mute) Printf(context.Context, string, ...any) {}

// echo answers every byte with itself and notes all that came. It ends with the test.
type echo struct {
	addr string
	mu   sync.Mutex
	came bytes.Buffer
}

func startEcho(t testing.TB) *echo {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	e := &echo{addr: listener.Addr().String()}
	var owned sync.WaitGroup
	owned.Go(func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			owned.Go(func() { e.answer(c) })
		}
	})
	t.Cleanup(func() { _ = listener.Close(); owned.Wait() })
	return e
}

func (e *echo) answer(c net.Conn) {
	defer func() { _ = c.Close() }()
	buffer := make([]byte, 4096)
	for {
		n, err := c.Read(buffer)
		e.mu.Lock()
		e.came.Write(buffer[:n])
		e.mu.Unlock()
		if err != nil {
			return
		}
		if _, err := c.Write(buffer[:n]); err != nil {
			return
		}
	}
}

func (e *echo) got() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.came.String()
}

// caller is a connection through a wire.
type caller struct {
	*net.TCPConn
	t testing.TB
}

func call(t testing.TB, addr string) caller {
	c, err := net.DialTimeout("tcp", addr, 5*time.Second)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return caller{c.(*net.TCPConn), t}
}

func (c caller) say(text string) {
	_, err := c.Write([]byte(text))
	require.NoError(c.t, err)
}

// hear waits for that text.
func (c caller) hear(text string) {
	c.t.Helper()
	require.NoError(c.t, c.SetReadDeadline(time.Now().Add(10*time.Second)))
	buffer := make([]byte, len(text))
	_, err := io.ReadFull(c, buffer)
	require.NoError(c.t, err)
	require.Equal(c.t, text, string(buffer))
}

// hearNothing waits a moment in which nothing may come.
func (c caller) hearNothing() {
	c.t.Helper()
	require.NoError(c.t, c.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
	_, err := c.Read(make([]byte, 1))
	require.ErrorIs(c.t, err, os.ErrDeadlineExceeded)
}

// callEndsByReset connects to who resets that at once: while it is made, or right after.
func callEndsByReset(t testing.TB, addr string) {
	t.Helper()
	c, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		require.ErrorIs(t, err, syscall.ECONNRESET)
		return
	}
	defer func() { _ = c.Close() }()
	caller{c.(*net.TCPConn), t}.hearReset()
}

// hearReset waits for the end by RST.
func (c caller) hearReset() {
	c.t.Helper()
	require.NoError(c.t, c.SetReadDeadline(time.Now().Add(10*time.Second)))
	_, err := io.Copy(io.Discard, c)
	require.True(c.t, errors.Is(err, syscall.ECONNRESET), "%v", err)
}

func TestWirePassesBytesAndEnds(t *testing.T) {
	e := startEcho(t)
	w := rig.NewWire(t, e.addr)
	c := call(t, w.Addr())
	c.say("hello")
	c.hear("hello")
	big := string(bytes.Repeat([]byte("0123456789abcdef"), 1<<14))
	go func() { _, _ = c.Write([]byte(big)) }()
	c.hear(big)
	require.NoError(t, c.CloseWrite())
	require.NoError(t, c.SetReadDeadline(time.Now().Add(10*time.Second)))
	rest, err := io.ReadAll(c)
	require.NoError(t, err, "the end comes in good order")
	require.Empty(t, rest)
}

func TestWireDropsAndResetsWhatLostBytes(t *testing.T) {
	e := startEcho(t)
	w := rig.NewWire(t, e.addr)
	idle, busy := call(t, w.Addr()), call(t, w.Addr())
	idle.say("i")
	idle.hear("i")
	busy.say("b")
	busy.hear("b")
	w.Drop()
	busy.say("lost")
	busy.hearNothing()
	fresh := call(t, w.Addr())
	fresh.say("lost too")
	fresh.hearNothing()
	w.Pass()
	busy.hearReset()
	fresh.hearReset()
	idle.say("still")
	idle.hear("still")
	require.NotContains(t, e.got(), "lost")
}

func TestWireCutsOneWay(t *testing.T) {
	for d, arrives := range map[rig.Direction]bool{rig.ToServer: false, rig.ToClient: true} {
		e := startEcho(t)
		w := rig.NewWire(t, e.addr)
		c := call(t, w.Addr())
		c.say("a")
		c.hear("a")
		w.Cut(d)
		c.say("request")
		c.hearNothing()
		if arrives {
			require.Eventually(t, func() bool { return e.got() == "arequest" }, 10*time.Second, time.Millisecond)
		} else {
			require.Equal(t, "a", e.got())
		}
		w.Pass()
		c.hearReset()
	}
}

func TestWireDelaysWithoutHoldingUp(t *testing.T) {
	w := rig.NewWire(t, startEcho(t).addr)
	c := call(t, w.Addr())
	c.say("a")
	c.hear("a")
	const delay = 60 * time.Millisecond
	w.Delay(delay)
	began := time.Now()
	for range 20 {
		c.say("x")
		<-time.After(5 * time.Millisecond) // so that each is a chunk of its own
	}
	for range 20 {
		c.hear("x")
	}
	took := time.Since(began)
	require.GreaterOrEqual(t, took, 2*delay, "there and back")
	require.Less(t, took, 20*2*delay, "one after the other, not one by one")
}

func TestWireThatIsHalfOpenLosesNothing(t *testing.T) {
	e := startEcho(t)
	w := rig.NewWire(t, e.addr)
	old := call(t, w.Addr())
	old.say("a")
	old.hear("a")
	w.HalfOpen()
	old.say("waits")
	old.hearNothing()
	fresh := call(t, w.Addr())
	fresh.say("waits")
	fresh.hearNothing()
	require.Equal(t, "a", e.got())
	w.Pass()
	old.hear("waits")
	fresh.hear("waits")
}

func TestWireResetsAndRefuses(t *testing.T) {
	w := rig.NewWire(t, startEcho(t).addr)
	c := call(t, w.Addr())
	c.say("a")
	c.hear("a")
	w.Reset()
	c.hearReset()
	callEndsByReset(t, w.Addr())
	w.Pass()
	c = call(t, w.Addr())
	c.say("a")
	c.hear("a")
	w.Refuse()
	c.hearReset()
	_, err := net.Dial("tcp", w.Addr())
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	w.Pass()
	c = call(t, w.Addr())
	c.say("a")
	c.hear("a")
}

func TestWireGoesToAnotherAddress(t *testing.T) {
	one, two := startEcho(t), startEcho(t)
	w := rig.NewWire(t, one.addr)
	c := call(t, w.Addr())
	c.say("a")
	c.hear("a")
	w.To(two.addr)
	c.hearReset()
	c = call(t, w.Addr())
	c.say("b")
	c.hear("b")
	require.Equal(t, "ab", one.got()+two.got())
}

func TestWireToNobodyResets(t *testing.T) {
	w := rig.NewWire(t, "127.0.0.1:1")
	callEndsByReset(t, w.Addr())
}

func TestClosedWireHasNoGoroutines(t *testing.T) {
	e := startEcho(t)
	before := goleak.IgnoreCurrent()
	w := rig.NewWire(t, e.addr)
	passing := call(t, w.Addr())
	passing.say("a")
	passing.hear("a")
	w.HalfOpen()
	call(t, w.Addr()).say("never read")
	w.Drop()
	call(t, w.Addr()).say("lost")
	w.Close()
	w.Close()
	passing.hearReset()
	goleak.VerifyNone(t, before, goleak.IgnoreAnyFunction("github.com/pulsegate/pulsegate/cmd/rig_test.(*echo).answer"))
}
