package delivery

import (
	"context"
	_ "embed"

	"github.com/pulsegate/pulsegate/health"
	"github.com/redis/go-redis/v9"
)

//go:embed mend.lua
var mendLua string

//go:embed mendout.lua
var mendoutLua string

// mender puts back into their sorted sets what has lost its place there.
type mender struct {
	s           *store
	regs, outgo *redis.Script
}

func newMender(s *store) *mender {
	return &mender{s: s, regs: redis.NewScript(health.Lua() + mendLua), outgo: redis.NewScript(health.Lua() + mendoutLua)}
}

// mendPage is how many registrations or entries are mended in one step.
const mendPage = 256

// registrations puts registrations of a shard back into due and judge, and returns how many had lost their place.
func (m *mender) registrations(ctx context.Context, sh health.Shard) (n int64, err error) {
	err = m.pages(ctx, hashesKey(sh), func(page []string) error {
		keys, names := []string{dueKey(sh), judgeKey(sh)}, []any{}
		for i := 0; i+1 < len(page); i += 2 {
			if id, err := parseMember(page[i+1]); err == nil { // else it is an entity, or their number
				keys, names = append(keys, id.standingKey(), id.queueKey()), append(names, id.member())
			}
		}
		if len(names) == 0 {
			return nil
		}
		more, err := m.run(ctx, m.regs, keys, names)
		n += more
		return err
	})
	return n, err
}

// outbox puts pending entries of a shard back where they are taken from, and returns how many had lost their place.
func (m *mender) outbox(ctx context.Context, sh health.Shard) (n int64, err error) {
	keys := []string{noticesKey(sh), outKey(sh), outDataKey(sh)}
	err = m.pages(ctx, outDataKey(sh), func(page []string) error {
		ids := make([]any, 0, len(page)/2)
		for i := 0; i+1 < len(page); i += 2 {
			if page[i] != "#" {
				ids = append(ids, page[i])
			}
		}
		more, err := m.run(ctx, m.outgo, keys, ids)
		n += more
		return err
	})
	if err != nil {
		return n, err
	}
	more, err := m.run(ctx, m.outgo, keys, nil) // counted anew even when there is no entry at all
	return n + more, err
}

func (m *mender) run(ctx context.Context, script *redis.Script, keys []string, args []any) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	m.s.trips.Add(1)
	return script.Run(ctx, m.s.client, keys, args...).Int64()
}

// pages gives a hash to use, a page at a time: names and values in turn.
func (m *mender) pages(ctx context.Context, key string, use func(page []string) error) error {
	return pages(func(cursor uint64) *redis.ScanCmd {
		m.s.trips.Add(1)
		return m.s.client.HScan(ctx, key, cursor, "", mendPage)
	}, use)
}
