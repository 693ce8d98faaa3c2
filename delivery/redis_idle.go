package delivery

import (
	"context"

	"github.com/pulsegate/pulsegate/health"
	"github.com/redis/go-redis/v9"
)

// nothing says that none of the keys of any shard is there: sets that are empty are not. It is one command, or one for each shard on a
// cluster, so that a store in which nobody has work costs nearly nothing however many registrations it holds.
func (s *store) nothing(keys func(health.Shard) []string) (bool, error) {
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	s.trips.Add(1)
	pipe := s.client.Pipeline()
	clock := pipe.Time(ctx)
	var there []*redis.IntCmd
	var all []string
	for sh := range health.Shard(health.Shards) {
		if s.cluster {
			there = append(there, pipe.Exists(ctx, keys(sh)...))
		} else {
			all = append(all, keys(sh)...)
		}
	}
	if len(all) > 0 {
		there = append(there, pipe.Exists(ctx, all...))
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return false, err
	}
	s.heard(clock.Val().UnixMilli())
	for _, n := range there {
		if n.Val() > 0 {
			return false, nil
		}
	}
	return true, nil
}

// attentionKeys are the sets of a shard that name what needs attention, now or later.
func attentionKeys(sh health.Shard) []string {
	return append(outboxKeys(sh), dueKey(sh), judgeKey(sh))
}

// outboxKeys are the sets of a shard that entries of the outbox wait in.
func outboxKeys(sh health.Shard) []string { return []string{noticesKey(sh), outKey(sh)} }
