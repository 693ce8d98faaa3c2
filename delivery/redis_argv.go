package delivery

import "github.com/pulsegate/pulsegate/health"

// argv collects the keys and arguments of a script that reads them in order.
type argv struct {
	keys []string
	args []any
}

func (a *argv) key(k ...string) { a.keys = append(a.keys, k...) }
func (a *argv) arg(v ...any)    { a.args = append(a.args, v...) }

func (a *argv) flag(b bool) {
	if b {
		a.arg("1")
	} else {
		a.arg("0")
	}
}

// shardsOf writes the shards that a script touches, and returns their numbers in it, from 1.
func shardsOf[C any](a *argv, calls []C, shard func(C) health.Shard) map[health.Shard]int {
	at, count := map[health.Shard]int{}, len(a.args)
	a.arg(0)
	for _, c := range calls {
		sh := shard(c)
		if at[sh] > 0 {
			continue
		}
		at[sh] = len(at) + 1
		a.keys = append(a.keys, shardKeys[sh].keys[:]...)
		a.args = append(a.args, &shardKeys[sh].hex)
	}
	a.args[count] = len(at)
	return at
}

// bundles groups calls by the scripts that carry them out: on a cluster one for each shard, else one for all.
func bundles[C any](s *store, calls []C, shard func(C) health.Shard) (bundled [][]C) {
	if !s.cluster {
		return [][]C{calls}
	}
	at := map[health.Shard]int{}
	for _, c := range calls {
		i, ok := at[shard(c)]
		if !ok {
			i = len(bundled)
			at[shard(c)] = i
			bundled = append(bundled, nil)
		}
		bundled[i] = append(bundled[i], c)
	}
	return bundled
}
