package rig

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// MasterName is what sentinels call the master that they watch.
const MasterName = "mymaster"

// Sentinels watch a master, and make its replica the master when it has been away for 2 s.
type Sentinels struct {
	Servers []*Server
	URL     string // redis+sentinel://host:port,…/mymaster
}

// StartSentinels starts n sentinels that watch master, and waits until they know each other and its replicas. A majority decides.
func StartSentinels(tb TB, master *Server, n int) *Sentinels {
	tb.Helper()
	s := new(Sentinels)
	for range n {
		s.Servers = append(s.Servers, launchSentinel(tb, master, n/2+1))
	}
	s.URL = "redis+sentinel://" + strings.Join(s.Addresses(), ",") + "/" + MasterName
	for _, one := range s.Servers {
		await(tb, "sentinels", func(ctx context.Context) error { return one.watches(ctx, n) })
	}
	return s
}

// Addresses are the host:port of each sentinel.
func (s *Sentinels) Addresses() []string {
	var list []string
	for _, one := range s.Servers {
		list = append(list, one.Addr)
	}
	return list
}

// Master is the host:port of the master, as the first sentinel that answers knows it.
func (s *Sentinels) Master(ctx context.Context) (string, error) {
	var failure error
	for _, one := range s.Servers {
		at, err := one.client.Do(ctx, "SENTINEL", "get-master-addr-by-name", MasterName).StringSlice()
		if err == nil && len(at) == 2 {
			return at[0] + ":" + at[1], nil
		}
		failure = err
	}
	return "", fmt.Errorf("ask sentinels for the master: %w", failure)
}

func launchSentinel(tb TB, master *Server, quorum int) *Server {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "sentinel.conf")
	text := fmt.Sprintf("sentinel monitor %[1]s 127.0.0.1 %[2]d %[3]d\nsentinel down-after-milliseconds %[1]s 2000\nsentinel failover-timeout %[1]s 6000\n",
		MasterName, master.port, quorum)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		tb.Fatalf("write sentinel's settings: %v", err)
	}
	return launch(tb, ServerConfig{file: path, mode: []string{"--sentinel"}})
}

// watches is nil when a sentinel knows the master, its replicas and all n sentinels.
func (s *Server) watches(ctx context.Context, n int) error {
	state, err := s.client.Do(ctx, "SENTINEL", "master", MasterName).Result()
	if err != nil {
		return err
	}
	fields := pairs(state)
	others, _ := strconv.Atoi(fields["num-other-sentinels"])
	replicas, _ := strconv.Atoi(fields["num-slaves"])
	if others != n-1 || replicas == 0 || fields["flags"] != "master" {
		return fmt.Errorf("it knows %d others and %d replicas; the master is %s", others, replicas, fields["flags"])
	}
	return nil
}

// pairs reads a reply that is a map or, before RESP3, a list of names and values.
func pairs(reply any) map[string]string {
	fields := map[string]string{}
	switch reply := reply.(type) {
	case map[any]any:
		for name, value := range reply {
			fields[fmt.Sprint(name)] = fmt.Sprint(value)
		}
	case []any:
		for i := 0; i+1 < len(reply); i += 2 {
			fields[fmt.Sprint(reply[i])] = fmt.Sprint(reply[i+1])
		}
	}
	return fields
}
