package delivery

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/pulsegate/pulsegate/health"
	"github.com/redis/go-redis/v9"
)

// A gateway that is started again after a kill need not wait for the leases of the process that it was: that one is dead, or it would not
// have its name. Nobody can know that for longer than those leases last, so it is only believed for so long: should two living
// processes ever share a name (a copied disk), they take leases from each other once, not for ever, and the fencing token refuses whoever lost.

// inherits says until when leases of the same lineage are taken over.
func (s *store) inherits(until time.Time) { s.heirEnd.Store(until.UnixMilli()) }

// heir is the lineage whose leases are taken over now, or "".
func (s *store) heir() string {
	if s.lineage == "" || time.Now().UnixMilli() >= s.heirEnd.Load() {
		return ""
	}
	return s.lineage
}

// heldBy lists the registrations whose leases a process of that lineage holds.
func (s *store) heldBy(ctx context.Context, lineage string) ([]RegID, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	now := s.now().UnixMilli()
	claimed := &redis.ZRangeBy{Min: strconv.FormatInt(now-1000, 10), Max: strconv.FormatInt(now+leaseTime.Milliseconds()+1000, 10)}
	s.trips.Add(2)
	var members [health.Shards]*redis.StringSliceCmd
	first := s.client.Pipeline()
	for i := range members {
		members[i] = first.ZRangeByScore(ctx, dueKey(health.Shard(i)), claimed)
	}
	if _, err := first.Exec(ctx); err != nil {
		return nil, unavailable("look for leases", err)
	}
	var ids []RegID
	var holders []*redis.StringCmd
	second := s.client.Pipeline()
	for _, list := range members {
		for _, m := range list.Val() {
			if id, err := parseMember(m); err == nil {
				ids = append(ids, id)
				holders = append(holders, second.HGet(ctx, id.standingKey(), "lo"))
			}
		}
	}
	_, _ = second.Exec(ctx) // each has its own error: one that rests has no holder
	var own []RegID
	for i, holder := range holders {
		if strings.HasPrefix(holder.Val(), lineage+".") {
			own = append(own, ids[i])
		}
	}
	return own, nil
}
