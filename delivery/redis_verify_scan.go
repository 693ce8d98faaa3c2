package delivery

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"

	"github.com/pulsegate/pulsegate/health"
	"github.com/redis/go-redis/v9"
)

// onMasters does something on the server, or on every master of a cluster, one at a time.
func (v *verifier) onMasters(ctx context.Context, do func(context.Context, redis.Cmdable) error) error {
	cluster, ok := v.store.client.(*redis.ClusterClient)
	if !ok {
		return do(ctx, v.store.client)
	}
	var mu sync.Mutex
	return cluster.ForEachMaster(ctx, func(ctx context.Context, master *redis.Client) error {
		mu.Lock()
		defer mu.Unlock()
		return do(ctx, master)
	})
}

// pages gives every page of a scan to use.
func pages(scan func(cursor uint64) *redis.ScanCmd, use func(page []string) error) error {
	for cursor := uint64(0); ; {
		page, next, err := scan(cursor).Result()
		if err != nil {
			return err
		}
		if err := use(page); err != nil {
			return err
		}
		if cursor = next; cursor == 0 {
			return nil
		}
	}
}

// hashPages gives a hash to use, a few fields at a time: names and values in turn.
func (v *verifier) hashPages(ctx context.Context, key string, use func(few []string) error) error {
	scan := func(cursor uint64) *redis.ScanCmd { return v.store.client.HScan(ctx, key, cursor, "", verifyScan) }
	return pages(scan, func(page []string) error {
		for few := range slices.Chunk(page, 2*verifyBatch) {
			if err := use(few); err != nil {
				return err
			}
		}
		return nil
	})
}

// memberPages gives a sorted set to use, a few members at a time.
func (v *verifier) memberPages(ctx context.Context, key string, use func(members []string) error) error {
	scan := func(cursor uint64) *redis.ScanCmd { return v.store.client.ZScan(ctx, key, cursor, "", verifyScan) }
	return pages(scan, func(page []string) error {
		for few := range slices.Chunk(page, 2*verifyBatch) {
			var members []string
			for i := 0; i < len(few); i += 2 {
				members = append(members, few[i])
			}
			if err := use(members); err != nil {
				return err
			}
		}
		return nil
	})
}

// scanKeys finds the keys that belong to registrations, the indexes and the lists.
func (v *verifier) scanKeys(ctx context.Context) error {
	seen := int64(0)
	return v.onMasters(ctx, func(ctx context.Context, server redis.Cmdable) error {
		return pages(func(cursor uint64) *redis.ScanCmd { return server.Scan(ctx, cursor, "pg:*", verifyScan) }, func(page []string) error {
			for _, key := range page {
				v.sortKey(key)
			}
			seen += int64(len(page))
			v.progress("keys", seen)
			return nil
		})
	})
}

// sortKey notes what a key is good for.
func (v *verifier) sortKey(key string) {
	if strings.HasPrefix(key, "pg:app:") || strings.HasPrefix(key, "pg:company:") {
		v.indexes[key] = true
		return
	}
	_, rest, _ := strings.Cut(key, "}:")
	noun, name, _ := strings.Cut(rest, ":")
	switch noun {
	case "told":
		v.told[key] = true
	case "own", "ctl":
		v.sortConversation(key, noun, name)
	case "st", "win", "q", "x":
		id, err := parseMember(name)
		if err != nil || !slices.Contains([]string{id.standingKey(), id.windowKey(), id.queueKey(), id.expiryKey()}, key) {
			v.find(CheckLeftover, key, "it belongs to no registration")
			return
		}
		v.found[id] = true
	}
}

