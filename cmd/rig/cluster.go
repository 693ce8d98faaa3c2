package rig

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// slots is how many slots a cluster has.
const slots = 16_384

// Cluster is a Redis Cluster that notices a dead master after 2 s and serves the slots that it has when others are away.
type Cluster struct {
	Nodes []*Server // those that began as masters first; the i-th replica of Nodes[i%masters] follows them
	URL   string    // redis+cluster://host:port,…

	tb        TB
	addresses []string
}

// StartCluster starts a cluster whose masters share the slots evenly and have the replicas in turn, with an append-only file each, and
// waits until every node finds it whole. It needs redis-server 7.0 or newer.
func StartCluster(tb TB, masters, replicas int) *Cluster {
	tb.Helper()
	c := &Cluster{tb: tb}
	for range masters + replicas {
		node := launch(tb, ServerConfig{Args: append(AppendOnly(), "--cluster-enabled", "yes", "--cluster-node-timeout", "2000",
			"--cluster-require-full-coverage", "no", "--cluster-replica-validity-factor", "0")})
		c.Nodes = append(c.Nodes, node)
		c.addresses = append(c.addresses, node.Addr)
	}
	c.URL = "redis+cluster://" + strings.Join(c.addresses, ",")
	c.join(masters)
	c.AwaitWhole()
	return c
}

// NewClient returns a client of the cluster, without retries but for redirections, that is closed with tb.
func (c *Cluster) NewClient(tb TB) *redis.ClusterClient {
	client := redis.NewClusterClient(&redis.ClusterOptions{
		Addrs: c.addresses, MaxRetries: -1, DialerRetries: 1, ContextTimeoutEnabled: true, DisableIdentity: true, DialTimeout: 2 * time.Second,
		ReadTimeout: 5 * time.Second, ClusterStateReloadInterval: time.Second, MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
	tb.Cleanup(func() { _ = client.Close() })
	return client
}

// join gives the masters their slots, has all nodes meet, and gives the replicas their masters.
func (c *Cluster) join(masters int) {
	c.tb.Helper()
	ids := make([]string, len(c.Nodes))
	for i, node := range c.Nodes {
		node.AwaitAnswer()
		ids[i] = c.do(node, "CLUSTER", "MYID")
		c.do(node, "CLUSTER", "SET-CONFIG-EPOCH", i+1)
		if i < masters {
			c.do(node, "CLUSTER", "ADDSLOTSRANGE", i*slots/masters, (i+1)*slots/masters-1)
		}
		c.do(c.Nodes[0], "CLUSTER", "MEET", "127.0.0.1", node.port)
	}
	for i, node := range c.Nodes[masters:] {
		master := ids[i%masters]
		await(c.tb, "a replica that knows its master", func(ctx context.Context) error {
			return node.client.Do(ctx, "CLUSTER", "REPLICATE", master).Err()
		})
	}
}

// do runs one command on a node and returns its reply as text.
func (c *Cluster) do(node *Server, args ...any) string {
	c.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	reply, err := node.client.Do(ctx, args...).Result()
	if err != nil {
		c.tb.Fatalf("%v on %s: %v", args, node.Addr, err)
	}
	return fmt.Sprint(reply)
}

// AwaitWhole waits until every node that runs finds all slots served, agrees with the others who the masters are, and is not behind its own.
func (c *Cluster) AwaitWhole() {
	c.tb.Helper()
	await(c.tb, "cluster", func(ctx context.Context) error {
		views := map[string]bool{}
		for _, node := range c.Nodes {
			if !node.process.running() {
				continue
			}
			view, err := node.wholeView(ctx, len(c.Nodes))
			if err != nil {
				return fmt.Errorf("%s: %w", node.Addr, err)
			}
			views[view] = true
		}
		if len(views) != 1 {
			return errors.New("the nodes disagree who serves what")
		}
		return nil
	})
}

// wholeView is how a node sees the cluster: who serves which slots. It is an error when anything is amiss.
func (s *Server) wholeView(ctx context.Context, nodes int) (string, error) {
	state, err := s.client.ClusterInfo(ctx).Result()
	if err != nil {
		return "", err
	}
	for _, want := range []string{"cluster_state:ok", fmt.Sprintf("cluster_slots_ok:%d", slots), fmt.Sprintf("cluster_known_nodes:%d", nodes)} {
		if !strings.Contains(state, want) {
			return "", errors.New("it does not say " + want)
		}
	}
	info, err := s.client.Info(ctx, "replication").Result()
	if err != nil {
		return "", err
	}
	if strings.Contains(info, "master_link_status:down") {
		return "", errors.New("it has no link to its master")
	}
	//lint:ignore SA1019 its successor needs Redis 7, and 6.2 is served as well
	served, err := s.client.ClusterSlots(ctx).Result()
	if err != nil {
		return "", err
	}
	var view strings.Builder
	for _, r := range served {
		fmt.Fprintf(&view, "%d-%d %s %d\n", r.Start, r.End, r.Nodes[0].ID, len(r.Nodes))
	}
	return view.String(), nil
}

// Master is the node that serves a slot at present, as the first node that answers knows it.
func (c *Cluster) Master(slot int) *Server {
	c.tb.Helper()
	var found *Server
	await(c.tb, fmt.Sprintf("a master of slot %d", slot), func(ctx context.Context) error {
		for _, node := range c.Nodes {
			if !node.process.running() {
				continue
			}
			if found = c.masterBy(ctx, node, slot); found != nil {
				return nil
			}
		}
		return errors.New("no node knows one")
	})
	return found
}

func (c *Cluster) masterBy(ctx context.Context, node *Server, slot int) *Server {
	//lint:ignore SA1019 its successor needs Redis 7, and 6.2 is served as well
	served, err := node.client.ClusterSlots(ctx).Result()
	if err != nil {
		return nil
	}
	for _, r := range served {
		if slot < r.Start || slot > r.End {
			continue
		}
		for _, other := range c.Nodes {
			if other.Addr == net.JoinHostPort("127.0.0.1", portOf(r.Nodes[0].Addr)) && other.process.running() {
				return other
			}
		}
	}
	return nil
}

func portOf(addr string) string {
	_, port, _ := net.SplitHostPort(addr)
	return port
}

// Move gives the slots from first to last, all served by one node, to another master, with their keys, while both serve them.
func (c *Cluster) Move(first, last int, to *Server) {
	c.tb.Helper()
	from := c.Master(first)
	fromID, toID := c.do(from, "CLUSTER", "MYID"), c.do(to, "CLUSTER", "MYID")
	for slot := first; slot <= last; slot++ {
		c.do(to, "CLUSTER", "SETSLOT", slot, "IMPORTING", fromID)
		c.do(from, "CLUSTER", "SETSLOT", slot, "MIGRATING", toID)
		for c.moveKeys(slot, from, to) {
		}
		c.do(to, "CLUSTER", "SETSLOT", slot, "NODE", toID)
		c.do(from, "CLUSTER", "SETSLOT", slot, "NODE", toID)
	}
}

// moveKeys moves some keys of a slot; false: it has none.
func (c *Cluster) moveKeys(slot int, from, to *Server) bool {
	c.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	keys, err := from.client.ClusterGetKeysInSlot(ctx, slot, 100).Result()
	if err != nil {
		c.tb.Fatalf("list keys of slot %d: %v", slot, err)
	}
	if len(keys) == 0 {
		return false
	}
	args := []any{"MIGRATE", "127.0.0.1", to.port, "", 0, 5000, "KEYS"}
	for _, key := range keys {
		args = append(args, key)
	}
	c.do(from, args...)
	return true
}
