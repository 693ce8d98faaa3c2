package delivery

import (
	"context"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// sortConversation notes the entity that a key of conversations belongs to: name is what follows the noun.
func (v *verifier) sortConversation(key, noun, name string) {
	parts := strings.Split(name, ":")
	for i, part := range parts {
		text, err := url.QueryUnescape(part)
		if err != nil {
			parts = nil
			break
		}
		parts[i] = text
	}
	var e Entity
	if len(parts) >= 3 {
		e = Entity{parts[0], parts[1], parts[2]}
	}
	switch {
	case noun == "own" && len(parts) == 3 && e.ownKey() == key:
		v.talking[e] = true
	case noun == "ctl" && len(parts) == 4 && e.controlKey(parts[3]) == key:
		v.controls[e]++
	default:
		v.warn(CheckLeftover, key, "it belongs to no entity")
	}
}

// conversations verifies that conversations are those of entities that are there, and that whoever is ongoing has an owner.
func (v *verifier) conversations(ctx context.Context) error {
	entities := map[Entity]bool{}
	for e := range v.controls {
		entities[e] = true
	}
	for e := range v.talking {
		entities[e] = true
	}
	all := slices.SortedFunc(maps.Keys(entities), func(a, b Entity) int { return strings.Compare(a.member(), b.member()) })
	now, err := v.store.client.Time(ctx).Result()
	if err != nil {
		return err
	}
	done := int64(0)
	for batch := range slices.Chunk(all, verifyScan) {
		pipe := v.store.client.Pipeline()
		var there []*redis.IntCmd
		for _, e := range batch {
			there = append(there, pipe.Exists(ctx, e.regKey()))
		}
		if _, err := pipe.Exec(ctx); err != nil {
			return err
		}
		for i, e := range batch {
			switch {
			case there[i].Val() == 0:
				v.warn(CheckLeftover, e.member(), fmt.Sprintf("%d authors have an owner or are ongoing, but there is no such entity", max(v.controls[e], 1)))
			case v.talking[e]:
				if err := v.ongoing(ctx, e, now); err != nil {
					return err
				}
			}
		}
		done += int64(len(batch))
		v.progress("entities with conversations", done)
	}
	return nil
}

// ongoing verifies that each author of an entity that is ongoing has an owner. Those of long ago are taken out by and by, and may be forgotten.
func (v *verifier) ongoing(ctx context.Context, e Entity, now time.Time) error {
	since, lacking := float64(now.Add(-ongoingTime).UnixMilli()), 0
	scan := func(cursor uint64) *redis.ScanCmd {
		return v.store.client.ZScan(ctx, e.ownKey(), cursor, "", verifyScan)
	}
	err := pages(scan, func(page []string) error {
		for few := range slices.Chunk(page, 2*verifyBatch) {
			n, err := v.ownerless(ctx, e, few, since)
			if lacking += n; err != nil {
				return err
			}
		}
		return nil
	})
	if lacking > 0 {
		v.warn(CheckLeftover, e.ownKey(), fmt.Sprintf("%d authors are ongoing whose control is not there", lacking))
	}
	return err
}

// ownerless counts the authors of a page (names and scores in turn) that are ongoing and have no owner. One that lacks
// an owner is looked at again, because conversations begin and end: who was listed before has an owner, which is never taken away.
func (v *verifier) ownerless(ctx context.Context, e Entity, page []string, since float64) (lacking int, err error) {
	pipe := v.store.client.Pipeline()
	var controls []*redis.IntCmd
	for i := 0; i+1 < len(page); i += 2 {
		controls = append(controls, pipe.Exists(ctx, e.controlKey(page[i])))
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return 0, err
	}
	for i, control := range controls {
		if control.Val() != 0 {
			continue
		}
		again := v.store.client.Pipeline()
		listed, owner := again.ZScore(ctx, e.ownKey(), page[2*i]), again.Exists(ctx, e.controlKey(page[2*i]))
		_, _ = again.Exec(ctx) // that it is not listed any more is an error of its own
		if owner.Err() != nil {
			return 0, owner.Err()
		}
		if listed.Err() == nil && listed.Val() >= since && owner.Val() == 0 {
			lacking++
		}
	}
	return lacking, nil
}
