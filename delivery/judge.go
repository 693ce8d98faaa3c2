package delivery

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/pulsegate/pulsegate/health"
)

// judge judges a reading and makes the transition that the verdict asks for. It returns whether anything changed, so that the reading
// is out of date. A crash before the transition is stored leaves it to the timer.
func (c *Carrier) judge(ctx context.Context, id RegID, r health.Reading) (bool, error) {
	v := c.cfg.Rules.Judge(r.Standing, r.Counts, r.At)
	if v.Kind == health.None {
		return false, nil
	}
	var made health.Transition
	done, err := c.store.transit(ctx, id, r, v, func(t health.Transition) []health.OutboxEntry {
		made = t
		return transitionEntries(id, t)
	})
	if err != nil {
		return true, unavailable("make transition", err)
	}
	if done {
		c.metrics.transitions.WithLabelValues(string(made.Kind)).Inc()
		c.log.Info("health changed", "registration", id.member(), "from", made.From, "to", made.To, "kind", string(made.Kind), "reason", made.Reason)
		if made.Notice { // nothing is owed without one
			c.changed()
		}
	}
	return true, nil
}

// transitionEntries are what a transition owes to the world: a notice, and when a bot becomes DOWN, the job that hands its
// conversations over. A transition that nobody is told of is only listed: that is the first acknowledgement of each new bot, for one.
func transitionEntries(id RegID, t health.Transition) []health.OutboxEntry {
	base := fmt.Sprintf("%x-%%s-%s-%d-%d", int(id.shard()), digest(id.member()), t.Number, t.At)
	notice := newEntry(id, fmt.Sprintf(base, "t"), EntryTransition, t.At, t)
	if !t.Notice {
		notice.State, notice.DoneAt = EntryKept, t.At
	}
	entries := []health.OutboxEntry{notice.stored()}
	if t.Kind == health.ToDown {
		job := Job{HandoffKind: AutomaticHandoff, Reason: "down"}
		entries = append(entries, newEntry(id, fmt.Sprintf(base, "j"), EntryJob, t.At, job).stored())
	}
	return entries
}

func newEntry(id RegID, entryID string, kind EntryKind, at int64, data any) Entry {
	raw, err := json.Marshal(data)
	if err != nil {
		raw = []byte("{}") // plain structs of texts and numbers: cannot happen
	}
	return Entry{
		ID: entryID, Kind: kind, CompanyKey: id.CompanyKey, NetworkKey: id.NetworkKey, ExternalID: id.ExternalID, AppID: id.AppID,
		At: at, Data: raw, State: EntryPending,
	}
}

// stored is the entry as a transition writes it.
func (e Entry) stored() health.OutboxEntry {
	return health.OutboxEntry{ID: e.ID, Owed: e.State == EntryPending, Listed: e.Kind != EntryJob, JSON: e.json()}
}

func (e Entry) json() []byte {
	text, err := json.Marshal(e)
	if err != nil {
		text = []byte("{}")
	}
	return text
}
