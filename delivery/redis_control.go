package delivery

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Control returns who owns an author's conversation; ErrNotFound for an author that nothing is known of.
func (c *Carrier) Control(ctx context.Context, e Entity, authorID string) (Control, error) {
	return c.store.control(ctx, e, authorID)
}

func (s *store) control(ctx context.Context, e Entity, authorID string) (Control, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	s.trips.Add(1)
	v, err := s.client.HMGet(ctx, e.controlKey(authorID), "ot", "oa", "ts", "nm", "tg").Result()
	if err != nil {
		return Control{}, unavailable("read control", err)
	}
	if v[0] == nil {
		return Control{}, ErrNotFound
	}
	ctl := Control{Entity: e, AuthorID: authorID, AuthorName: toText(v[3]), Owner: Owner{Type: OwnerType(toText(v[0])), AppID: toText(v[1])}}
	ctl.LastUpdated = time.UnixMilli(toInt(v[2]))
	if tags := toText(v[4]); tags != "" {
		ctl.Tags = strings.Split(tags, "\n")
	}
	return ctl, nil
}

// PassControl changes who owns a conversation on the wish of a bot: ours at once, the platform's through the outbox. A change that is
// older than what is known is ErrStale.
func (c *Carrier) PassControl(ctx context.Context, ch ControlChange) (Control, error) {
	v, err := c.freshView(ctx, ch.Entity)
	if err != nil {
		return Control{}, err
	}
	if v.find(ch.AppID) == nil {
		return Control{}, ErrNotFound
	}
	handedOff, err := c.store.passControl(ctx, v, ch)
	if err != nil {
		return Control{}, err
	}
	c.changed()
	if handedOff {
		c.metrics.countHandoffs(StandardHandoff, 1)
	}
	return c.store.control(ctx, ch.Entity, ch.AuthorID)
}

// sentMost is how long, in bytes, what a bot sends to pass control may be to be kept whole for the platform. Of more, only what we know is.
const sentMost = 64 << 10

// passControl says whether that was a handoff.
func (s *store) passControl(ctx context.Context, v *view, ch ControlChange) (bool, error) {
	id := RegID{ch.Entity, ch.AppID}
	sh := id.shard()
	h := Handoff{AuthorID: ch.AuthorID, AuthorName: ch.AuthorName, Owner: ch.Owner, Comment: ch.Comment, Reason: "control"}
	var in struct {
		Coordinate struct {
			MessageID string `json:"messageId"`
			Scope     string `json:"scope"`
		} `json:"coordinate"`
	}
	if json.Unmarshal(ch.Body, &in) == nil { // only hints for the platform: a body that cannot be read has none
		h.MessageID, h.Scope = in.Coordinate.MessageID, in.Coordinate.Scope
		if len(ch.Body) <= sentMost {
			h.Sent = ch.Body
		}
	}
	standard := h
	standard.HandoffKind = StandardHandoff
	entryID := fmt.Sprintf("%s-c-%s", shardHex(sh), newPart(s.now().UnixMilli()))
	company := ch.Entity.CompanyKey
	a := &argv{}
	a.key(ch.Entity.controlKey(ch.AuthorID), outKey(sh), outDataKey(sh), toldKey(sh, company, EntryControl), toldKey(sh, company, EntryHandoff))
	a.arg(string(ch.Owner.Type), ch.Owner.AppID, ch.LastUpdateTS, ch.AuthorName, controlTime.Milliseconds(), entryID,
		entryTail(id, entryID, EntryControl, h), entryTail(id, entryID, EntryHandoff, standard), StandardHandoff.Tag())
	for _, reg := range v.regs {
		a.key(reg.names.standing)
		a.arg(reg.names.member)
	}
	reply, err := s.confirmed(ctx, s.scripts.control, a.keys, a.args...)
	if err != nil {
		return false, unavailable("pass control", err)
	}
	if len(reply) < 2 || toText(reply[0]) == "stale" {
		return false, ErrStale
	}
	return toText(reply[1]) == "1", nil
}

// jobBatch is how many conversations one script hands off, so that a job does not stall its shard.
const jobBatch = 100

// runJob hands off one batch of a job's conversations. The cursor is that of a scan, which returns everyone who is there from its
// beginning to its end, however their places change meanwhile; who comes twice stays with the agent.
func (c *Carrier) runJob(ctx context.Context, e Entry) (Entry, error) {
	var job Job
	if err := json.Unmarshal(e.Data, &job); err != nil {
		return e, fmt.Errorf("decode job: %w", err)
	}
	id := e.regID()
	authors, next, err := c.store.conversations(ctx, id.Entity, e.Cursor)
	if err != nil {
		return e, err
	}
	for batch := range slices.Chunk(authors, jobBatch) {
		n, err := c.store.handOff(ctx, job, e, batch)
		if err != nil {
			return e, err
		}
		c.metrics.countHandoffs(job.HandoffKind, n)
		if n > 0 {
			c.changed()
		}
	}
	e.Cursor = next
	if next == "" {
		e.State, e.DoneAt = EntryDone, c.store.now().UnixMilli()
	}
	return e, nil
}
