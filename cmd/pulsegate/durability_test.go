package main_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	main "github.com/pulsegate/pulsegate/cmd/pulsegate"
	"github.com/pulsegate/pulsegate/cmd/rig"
)

// oldServer plays a redis-server of another version: it answers what is asked before the first write.
func oldServer(t testing.TB, version string) (url string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go answerAsOld(conn, version)
		}
	}()
	return "redis://" + listener.Addr().String()
}

func answerAsOld(conn net.Conn, version string) {
	defer func() { _ = conn.Close() }()
	lines := bufio.NewReader(conn)
	for {
		words, err := readCommand(lines)
		if err != nil {
			return
		}
		answer := "-ERR unknown command\r\n"
		switch strings.ToLower(words[0]) {
		case "ping":
			answer = "+PONG\r\n"
		case "info":
			text := "redis_version:" + version + "\r\naof_enabled:1\r\nmaxmemory_policy:noeviction\r\nrun_id:1\r\n"
			answer = fmt.Sprintf("$%d\r\n%s\r\n", len(text), text)
		case "config":
			answer = "*2\r\n$11\r\nappendfsync\r\n$8\r\neverysec\r\n"
		}
		if _, err := io.WriteString(conn, answer); err != nil {
			return
		}
	}
}

// readCommand reads one command as clients send it: an array of texts.
func readCommand(lines *bufio.Reader) ([]string, error) {
	head, err := lines.ReadString('\n')
	if err != nil {
		return nil, err
	}
	var n int
	if _, err := fmt.Sscanf(head, "*%d", &n); err != nil {
		return nil, err
	}
	words := make([]string, n)
	for i := range words {
		if _, err := lines.ReadString('\n'); err != nil { // its length; no text here holds a line's end
			return nil, err
		}
		if words[i], err = lines.ReadString('\n'); err != nil {
			return nil, err
		}
		words[i] = strings.TrimSpace(words[i])
	}
	return words, nil
}

func TestR11UnsafeRedisIsRefusedOrWarnedOf(t *testing.T) {
	refused := 0
	for name, c := range map[string]struct {
		args []string
		fix  string
	}{
		"evicts":              {append(rig.AppendOnly(), "--maxmemory-policy", "allkeys-lru"), "set maxmemory-policy noeviction"},
		"evicts at random":    {append(rig.AppendOnly(), "--maxmemory-policy", "allkeys-random"), "set maxmemory-policy noeviction"},
		"no append-only file": {nil, "set appendonly yes"},
	} {
		t.Run(name, func(t *testing.T) {
			url := rig.StartServer(t, rig.ServerConfig{Args: c.args}).URL
			status, _, errs := run("serve", "--data", t.TempDir(), "--redis", url, "--require-durable")
			require.Equal(t, 2, status)
			require.Contains(t, errs, "--require-durable: ")
			require.Contains(t, errs, c.fix)
			require.Equal(t, 1, strings.Count(strings.TrimSpace(errs), "\n")+1, "one sentence: %s", errs)
			p := startGateway(t, t.TempDir(), "--redis", url)
			var said readyAnswer
			eventually(t, func() bool { said = p.ready(t); return len(said.Warnings) > 0 }, "a warning")
			require.True(t, said.Ready)
			require.Contains(t, said.Warnings[0], c.fix)
			require.Zero(t, p.stop(t), p.errs)
			require.Contains(t, p.errs.String(), c.fix, "and in the log at start")
			refused++
		})
	}
	t.Run("too old", func(t *testing.T) {
		_, err := main.OpenDurable(t.Context(), oldServer(t, "6.0.16"), "process")
		require.ErrorContains(t, err, "the Redis is version 6.0.16: use 6.2 or newer")
		_, err = main.OpenDurable(t.Context(), oldServer(t, "6.2.0"), "process")
		require.NoError(t, err)
		refused++
	})
	t.Attr("measured", fmt.Sprintf("%d unsafe stores refused with a fix in one sentence, the same warned of in the log and /readyz", refused))
}

// readyAnswer is what /readyz says.
type readyAnswer struct {
	Ready             bool
	Tier, Store       string
	Missing, Warnings []string
	status            int
}

func (p *gatewayProcess) ready(t testing.TB) (said readyAnswer) {
	status, text := p.get(p.ops + "/readyz")
	if status != 0 {
		require.NoError(t, json.Unmarshal([]byte(text), &said), text)
	}
	said.status = status
	return said
}

func TestDurabilityIsRefusedWithItsFix(t *testing.T) {
	everysec := rig.StartServer(t, rig.ServerConfig{Args: rig.AppendOnly()})
	always := rig.StartServer(t, rig.ServerConfig{Args: rig.AppendAlways()})
	nothing := rig.StartServer(t, rig.ServerConfig{})
	rig.StartReplica(t, always)
	for _, c := range []struct {
		url, wanted, tier, fix string
	}{
		{nothing.URL, "process", "", "set appendonly yes"},
		{everysec.URL, "process", "process", ""},
		{everysec.URL, "disk", "", "set appendfsync always"},
		{everysec.URL, "replicated", "", "let one follow it (REPLICAOF)"},
		{always.URL, "process", "disk", ""},
		{always.URL, "disk", "disk", ""},
		{always.URL, "replicated", "replicated", ""},
	} {
		s, err := main.OpenDurable(t.Context(), c.url, c.wanted)
		if c.fix != "" {
			require.ErrorContains(t, err, "--durability "+c.wanted+": ")
			require.ErrorContains(t, err, c.fix)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, c.tier, s.Tier)
		require.NoError(t, s.Stop(t.Context()))
	}
	_, err := main.OpenDurable(t.Context(), "", "replicated")
	require.ErrorContains(t, err, "--durability replicated: a redis-server child has no replica")
}

func TestChildKeepsWhatDurabilityAsksFor(t *testing.T) {
	p := startGateway(t, t.TempDir(), "--durability", "disk")
	require.Contains(t, p.printed, "durability tier: disk")
	require.Zero(t, p.stop(t), p.errs)
}

// A store that stops giving the tier makes the gateway not ready, and ready again when it gives it again.
func TestDurabilityIsWatchedWhileRunning(t *testing.T) {
	s := rig.StartServer(t, rig.ServerConfig{Args: rig.AppendOnly()})
	p := startGateway(t, t.TempDir(), "--redis", s.URL, "--durability", "process")
	require.NoError(t, s.Client().ConfigSet(t.Context(), "appendonly", "no").Err())
	var said readyAnswer
	eventually(t, func() bool { said = p.ready(t); return said.status == http.StatusServiceUnavailable }, "not ready")
	require.Equal(t, []string{"durability: process is asked for, but the Redis keeps no append-only file: set appendonly yes"}, said.Missing)
	require.Equal(t, "memory", said.Tier)
	_, metrics := p.get(p.ops + "/metrics")
	require.Contains(t, metrics, "pulsegate_store_durability_kept 0")
	require.Contains(t, metrics, `pulsegate_store_durability{tier="memory"} 1`)
	status, _ := p.get(p.ops + "/healthz")
	require.Equal(t, http.StatusOK, status)
	require.NoError(t, s.Client().ConfigSet(t.Context(), "appendonly", "yes").Err())
	eventually(t, func() bool { return p.ready(t).Ready }, "ready again")
	s.Restart()
	eventually(t, func() bool {
		_, metrics = p.get(p.ops + "/metrics")
		return strings.Contains(metrics, "pulsegate_store_servers_changed_total 1")
	}, "the new run is noticed")
	require.Zero(t, p.stop(t), p.errs)
	require.Contains(t, p.errs.String(), "does not give the durability any more")
}
