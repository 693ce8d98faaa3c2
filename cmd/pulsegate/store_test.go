package main_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	main "github.com/pulsegate/pulsegate/cmd/pulsegate"
	"github.com/pulsegate/pulsegate/cmd/rig"
)

// open chooses a store on data without a --redis, and stops it with the test unless it was stopped before.
func open(t testing.TB, data string) main.Store {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	s, err := main.OpenStore(ctx, "", data, false, io.Discard)
	require.NoError(t, err)
	stop := s.Stop
	stopped := false
	s.Stop = func(ctx context.Context) error {
		if stopped {
			return nil
		}
		stopped = true
		return stop(ctx)
	}
	t.Cleanup(func() { require.NoError(t, s.Stop(context.Background())) })
	return s
}

// eventually waits until a condition holds.
func eventually(t testing.TB, condition func() bool, message string) {
	t.Helper()
	require.Eventually(t, condition, 20*time.Second, 20*time.Millisecond, message)
}

// noted is the socket that is noted in a data directory.
func noted(t testing.TB, data string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(data, "redis.sock.path"))
	require.NoError(t, err)
	return strings.TrimSpace(string(text))
}

// serverPID is the process id of the redis-server behind a store; empty when it does not answer.
func serverPID(s main.Store) string {
	info, err := s.Client.Info(context.Background(), "server").Result()
	if err != nil {
		return ""
	}
	return main.Field(info, "process_id")
}

func TestChildIsDurableAndKeepsItsDataOverARestart(t *testing.T) {
	data := t.TempDir()
	first := open(t, data)
	require.Equal(t, "process", first.Tier)
	policy, err := first.Client.ConfigGet(t.Context(), "maxmemory-policy").Result()
	require.NoError(t, err)
	require.Equal(t, "noeviction", policy["maxmemory-policy"])
	require.NoError(t, first.Client.Set(t.Context(), "kept", "yes", 0).Err())
	socket := noted(t, data)
	require.NoError(t, first.Stop(t.Context()))
	require.NoFileExists(t, socket)
	require.NoDirExists(t, filepath.Dir(socket))

	second := open(t, data)
	require.Equal(t, "yes", second.Client.Get(t.Context(), "kept").Val())
}

func TestSecondGatewayJoinsTheChildAndOutlivesIt(t *testing.T) {
	data := t.TempDir()
	first, second := open(t, data), open(t, data)
	require.Contains(t, second.Name, "another gateway")
	require.Equal(t, serverPID(first), serverPID(second))
	require.NoError(t, first.Client.Set(t.Context(), "kept", "yes", 0).Err())

	require.NoError(t, first.Stop(t.Context()))
	eventually(t, func() bool { return second.Client.Get(context.Background(), "kept").Val() == "yes" }, "the second starts its own")
}

func TestTwoStartsAtOnceShareOneChild(t *testing.T) {
	data := t.TempDir()
	stores := make(chan main.Store, 4)
	failures := make(chan error, 4)
	for range 4 {
		go func() {
			s, err := main.OpenStore(context.Background(), "", data, false, io.Discard)
			stores <- s
			failures <- err
		}()
	}
	pids := make(map[string]bool)
	var all []main.Store
	for range 4 {
		s := <-stores
		require.NoError(t, <-failures)
		pids[serverPID(s)] = true
		all = append(all, s)
	}
	require.Len(t, pids, 1)
	for _, s := range all {
		require.NoError(t, s.Stop(t.Context()))
	}
}

func TestChildThatDiesIsStartedAgainOnItsData(t *testing.T) {
	s := open(t, t.TempDir())
	require.NoError(t, s.Client.Set(t.Context(), "kept", "yes", 0).Err())
	before := serverPID(s)
	require.NoError(t, exec.Command("kill", "-KILL", before).Run())
	eventually(t, func() bool { pid := serverPID(s); return pid != "" && pid != before }, "another child answers")
	require.Equal(t, "yes", s.Client.Get(t.Context(), "kept").Val())
}