// scanShards finds the registrations that each shard names, and those that stand in due and judge.
func (v *verifier) scanShards(ctx context.Context) error {
	for sh := range health.Shard(health.Shards) {
		err := v.hashPages(ctx, hashesKey(sh), func(page []string) error {
			for i := 0; i+1 < len(page); i += 2 {
				if page[i] == "#" {
					v.totals[sh] = page[i+1]
				} else if id, err := parseMember(page[i+1]); err == nil { // else it is an entity
					v.found[id] = true
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		for _, key := range []string{dueKey(sh), judgeKey(sh)} {
			if err := v.scanSet(ctx, key, sh); err != nil {
				return err
			}
		}
	}
	return nil
}

func (v *verifier) scanSet(ctx context.Context, key string, sh health.Shard) error {
	return v.memberPages(ctx, key, func(members []string) error {
		for _, m := range members {
			id, err := parseMember(m)
			if err != nil || id.shard() != sh {
				v.find(CheckAttention, m, "it stands in "+key+", but is no registration of this shard")
				continue
			}
			v.found[id] = true
		}
		return nil
	})
}

// scanIndexes finds the registrations that the indexes name.
func (v *verifier) scanIndexes(ctx context.Context) error {
	for key := range v.indexes {
		scan := func(cursor uint64) *redis.ScanCmd { return v.store.client.SScan(ctx, key, cursor, "", verifyScan) }
		err := pages(scan, func(page []string) error {
			for _, m := range page {
				id, err := parseMember(m)
				if err != nil || key != appIndexKey(id.CompanyKey, id.AppID) && key != companyIndexKey(id.CompanyKey) {
					v.warn(CheckIndex, m, "it stands in "+key+", where it does not belong: readers leave it out")
					continue
				}
				v.found[id] = true
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// outbox verifies that every entry that waits or is listed is there, and that every entry that is pending waits.
func (v *verifier) outbox(ctx context.Context) error {
	for sh := range health.Shard(health.Shards) {
		sets := []string{noticesKey(sh), outKey(sh)}
		for key := range v.told {
			if strings.HasPrefix(key, sh.Key("told")+":") {
				sets = append(sets, key)
			}
		}
		for _, set := range sets {
			if err := v.entriesOf(ctx, set, outDataKey(sh)); err != nil {
				return err
			}
		}
		if err := v.pendingEntries(ctx, sh); err != nil {
			return err
		}
		v.progress("shards of the outbox", int64(sh)+1)
	}
	return nil
}

// entriesOf verifies that there is an entry behind every id of a set.
func (v *verifier) entriesOf(ctx context.Context, set, data string) error {
	return v.memberPages(ctx, set, func(ids []string) error {
		texts, err := v.store.client.HMGet(ctx, data, ids...).Result()
		if err != nil {
			return err
		}
		for i, id := range ids {
			if texts[i] != nil {
				continue
			}
			in, text, err := v.entry(ctx, set, data, id)
			if err != nil {
				return err
			}
			if in && text == "" {
				v.find(CheckOutbox, id, "it stands in "+set+", but there is no such entry in "+data)
			}
		}
		return nil
	})
}

// pendingEntries verifies that whoever takes entries will find every one that is pending.
func (v *verifier) pendingEntries(ctx context.Context, sh health.Shard) error {
	data := outDataKey(sh)
	return v.hashPages(ctx, data, func(few []string) error {
		texts, waiting := map[string]string{}, map[string][]string{} // id -> JSON, set -> ids
		for i := 0; i+1 < len(few); i += 2 {
			var e Entry
			if few[i] == "#" {
				continue // how many are pending
			}
			if err := json.Unmarshal([]byte(few[i+1]), &e); err != nil {
				v.find(CheckOutbox, few[i], "the entry in "+data+" cannot be read")
			} else if e.State == EntryPending {
				set := entryKey(sh, e.Kind)
				texts[few[i]], waiting[set] = few[i+1], append(waiting[set], few[i])
			}
		}
		for set, ids := range waiting {
			if err := v.waitingEntries(ctx, set, data, ids, texts); err != nil {
				return err
			}
		}
		return nil
	})
}

// waitingEntries verifies that the entries that are pending, as their texts say, stand in the set that they are taken from.
func (v *verifier) waitingEntries(ctx context.Context, set, data string, ids []string, texts map[string]string) error {
	scores, err := v.store.client.ZMScore(ctx, set, ids...).Result()
	if err != nil {
		return err
	}
	for i, id := range ids {
		if scores[i] != 0 {
			continue
		}
		in, text, err := v.entry(ctx, set, data, id)
		if err != nil {
			return err
		}
		if !in && text == texts[id] {
			v.find(CheckOutbox, id, "the entry is pending, but does not stand in "+set+": nobody will take it up")
		}
	}
	return nil
}

// entry reads in one step whether an entry stands in a set, and its JSON; "": there is none.
func (v *verifier) entry(ctx context.Context, set, data, id string) (in bool, text string, err error) {
	pipe := v.store.client.TxPipeline()
	score, entry := pipe.ZScore(ctx, set, id), pipe.HGet(ctx, data, id)
	if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
		return false, "", err
	}
	return score.Err() == nil, entry.Val(), nil
}
