package main_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// slowCrowd are connections that send a byte of a header a second, and come back when they are thrown out, until stop is called.
type slowCrowd struct {
	open, again atomic.Int64
	done        chan struct{}
	wait        sync.WaitGroup
}

func startSlowCrowd(addr string, n int) *slowCrowd {
	c := &slowCrowd{done: make(chan struct{})}
	for range n {
		c.wait.Go(func() { c.drip(addr) })
	}
	return c
}

// drip is one of the crowd.
func (c *slowCrowd) drip(addr string) {
	for {
		select {
		case <-c.done:
			return
		case <-time.After(10 * time.Millisecond): // not faster, when nobody lets it in
		}
		conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
		if err != nil {
			continue
		}
		c.open.Add(1)
		_, err = io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: ")
		for err == nil {
			select {
			case <-c.done:
				_ = conn.Close()
				c.open.Add(-1)
				return
			case <-time.After(time.Second):
				_, err = io.WriteString(conn, "x")
			}
		}
		_ = conn.Close()
		c.open.Add(-1)
		c.again.Add(1)
	}
}

func (c *slowCrowd) stop() {
	close(c.done)
	c.wait.Wait()
}

// openFilesOf is how many files a process has open.
func openFilesOf(t testing.TB, pid int) int {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	require.NoError(t, err)
	return len(entries)
}

func TestE02SlowConnectionsDoNotKeepOthersOut(t *testing.T) {
	for _, row := range []struct {
		name  string
		slow  int
		flags []string
	}{
		{"fewer than fit", sized(1000, 9_000), nil},
		{"more than fit", sized(300, 10_000), []string{"--max-connections", fmt.Sprint(sized(100, 2_000))}},
	} {
		t.Run(row.name, func(t *testing.T) {
			p := startGateway(t, t.TempDir(), row.flags...)
			addr := strings.TrimPrefix(p.api, "http://")
			before := openFilesOf(t, p.command.Process.Pid)
			crowd := startSlowCrowd(addr, row.slow)
			stopped := false
			defer func() {
				if !stopped {
					crowd.stop()
				}
			}()
			require.Eventually(t, func() bool { return crowd.open.Load() >= int64(row.slow)*8/10 || crowd.again.Load() > int64(row.slow) }, 60*time.Second, 20*time.Millisecond)
			var took []time.Duration
			for range 20 {
				transport := &http.Transport{DisableKeepAlives: true}
				began := time.Now()
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.api+"/healthz", http.NoBody)
				require.NoError(t, err)
				res, err := transport.RoundTrip(req)
				require.NoError(t, err)
				require.Equal(t, http.StatusOK, res.StatusCode)
				require.NoError(t, res.Body.Close())
				took = append(took, time.Since(began))
			}
			slices.Sort(took)
			require.Less(t, took[len(took)/2], 250*time.Millisecond, "%v", took)
			most := openFilesOf(t, p.command.Process.Pid)
			crowd.stop()
			stopped = true
			require.Eventually(t, func() bool { return openFilesOf(t, p.command.Process.Pid) <= before+20 }, 30*time.Second, 50*time.Millisecond)
			measured(t, "%d slow connections: a new honest request in %v (median of 20), %v at most; %d files open then, %d before, %d after", row.slow,
				took[len(took)/2].Round(10*time.Microsecond), took[len(took)-1].Round(10*time.Microsecond), most, before, openFilesOf(t, p.command.Process.Pid))
		})
	}
}