// hold runs a gateway's store in a process of its own, and returns that process and the id of its redis-server.
func hold(t testing.TB, data string) (*exec.Cmd, string) {
	t.Helper()
	command := exec.Command(os.Args[0])
	command.Env = append(os.Environ(), "PULSEGATE_TEST_HOLD="+data)
	out, err := command.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, command.Start())
	t.Cleanup(func() {
		_ = command.Process.Kill()
		socket, _ := os.ReadFile(filepath.Join(data, "redis.sock.path"))
		main.RemoveSocketDir(strings.TrimSpace(string(socket))) // nobody starts on this data any more
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	pid, ok := strings.CutPrefix(strings.TrimSpace(line), "open ")
	require.True(t, ok, line)
	return command, pid
}

// killGateway ends a process of hold without a warning.
func killGateway(t testing.TB, command *exec.Cmd) {
	t.Helper()
	require.NoError(t, command.Process.Signal(syscall.SIGKILL))
	_ = command.Wait()
}

func TestGatewayThatIsKilledLeavesItsDataToTheNext(t *testing.T) {
	data := t.TempDir()
	killed, pid := hold(t, data)
	joined := open(t, data)
	require.Equal(t, pid, serverPID(joined))
	require.NoError(t, joined.Client.Set(t.Context(), "kept", "yes", 0).Err())
	killGateway(t, killed)
	eventually(t, func() bool { return joined.Client.Get(context.Background(), "kept").Val() == "yes" }, "the data is there")

	again, _ := hold(t, t.TempDir())
	killGateway(t, again)
}

func TestChildDiesWithItsKilledGateway(t *testing.T) {
	data := t.TempDir()
	killed, pid := hold(t, data)
	socket := noted(t, data)
	killGateway(t, killed)
	if runtime.GOOS == "linux" {
		eventually(t, func() bool { return exec.Command("kill", "-0", pid).Run() != nil }, "the child has gone")
	}
	next := open(t, data) // starts its own at once, or joins the one that went on
	require.NotEmpty(t, serverPID(next))
	if runtime.GOOS == "linux" {
		require.NotEqual(t, socket, noted(t, data))
		require.NoDirExists(t, filepath.Dir(socket))
	}
}

func TestStartRightAfterAKillFindsTheData(t *testing.T) {
	data := t.TempDir()
	for range 5 {
		killed, _ := hold(t, data)
		s := open(t, data)
		require.NoError(t, s.Client.Incr(t.Context(), "starts").Err())
		require.NoError(t, s.Stop(t.Context()))
		killGateway(t, killed)
	}
	s := open(t, data)
	require.Equal(t, "5", s.Client.Get(t.Context(), "starts").Val())
}

// fakeServer puts a script in the place of redis-server.
func fakeServer(t testing.TB, script string) {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "redis-server"), []byte("#!/bin/sh\n"+script), 0o755))
	t.Setenv("PATH", dir+":/usr/bin:/bin")
}

func TestServerThatCannotBeUsedStopsTheStartWithOneSentence(t *testing.T) {
	for name, c := range map[string]struct{ script, says string }{
		"too old":         {`echo "Redis server v=5.0.14 sha=00000000:0"`, "is version 5.0.14, too old: install 6.2 or newer"},
		"not a server":    {`echo hello`, "does not say its version (hello)"},
		"does not run":    {`echo "missing library" >&2; exit 127`, "does not run (missing library)"},
		"does not start":  {`[ "$1" = --version ] && { echo "Redis server v=7.0.15"; exit; }; echo first; echo "# Bad file format reading the append only file"; exit 1`, "does not start on"},
		"says the reason": {`[ "$1" = --version ] && { echo "Redis server v=7.0.15"; exit; }; echo first; echo "# Bad file format reading the append only file"; exit 1`, "Bad file format reading the append only file"},
	} {
		t.Run(name, func(t *testing.T) {
			fakeServer(t, c.script)
			_, err := main.OpenStore(t.Context(), "", t.TempDir(), false, io.Discard)
			require.ErrorContains(t, err, c.says)
			require.NotContains(t, err.Error(), "\n")
		})
	}
}

func TestBrokenDataStopsTheStartWithTheServersOwnWords(t *testing.T) {
	data := t.TempDir()
	s := open(t, data)
	require.NoError(t, s.Client.Set(t.Context(), "kept", "yes", 0).Err())
	require.NoError(t, s.Stop(t.Context()))
	files, err := filepath.Glob(filepath.Join(data, "appendonlydir", "*.incr.aof"))
	require.NoError(t, err)
	require.Len(t, files, 1)
	require.NoError(t, os.WriteFile(files[0], []byte("this is no append-only file\r\nnot at all\r\n"), 0o600))

	_, err = main.OpenStore(t.Context(), "", data, false, io.Discard)
	require.ErrorContains(t, err, "redis-server does not start on "+data)
	require.ErrorContains(t, err, "Bad file format")
}

