package delivery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"sort"
	"strings"
	"time"

	"github.com/pulsegate/pulsegate/health"
	"github.com/redis/go-redis/v9"
)

const (
	answerTime  = 26 * time.Hour // how long a decision on a notice is kept: longer than it is tried, and its last lease
	contactTime = 50 * time.Hour // how long a contact and what its mails hold are kept after the last use: longer than any of them waits
	mailNotices = 500            // notices that one mail tells of, or registrations of a digest
	mailRepeats = 20             // of a decision that met another mail
)

// shard is where all keys of a contact lie, its mails among them.
func (c Contact) shard() health.Shard {
	h := fnv.New32a()
	h.Write([]byte(c.Company + "\x00" + c.Address))
	return health.Shard(h.Sum32() % health.Shards)
}

func (c Contact) key() string { // hash: until, first; id, due and size of the open mail (m) and digest (d); why mail was refused
	return c.shard().Key("contact", c.Company, digest(c.Address))
}
func mailKey(s health.Shard, mail string) string    { return s.Key("mail", mail) }    // hash: what a mail tells of
func answerKey(s health.Shard, entry string) string { return s.Key("answer", entry) } // string: the mail that tells of an entry, - for none

// Gather implements Outbox.
func (o outbox) Gather(ctx context.Context, e Entry, to Contact, g Gathering) (string, error) {
	for range mailRepeats {
		mail, again, err := o.gatherOnce(ctx, e, to, g)
		if err != nil {
			return "", unavailable("gather notices", err)
		}
		if !again {
			return mail, nil
		}
	}
	return "", unavailable("gather notices", errors.New("too many mails were opened meanwhile"))
}

// gatherOnce decides against the contact's open mail as it is read here; again: it was another one when the script looked.
func (o outbox) gatherOnce(ctx context.Context, e Entry, to Contact, g Gathering) (mail string, again bool, err error) {
	s, sh := o.c.store, to.shard()
	field := "mid"
	if g.Digest {
		field = "did"
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	s.trips.Add(1)
	open, err := s.client.HGet(ctx, to.key(), field).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return "", false, err
	}
	var t health.Transition
	if err := json.Unmarshal(e.Data, &t); err != nil {
		return "", false, fmt.Errorf("decode transition: %w", err)
	}
	item, err := json.Marshal(e)
	if err != nil {
		return "", false, fmt.Errorf("encode outbox entry: %w", err)
	}
	fresh := shardHex(sh) + "-m-" + newPart(s.now().UnixMilli())
	told := toldKey(sh, to.Company, EntryMail)
	keys := []string{noticesKey(sh), outDataKey(sh), to.key(), answerKey(sh, e.ID), told, mailKey(sh, open), mailKey(sh, fresh)}
	whose := RegID{Entity: Entity{CompanyKey: to.Company}}
	reply, err := s.confirmed(ctx, s.scripts.gather, keys, e.ID, e.regID().member(), open, fresh, flagText(g.Digest), g.Within.Milliseconds(), mailNotices,
		int(answerTime.Seconds()), int(contactTime.Seconds()), entryTail(whose, fresh, EntryMail, Mail{To: to, Digest: g.Digest}), item,
		t.At, string(t.Kind), t.Undelivered, t.HandedOff)
	if err != nil {
		return "", false, err
	}
	if len(reply) != 2 {
		return "", true, nil
	}
	return toText(reply[1]), false, nil
}

// Gathered implements Outbox.
func (o outbox) Gathered(ctx context.Context, mail Entry) ([]Gathered, error) {
	sh, err := entryShard(mail.ID)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	o.c.store.trips.Add(1)
	fields, err := o.c.store.client.HGetAll(ctx, mailKey(sh, mail.ID)).Result()
	if err != nil {
		return nil, unavailable("read mail", err)
	}
	var all []Gathered
	for name, text := range fields {
		of, ok := strings.CutPrefix(name, "t:")
		var g Gathered
		if !ok || json.Unmarshal([]byte(text), &g.Entry) != nil {
			continue
		}
		if sums := strings.Fields(fields["c:"+of]); len(sums) == 6 { // as gather.lua packs them
			g.Degraded, g.Healthy, g.First = toInt(sums[0]), toInt(sums[1]), toInt(sums[2])
			g.Undelivered, g.HandedOff = toInt(sums[4]), toInt(sums[5])
		}
		all = append(all, g)
	}
	sort.Slice(all, func(i, j int) bool {
		return all[i].Entry.At < all[j].Entry.At || all[i].Entry.At == all[j].Entry.At && all[i].Entry.ID < all[j].Entry.ID
	})
	return all, nil
}

// Mark implements Outbox.
func (o outbox) Mark(ctx context.Context, to Contact, until time.Time, why string) error {
	s, sh, ms := o.c.store, to.shard(), int64(0)
	if !until.IsZero() {
		ms = until.UnixMilli()
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	s.trips.Add(1)
	keys := []string{noticesKey(sh), to.key()}
	if err := s.scripts.mark.Run(ctx, s.client, keys, ms, why, int(contactTime.Seconds())).Err(); err != nil {
		return unavailable("mark contact", err)
	}
	return nil
}

// withMails gives notices that a mail tells of the mail's state: it is theirs.
func (o outbox) withMails(ctx context.Context, entries []Entry) error {
	s := o.c.store
	p := s.client.Pipeline()
	mails := map[string]*redis.StringCmd{}
	for _, e := range entries {
		if sh, err := entryShard(e.Mail); e.Mail != "" && err == nil && mails[e.Mail] == nil {
			mails[e.Mail] = p.HGet(ctx, outDataKey(sh), e.Mail)
		}
	}
	if len(mails) == 0 {
		return nil
	}
	s.trips.Add(1)
	if _, err := p.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
		return unavailable("list mails", err)
	}
	for i, e := range entries {
		var mail Entry
		if cmd := mails[e.Mail]; cmd == nil || json.Unmarshal([]byte(cmd.Val()), &mail) != nil {
			continue // told so long ago that the mail is not listed any more
		}
		entries[i].State, entries[i].Tries, entries[i].LastError, entries[i].DoneAt = mail.State, mail.Tries, mail.LastError, mail.DoneAt
		if mail.State == EntryPending {
			entries[i].NextTry = max(mail.NextTry, mail.At)
		}
	}
	return nil
}
