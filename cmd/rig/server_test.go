package rig_test

import (
	"context"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulsegate/pulsegate/cmd/rig"
)

func TestServerKeepsItsAddressAndFilesOverAKill(t *testing.T) {
	s := rig.StartServer(t, rig.ServerConfig{Args: rig.AppendAlways()})
	require.NoError(t, s.Client().Set(t.Context(), "kept", "yes", 0).Err())
	before := s.PID()
	s.Kill()
	require.Error(t, s.Client().Ping(t.Context()).Err())
	s.Restart()
	require.NotEqual(t, before, s.PID())
	require.Equal(t, "yes", s.Client().Get(t.Context(), "kept").Val())
}

func TestPausedServerAnswersWhenItGoesOn(t *testing.T) {
	s := rig.StartServer(t, rig.ServerConfig{})
	s.Pause()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, s.Client().Ping(ctx).Err(), os.ErrDeadlineExceeded)
	s.Resume()
	require.NoError(t, s.Client().Ping(t.Context()).Err())
	s.Pause()
	s.Kill()
}

func TestReplicaFollowsItsPrimary(t *testing.T) {
	primary := rig.StartServer(t, rig.ServerConfig{})
	require.NoError(t, primary.Client().Set(t.Context(), "before", "yes", 0).Err())
	replica := rig.StartReplica(t, primary)
	require.Equal(t, "yes", replica.Client().Get(t.Context(), "before").Val())
	require.ErrorContains(t, replica.Client().Set(t.Context(), "k", "v", 0).Err(), "READONLY")
	primary.Kill()
	replica.Promote()
	require.NoError(t, replica.Client().Set(t.Context(), "k", "v", 0).Err())
}

func TestSentinelsPromoteTheReplicaOfADeadMaster(t *testing.T) {
	primary := rig.StartServer(t, rig.ServerConfig{})
	replica := rig.StartReplica(t, primary)
	sentinels := rig.StartSentinels(t, primary, 3)
	at, err := sentinels.Master(t.Context())
	require.NoError(t, err)
	require.Equal(t, primary.Addr, at)
	primary.Kill()
	require.Eventually(t, func() bool {
		at, err := sentinels.Master(t.Context())
		return err == nil && at == replica.Addr && replica.Client().Set(t.Context(), "k", "v", 0).Err() == nil
	}, 30*time.Second, 20*time.Millisecond)
}

func TestClusterServesMovesAndFailsOver(t *testing.T) {
	c := rig.StartCluster(t, 3, 3)
	client := c.NewClient(t)
	for i := range 300 {
		require.NoError(t, client.Set(t.Context(), strconv.Itoa(i), i, 0).Err())
	}
	to := c.Master(16_000)
	c.Move(0, 99, to)
	require.Equal(t, to, c.Master(50))
	require.NotEqual(t, to, c.Master(100))
	c.AwaitWhole()
	c.Master(100).Kill()
	require.NotNil(t, c.Master(100))
	c.AwaitWhole()
	for i := range 300 {
		require.Eventually(t, func() bool { n, err := client.Get(t.Context(), strconv.Itoa(i)).Int(); return err == nil && n == i }, 10*time.Second, 5*time.Millisecond)
	}
}

// TestServerDoesNotOutliveAKilledTestProcess runs this test again in a process of its own, which is killed while its server runs.
func TestServerDoesNotOutliveAKilledTestProcess(t *testing.T) {
	if file := os.Getenv("PULSEGATE_TEST_OUTLIVE"); file != "" {
		s := rig.StartServer(t, rig.ServerConfig{})
		require.NoError(t, os.WriteFile(file, []byte(strconv.Itoa(s.PID())+"\n"), 0o600))
		select {}
	}
	file := t.TempDir() + "/pid"
	command := exec.Command(os.Args[0], "-test.run", "^TestServerDoesNotOutliveAKilledTestProcess$")
	command.Env = append(os.Environ(), "PULSEGATE_TEST_OUTLIVE="+file)
	require.NoError(t, command.Start())
	var pid string
	require.Eventually(t, func() bool {
		text, _ := os.ReadFile(file)
		pid = strings.TrimSpace(string(text))
		return strings.HasSuffix(string(text), "\n")
	}, 30*time.Second, 10*time.Millisecond)
	require.NoError(t, command.Process.Kill())
	_ = command.Wait()
	if runtime.GOOS != "linux" { // nothing ties it to its parent there
		require.NoError(t, exec.Command("kill", "-KILL", pid).Run())
	}
	require.Eventually(t, func() bool { return exec.Command("kill", "-0", pid).Run() != nil }, 10*time.Second, 10*time.Millisecond)
}
