package delivery

import (
	"context"
	"time"

	"github.com/pulsegate/pulsegate/health"
	"github.com/redis/go-redis/v9"
)

// busy are the shards in which one of the keys is there: sets that are empty are not. A single server is asked one question, and only if
// somebody has work which shard it is; so a store in which nobody has costs nearly nothing however many registrations it holds, and one
// in which something waits for its time costs little.
func (s *store) busy(keys func(health.Shard) []string) ([]health.Shard, error) {
	if !s.cluster {
		var all []string
		for sh := range health.Shard(health.Shards) {
			all = append(all, keys(sh)...)
		}
		n, err := s.there(all)
		if err != nil || n[0] == 0 {
			return nil, err
		}
	}
	each := make([][]string, health.Shards)
	for i := range each {
		each[i] = keys(health.Shard(i))
	}
	n, err := s.there(each...)
	if err != nil {
		return nil, err
	}
	var shards []health.Shard
	for i := range n {
		if n[i] > 0 {
			shards = append(shards, health.Shard(i))
		}
	}
	return shards, nil
}

// there counts the keys of each list that are there, in one round trip, and hears the store's clock. What a cluster cannot say of a shard
// whose master is away must not hide the others: it counts as there, and whoever looks closer gets the error.
func (s *store) there(lists ...[]string) ([]int64, error) {
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	s.trips.Add(1)
	pipe := s.client.Pipeline()
	var clock *redis.TimeCmd
	if s.cluster {
		s.askTime(ctx)
	} else {
		clock = pipe.Time(ctx)
	}
	counts := make([]*redis.IntCmd, len(lists))
	for i, keys := range lists {
		counts[i] = pipe.Exists(ctx, keys...)
	}
	if _, err := pipe.Exec(ctx); err != nil && !s.cluster {
		return nil, err
	}
	if clock != nil && clock.Err() == nil {
		s.heard(clock.Val().UnixMilli())
	}
	n := make([]int64, len(lists))
	for i, c := range counts {
		if n[i] = c.Val(); c.Err() != nil {
			n[i] = 1
		}
	}
	return n, nil
}

// askTime hears the clock of a cluster now and then. Some master is asked, whichever it is: one that does not answer is not to keep those who look
// after the others waiting.
func (s *store) askTime(ctx context.Context) {
	now := time.Now()
	if next := s.nextTime.Load(); now.UnixNano() < next || !s.nextTime.CompareAndSwap(next, now.Add(timeAgain).UnixNano()) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, quickTime)
	defer cancel()
	if t, err := s.client.Time(ctx).Result(); err == nil {
		s.heard(t.UnixMilli())
		s.nextTime.Store(now.Add(timeEvery).UnixNano())
	}
}

const (
	timeEvery = 10 * time.Second       // between two questions for a cluster's clock, which every script tells as well
	timeAgain = 2 * time.Second        // after one that had no answer
	quickTime = 500 * time.Millisecond // of one that all shards would wait for
)

// attentionKeys are the sets of a shard that name what needs attention, now or later.
func attentionKeys(sh health.Shard) []string {
	return append(outboxKeys(sh), dueKey(sh), judgeKey(sh))
}

// outboxKeys are the sets of a shard that entries of the outbox wait in.
func outboxKeys(sh health.Shard) []string { return []string{noticesKey(sh), outKey(sh)} }
