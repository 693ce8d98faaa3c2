package delivery

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/pulsegate/pulsegate/health"
	"github.com/redis/go-redis/v9"
)

// change writes one registration if the entity is at the version, and says whether it was.
func (s *store) change(ctx context.Context, id RegID, version string, next *held, e effects) (bool, error) {
	sh := id.shard()
	data := []byte{}
	if next != nil {
		var err error
		if data, err = s.sealer.pack(next); err != nil {
			return false, err
		}
	}
	debug := int64(0)
	if !e.debug.IsZero() {
		debug = e.debug.UnixMilli()
	}
	incident := ""
	if e.closes {
		incident = "close"
	}
	jobID, job := "", ""
	if e.job != nil {
		jobID = fmt.Sprintf("%s-j-%s", shardHex(sh), newPart(s.now().UnixMilli()))
		job = entryTail(id, jobID, EntryJob, e.job)
	}
	keys := []string{
		id.regKey(), id.standingKey(), id.windowKey(), id.queueKey(), dueKey(sh), judgeKey(sh), outKey(sh), outDataKey(sh), hashesKey(sh), ledgerKey(sh),
	}
	reply, err := s.confirmed(ctx, s.scripts.change, keys,
		s.window.Milliseconds(), version, id.AppID, data, flagText(next != nil && next.WhenDown == Hold), id.member(), digest(id.member()),
		e.resetText(), string(e.cut), e.off, incident, debug, jobID, job, digest(id.Entity.member()), id.Entity.member(), timeToLive(next))
	if err != nil {
		return false, unavailable("change registration", err)
	}
	return len(reply) == 1 && toInt(reply[0]) == 1, nil
}

// timeToLive is a registration's, in ms; 0 for none.
func timeToLive(h *held) int64 {
	if h == nil {
		return 0
	}
	return h.TimeToLive.Milliseconds()
}

// resetText is 0 for no reset, 1 for an empty window, 2 for an empty window and a trial.
func (e effects) resetText() string {
	switch {
	case e.trial:
		return "2"
	case e.reset:
		return "1"
	default:
		return "0"
	}
}

// entryTail is an outbox entry as JSON without its brace and its time, which the script puts in front.
func entryTail(id RegID, entryID string, kind EntryKind, data any) string {
	text := string(newEntry(id, entryID, kind, 0, data).json())
	return strings.Replace(text[1:], `"at":0,`, "", 1)
}

// addIndex and dropIndex keep the indexes that lie outside the shard: written before the registration, removed after it, so that
// a crash between leaves an entry too many, which readers drop.
func (s *store) addIndex(ctx context.Context, id RegID) error {
	return s.onIndexes(ctx, id, func(p redis.Pipeliner, key string) { p.SAdd(ctx, key, id.member()) })
}

func (s *store) dropIndex(ctx context.Context, id RegID) error {
	return s.onIndexes(ctx, id, func(p redis.Pipeliner, key string) { p.SRem(ctx, key, id.member()) })
}

// deletedMost is how many of an app's deleted registrations are asked for records.
const deletedMost = 100

// noteDeleted keeps the name of a registration that is gone as long as there may be records of it.
func (s *store) noteDeleted(ctx context.Context, id RegID) error {
	key, now := deletedIndexKey(id.CompanyKey, id.AppID), s.now()
	return s.index(ctx, func(p redis.Pipeliner) {
		p.ZRemRangeByScore(ctx, key, "-inf", strconv.FormatInt(now.Add(-recordTime).UnixMilli(), 10))
		p.ZAdd(ctx, key, redis.Z{Score: float64(now.UnixMilli()), Member: id.member()})
		p.PExpire(ctx, key, recordTime)
	})
}

// deletedOf are the registrations of an app that were deleted last, while there may still be records of them.
func (s *store) deletedOf(ctx context.Context, company, app string) ([]RegID, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	s.trips.Add(1)
	members, err := s.client.ZRevRange(ctx, deletedIndexKey(company, app), 0, deletedMost-1).Result()
	if err != nil {
		return nil, unavailable("read index", err)
	}
	var ids []RegID
	for _, m := range members {
		if id, err := parseMember(m); err == nil && id.CompanyKey == company && id.AppID == app {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

func (s *store) onIndexes(ctx context.Context, id RegID, do func(redis.Pipeliner, string)) error {
	return s.index(ctx, func(p redis.Pipeliner) {
		do(p, appIndexKey(id.CompanyKey, id.AppID))
		do(p, companyIndexKey(id.CompanyKey))
	})
}

// index changes indexes in one round trip.
func (s *store) index(ctx context.Context, change func(redis.Pipeliner)) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	s.trips.Add(1)
	p := s.client.Pipeline()
	change(p)
	if _, err := p.Exec(ctx); err != nil {
		return unavailable("index registration", err)
	}
	return nil
}

// indexed returns the names in an index that come after a cursor, in order.
func (s *store) indexed(ctx context.Context, key, after string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	s.trips.Add(1)
	members, err := s.client.SMembers(ctx, key).Result()
	if err != nil {
		return nil, unavailable("read index", err)
	}
	slices.Sort(members)
	first, found := slices.BinarySearch(members, after)
	if found {
		first++
	}
	return members[first:], nil
}

// loadViews reads many entities in one round trip.
func (s *store) loadViews(ctx context.Context, entities map[Entity]bool) (map[Entity]*view, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	s.trips.Add(1)
	p := s.client.Pipeline()
	cmds := map[Entity]*redis.MapStringStringCmd{}
	for e := range entities {
		cmds[e] = p.HGetAll(ctx, e.regKey())
	}
	if len(cmds) > 0 {
		_, _ = p.Exec(ctx) // each command has its own error
	}
	views := make(map[Entity]*view, len(cmds))
	for e, cmd := range cmds {
		switch err := cmd.Err(); {
		case isSick(err):
			s.sick.note(e.member(), "registrations cannot be read, the others are listed without them", err)
			views[e] = &view{}
		case err != nil:
			return nil, unavailable("load registrations", err)
		default:
			views[e] = s.readView(e, cmd.Val())
		}
	}
	return views, nil
}

// readHealth reads the registrations' health, some hundred of a shard at once.
func (s *store) readHealth(ctx context.Context, regs []Registration) ([]health.Reading, error) {
	byShard := map[health.Shard][]int{}
	for i, r := range regs {
		byShard[r.shard()] = append(byShard[r.shard()], i)
	}
	readings := make([]health.Reading, len(regs))
	for _, group := range byShard {
		for few := range slices.Chunk(group, loadChunk) {
			if err := s.readSome(ctx, regs, few, readings); err != nil {
				return nil, err
			}
		}
	}
	return readings, nil
}

// readSome reads the health of registrations of one shard, named by their place.
func (s *store) readSome(ctx context.Context, regs []Registration, places []int, readings []health.Reading) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	keys := make([]health.Keys, len(places))
	for j, i := range places {
		keys[j] = regs[i].healthKeys()
	}
	s.trips.Add(1)
	got, err := s.health.Read(ctx, keys)
	if err != nil {
		return unavailable("read health", err)
	}
	for j, i := range places {
		if readings[i] = got[j]; got[j].Sick {
			s.sick.note(regs[i].member(), "health cannot be read, that of others is told without it", errSick)
		}
	}
	return nil
}
