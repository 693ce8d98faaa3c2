package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// tier says what the store survives.
type tier string

// The tiers, weakest first; unknown stands apart, because the store would not say.
const (
	tierMemory     tier = "memory"     // nothing
	tierProcess    tier = "process"    // the end of the store's process, however sudden
	tierDisk       tier = "disk"       // loss of power
	tierReplicated tier = "replicated" // loss of the whole server: what no replica has confirmed is refused
	tierUnknown    tier = "unknown"
)

// tiers are all tiers.
func tiers() []tier { return []tier{tierMemory, tierProcess, tierDisk, tierReplicated, tierUnknown} }

// durability is what one Redis says of its keeping.
type durability struct {
	tier     tier     // of the server alone
	version  string   // "7.0.15"; empty: it would not say
	policy   string   // of memory that is full; empty: it would not say
	replicas int      // that follow it and are up to date, or nearly
	runs     []string // ids of the runs of all servers
}

// inspectStore asks a Redis, or every master of a cluster, how it keeps what it is given, and returns the weakest answer.
func inspectStore(ctx context.Context, client redis.UniversalClient) (durability, error) {
	cluster, ok := client.(*redis.ClusterClient)
	if !ok {
		return inspectServer(ctx, client)
	}
	var mu sync.Mutex
	var weakest *durability
	err := cluster.ForEachMaster(ctx, func(ctx context.Context, master *redis.Client) error {
		found, err := inspectServer(ctx, master)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		if weakest == nil {
			weakest = &found
		} else {
			both := weakest.and(found)
			weakest = &both
		}
		return nil
	})
	switch {
	case err != nil:
		return durability{}, err
	case weakest == nil:
		return durability{}, fmt.Errorf("the cluster has no master")
	}
	return *weakest, nil
}

// and is what two servers of one cluster have in common.
func (d durability) and(other durability) durability {
	both := d
	if other.weaker(d) {
		both = other
	}
	both.replicas = min(d.replicas, other.replicas)
	both.runs = append(append([]string(nil), d.runs...), other.runs...)
	slices.Sort(both.runs)
	return both
}

// weaker orders answers by what is to be worried about.
func (d durability) weaker(than durability) bool {
	rank := func(d durability) int {
		if d.policy != "" && d.policy != "noeviction" {
			return 0
		}
		return map[tier]int{tierMemory: 1, tierUnknown: 2, tierProcess: 3, tierDisk: 4}[d.tier]
	}
	return rank(d) < rank(than)
}

// inspectServer asks one server. A server that forbids the questions has an unknown tier; one that does not answer is an error.
func inspectServer(ctx context.Context, server redis.Cmdable) (durability, error) {
	if err := awaitAnswer(ctx, server); err != nil {
		return durability{}, err
	}
	info := make(map[string]string)
	for _, section := range []string{"server", "persistence", "memory", "replication"} {
		text, err := server.Info(ctx, section).Result()
		if err != nil && !isRefusal(err) {
			return durability{}, fmt.Errorf("ask the store what it keeps: %w", err)
		}
		for line := range strings.Lines(text) {
			if key, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
				info[key] = value
			}
		}
	}
	found := durability{
		version: info["redis_version"], policy: info["maxmemory_policy"], tier: tierUnknown, replicas: onlineReplicas(info), runs: []string{info["run_id"]},
	}
	switch info["aof_enabled"] {
	case "0":
		found.tier = tierMemory // a snapshot now and then keeps nothing that came after it
	case "1":
		sync, err := server.ConfigGet(ctx, "appendfsync").Result()
		if err != nil && !isRefusal(err) {
			return durability{}, fmt.Errorf("ask the store what it keeps: %w", err)
		}
		if err == nil && sync["appendfsync"] == "always" {
			found.tier = tierDisk
		} else if err == nil && sync["appendfsync"] != "" {
			found.tier = tierProcess
		}
	}
	return found, nil
}

// isRefusal says that a server has answered, and will not say.
func isRefusal(err error) bool {
	var answer redis.Error
	return errors.As(err, &answer)
}

// onlineReplicas counts the replicas of a server by its INFO: slave0:ip=…,state=online,….
func onlineReplicas(info map[string]string) int {
	n := 0
	for key, value := range info {
		rest, ok := strings.CutPrefix(key, "slave")
		if _, err := strconv.Atoi(rest); ok && err == nil && strings.Contains(value, "state=online") {
			n++
		}
	}
	return n
}

// gives is the tier that the store gives when wanted is asked of it; empty: whatever it gives.
func (d durability) gives(wanted tier) tier {
	if wanted == tierReplicated && d.lacks(wanted) == "" {
		return tierReplicated
	}
	return d.tier
}

// lacks says what must be changed about the store so that it gives a tier, with the fix; empty: nothing.
func (d durability) lacks(wanted tier) string {
	list := d.warnings()
	switch {
	case wanted == "":
		return ""
	case len(list) > 0:
		return list[0]
	case wanted == tierDisk && d.tier != tierDisk:
		return "the Redis writes its append-only file out once a second: set appendfsync always"
	case wanted == tierReplicated && d.replicas == 0:
		return "the Redis has no replica that is online: let one follow it (REPLICAOF), in a cluster each master"
	}
	return ""
}

// awaitAnswer waits for a server that is still loading its data; any other failure is final.
func awaitAnswer(ctx context.Context, server redis.Cmdable) error {
	for {
		err := server.Ping(ctx).Err()
		if err == nil || !strings.HasPrefix(err.Error(), "LOADING") {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// warnings lists what should be changed about the store, each with its fix.
func (d durability) warnings() []string {
	var list []string
	switch d.tier {
	case tierMemory:
		list = append(list, "the Redis keeps no append-only file: set appendonly yes")
	case tierUnknown:
		list = append(list, "the Redis does not say how it keeps its data: allow INFO and CONFIG GET to this user")
	}
	if d.policy != "" && d.policy != "noeviction" {
		list = append(list, "the Redis throws keys away when its memory is full: set maxmemory-policy noeviction")
	}
	if d.version != "" && !versionEnough(d.version) {
		list = append(list, "the Redis is version "+d.version+": use 6.2 or newer")
	}
	return list
}

// versionEnough tells whether a version is 6.2 or newer.
func versionEnough(version string) bool {
	parts := strings.SplitN(version, ".", 3)
	if len(parts) < 2 {
		return false
	}
	major, err1 := strconv.Atoi(parts[0])
	minor, err2 := strconv.Atoi(parts[1])
	return err1 == nil && err2 == nil && (major > 6 || major == 6 && minor >= 2)
}