func TestWithoutAServerTheStoreIsInProcessAndSaysSo(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	var banner bytes.Buffer
	s, err := main.OpenStore(t.Context(), "", t.TempDir(), false, &banner)
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Stop(t.Context())) }()
	require.Equal(t, "memory", s.Tier)
	require.Contains(t, banner.String(), "THEY DO NOT SURVIVE")
	require.NoError(t, s.Client.Set(t.Context(), "brief", "yes", 30*time.Millisecond).Err())
	eventually(t, func() bool { return s.Client.Exists(context.Background(), "brief").Val() == 0 }, "keys expire as time passes")

	_, err = main.OpenStore(t.Context(), "", t.TempDir(), true, io.Discard)
	require.ErrorContains(t, err, "--require-durable: no redis-server is on the PATH")
}

func TestDurabilityIsFoundByAskingTheServer(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		tier string
		fix  string
	}{
		"no append-only file": {nil, "memory", "set appendonly yes"},
		"every second":        {[]string{"--appendonly", "yes"}, "process", ""},
		"always":              {[]string{"--appendonly", "yes", "--appendfsync", "always"}, "disk", ""},
		"forbidden":           {[]string{"--appendonly", "yes", "--rename-command", "CONFIG", ""}, "unknown", "allow INFO and CONFIG GET"},
		"evicting":            {[]string{"--appendonly", "yes", "--maxmemory-policy", "allkeys-lru"}, "process", "set maxmemory-policy noeviction"},
	} {
		t.Run(name, func(t *testing.T) {
			url := rig.StartServer(t, rig.ServerConfig{Args: c.args}).URL
			s, err := main.OpenStore(t.Context(), url, "", false, io.Discard)
			require.NoError(t, err)
			require.Equal(t, c.tier, s.Tier)
			require.NoError(t, s.Stop(t.Context()))

			s, err = main.OpenStore(t.Context(), url, "", true, io.Discard)
			if c.fix == "" {
				require.NoError(t, err)
				require.NoError(t, s.Stop(t.Context()))
				return
			}
			require.ErrorContains(t, err, "--require-durable: ")
			require.ErrorContains(t, err, c.fix)
		})
	}
}

func TestRedisThatIsAwayStopsTheStart(t *testing.T) {
	_, err := main.OpenStore(t.Context(), "redis://"+rig.FreeAddress(t), "", false, io.Discard)
	require.ErrorContains(t, err, "reach the store (Redis at 127.0.0.1:")
}

func TestRedisURLsAreRead(t *testing.T) {
	for url, want := range map[string]struct {
		addrs   []string
		db      int
		master  string
		cluster bool
		secure  bool
	}{
		"redis://h":                           {addrs: []string{"h:6379"}},
		"redis://me:pw@h:7000/3":              {addrs: []string{"h:7000"}, db: 3},
		"rediss://h:7000":                     {addrs: []string{"h:7000"}, secure: true},
		"redis://[::1]:7000":                  {addrs: []string{"[::1]:7000"}},
		"redis+cluster://a,b:7001":            {addrs: []string{"a:6379", "b:7001"}, cluster: true},
		"redis+cluster://a:7000":              {addrs: []string{"a:7000"}, cluster: true},
		"rediss+cluster://a:7000":             {addrs: []string{"a:7000"}, cluster: true, secure: true},
		"redis+sentinel://a,b:26380/mymaster": {addrs: []string{"a:26379", "b:26380"}, master: "mymaster"},
	} {
		o, err := main.RedisOptions(url)
		require.NoError(t, err, url)
		require.Equal(t, want.addrs, o.Addrs, url)
		require.Equal(t, want.db, o.DB, url)
		require.Equal(t, want.master, o.MasterName, url)
		require.Equal(t, want.cluster, o.IsClusterMode, url)
		require.Equal(t, want.secure, o.TLSConfig != nil, url)
		require.True(t, o.ContextTimeoutEnabled, url)
		require.Equal(t, -1, o.MaxRetries, url)
	}
}

func TestTheStoreKnowsTheServersBehindSentinelsAndOfACluster(t *testing.T) {
	primary := rig.StartServer(t, rig.ServerConfig{Args: rig.AppendOnly()})
	rig.StartReplica(t, primary)
	cluster := rig.StartCluster(t, 3, 0)
	for url, servers := range map[string][]*rig.Server{rig.StartSentinels(t, primary, 3).URL: {primary}, cluster.URL: cluster.Nodes} {
		s, err := main.OpenStore(t.Context(), url, "", false, io.Discard)
		require.NoError(t, err)
		for i := range 100 { // every master has some
			require.NoError(t, s.Client.Set(t.Context(), fmt.Sprint("k", i), "v", 0).Err())
		}
		for _, server := range servers {
			require.Contains(t, s.Peers(), netip.MustParseAddrPort(server.Addr), url)
		}
		require.NoError(t, s.Stop(t.Context()))
	}
}
