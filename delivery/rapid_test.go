package delivery_test

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/pulsegate/pulsegate/health"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// step is one thing that happens; which of the numbers mean something depends on its kind.
type step struct {
	kind             string
	pick, n, life    int
	wait             time.Duration
	authors, replica int
}

// steps is any step. A history is drawn before it is played, so that rapid can make it small.
func steps() *rapid.Generator[step] {
	kinds := []string{"send", "send", "send", "send", "send", "bot", "bot", "pass", "pass", "crash", "join", "redeliver", "mode", "change"}
	waits := []int{0, 0, 1, 1, 20, 20, 60, 60, 400, 400, 400, 400, 400, 400, 1200, 2500, 2500, 3500, 7000, 13000} // the long ones cost the most
	return rapid.Custom(func(t *rapid.T) step {
		return step{
			kind: rapid.SampledFrom(kinds).Draw(t, "kind"), pick: rapid.IntRange(0, 1000).Draw(t, "pick"), n: rapid.IntRange(1, 4).Draw(t, "n"),
			life: rapid.SampledFrom([]int{0, 0, 0, -1, 1, 4, 60}).Draw(t, "life"), authors: rapid.IntRange(0, 80).Draw(t, "authors"),
			wait:    time.Duration(rapid.SampledFrom(waits).Draw(t, "wait")) * time.Millisecond,
			replica: rapid.IntRange(0, 3).Draw(t, "replica"),
		}
	})
}

// play plays a history, and then lets everything end well. It says where the gateway and the model differ.
func (w *world) play(list []step) error {
	for i, s := range list {
		synctest.Wait()
		before, began := w.standing(), time.Now()
		if w.trace = append(w.trace, w.seen(i, s, before)); len(w.trace) > 12 {
			w.trace = w.trace[1:]
		}
		if err := w.do(s); err != nil {
			return fmt.Errorf("step %d, %s: %w", i, s.kind, err)
		}
		pass(s.wait + time.Millisecond)
		synctest.Wait()
		if err := w.check(before, began, s); err != nil {
			return fmt.Errorf("after step %d, %s: %w", i, s.kind, err)
		}
	}
	w.answer = "ok"
	w.model.mode = delivery.Live
	if err := w.do(step{kind: "put"}); err != nil {
		return err
	}
	pass(30 * time.Second)
	synctest.Wait()
	if err := w.check(health.Standing{}, time.Now(), step{}); err != nil {
		return fmt.Errorf("at the end: %w", err)
	}
	if n := w.model.waiting(); n > 0 {
		return fmt.Errorf("at the end: %d deliveries have no fate", n)
	}
	return nil
}

func (w *world) do(s step) error {
	r := w.replicas[s.replica%len(w.replicas)]
	m := &w.model
	if m.mode == delivery.Maintenance && s.pick%3 == 0 {
		s.kind = "mode" // it does not last
	}
	switch s.kind {
	case "send":
		return w.send(r, s)
	case "bot":
		w.mu.Lock()
		defer w.mu.Unlock()
		w.answer = []string{"ok", "fail", "fail", "hang"}[s.pick%4]
	case "crash":
		w.crash(s.replica)
	case "join":
		if len(w.replicas) < 3 {
			w.join()
		}
	case "redeliver":
		return w.redeliver(r, s.pick)
	case "mode":
		m.mode = map[delivery.Mode]delivery.Mode{delivery.Live: delivery.Maintenance, delivery.Maintenance: delivery.Live}[m.mode]
		return w.put(r)
	case "change":
		m.hold, m.ttl = s.pick%2 == 0, []time.Duration{0, 0, 3 * time.Second, 30 * time.Second}[s.pick/2%4]
		return w.put(r)
	case "put":
		return w.put(r)
	}
	return nil
}

func (w *world) put(r *replica) error {
	was, err := r.Registration(w.t.Context(), w.registration().RegID)
	if err != nil {
		return err
	}
	m := &w.model
	m.changed = time.Now()
	if was.Mode != m.mode {
		m.reset = m.changed
	}
	return r.Put(w.t.Context(), w.registration())
}

func (w *world) send(r *replica, s step) error {
	h, now, m := w.standing(), time.Now(), &w.model
	var in []delivery.Incoming
	var want []*made
	queued := m.waiting()
	for i := range s.n {
		author := []string{"ann", "ben", "cem"}[(s.authors>>i)%3]
		w.number++
		msg := message("e1", author, w.number)
		d := &made{author: author, fresh: true, at: now}
		if s.life != 0 {
			d.own = now.Add(time.Duration(s.life) * time.Second)
			msg = until(msg, d.own)
		}
		if d.fate = m.receipt(now, h, d.own, queued); d.fate == delivery.Queued {
			queued++
		}
		in, want = append(in, msg), append(want, d)
	}
	for i, rc := range r.Accept(w.t.Context(), "acme", in) {
		d := want[i]
		if rc.Err != nil || rc.Fate != d.fate {
			return fmt.Errorf("event %d: receipt %s %w, must be %s", i, rc.Fate, errors.Join(rc.Err), d.fate)
		}
		rows, err := w.replicas[0].EventRecords(w.t.Context(), "acme", rc.ID)
		if err != nil || len(rows) != 1 {
			return fmt.Errorf("event %d: %d records: %w", i, len(rows), err)
		}
		d.event, d.id = rc.ID, rows[0].ID
		w.note(d, rows[0])
		m.all = append(m.all, d)
	}
	return nil
}

// redeliver makes a delivery once more that has its fate, or tries to.
func (w *world) redeliver(r *replica, pick int) error {
	m := &w.model
	if len(m.all) == 0 {
		return nil
	}
	old, h, now := m.all[pick%len(m.all)], w.standing(), time.Now()
	var refused error
	switch {
	case old.ended.IsZero():
		refused = delivery.ErrUnderWay
	case old.fate == delivery.Delivered:
		refused = delivery.ErrNoPayload
	case m.mode == delivery.Maintenance:
		refused = delivery.ErrMaintenance
	}
	again, err := r.Redeliver(w.t.Context(), "acme", old.id, "")
	if !errors.Is(err, refused) {
		return fmt.Errorf("redelivery of %s %s: %w, must be %w", old.fate, old.id, errors.Join(err), errors.Join(refused))
	}
	if refused != nil {
		return nil
	}
	d := &made{id: again.ID, event: again.EventID, author: old.author, at: now, fate: m.receipt(now, h, time.Time{}, m.waiting())}
	if again.Fate != d.fate || d.event != old.event {
		return fmt.Errorf("redelivery: %+v, must be %s of %s", again, d.fate, old.event)
	}
	rec, err := r.Record(w.t.Context(), "acme", d.id)
	if err != nil {
		return err
	}
	w.note(d, rec)
	m.all = append(m.all, d)
	return nil
}

// note takes in what a record says.
func (w *world) note(d *made, rec delivery.Record) {
	if rec.State != delivery.RequestPending {
		d.fate, d.handoff, d.ended = rec.Fate, rec.Handoff, rec.Completed
	}
}

// check holds the gateway against the model.
func (w *world) check(before health.Standing, began time.Time, s step) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	m, r, now := &w.model, w.replicas[0], time.Now()
	if m.hold {
		w.held = now
	}
	for _, d := range m.all {
		if !d.ended.IsZero() {
			continue
		}
		rec, err := r.Record(w.t.Context(), "acme", d.id)
		if err != nil {
			return fmt.Errorf("delivery %s is gone: %w", d.id, err)
		}
		if w.note(d, rec); d.ended.IsZero() {
			continue
		}
		if wrong := m.wrongFate(d, !w.held.Before(d.at)); wrong != "" {
			return fmt.Errorf("%s of %s, accepted %v, ended %v: %s", d.fate, d.author, d.at, d.ended, wrong)
		}
	}
	if d := m.overdue(now); d != nil {
		return fmt.Errorf("a delivery of %s waits, and its time was up at %v; it is %v", d.author, m.expires(d), now)
	}
	if d := m.wrongHandoff(); d != nil {
		return fmt.Errorf("%s of %s, ended %v: handoff %q", d.fate, d.author, d.ended, d.handoff)
	}
	if t := m.outOfOrder(); t != nil {
		return fmt.Errorf("a try of %s at %v before its turn", t.author, t.at)
	}
	if err := w.checkPause(before, began, s); err != nil {
		return err
	}
	return w.checkBooks(now)
}

// checkPause says whether a try was made while delivery was paused.
func (w *world) checkPause(before health.Standing, began time.Time, s step) error {
	after := w.standing()
	paused := before.State == health.Down && after.Number == before.Number && time.Now().Before(after.PausedUntil)
	for _, t := range w.model.tries {
		if paused && t.at.After(began) {
			return fmt.Errorf("a try at %v, paused until %v", t.at, after.PausedUntil)
		}
	}
	return nil
}

// checkBooks holds the window, the ledger and the whole store against the model.
func (w *world) checkBooks(now time.Time) error {
	m := &w.model
	counts := w.replicas[0].healthOf(w.t, "app").Counts
	a, f := m.counts(now, m.reset)
	mostA, mostF := m.counts(now, m.reset.Truncate(time.Millisecond).Add(-1))
	if counts.Acknowledged < a || counts.Acknowledged > mostA || counts.Failed < f || counts.Failed > mostF {
		return fmt.Errorf("the window has %d acknowledged, %d failed, must be %d to %d, %d to %d", counts.Acknowledged, counts.Failed, a, mostA, f, mostF)
	}
	v, err := delivery.Verify(w.t.Context(), delivery.VerifyConfig{Client: w.client})
	if err != nil {
		return err
	}
	for _, f := range v.Findings {
		if !f.Warning {
			return fmt.Errorf("%s %s: %s", f.Check, f.Of, f.Problem)
		}
	}
	fates := map[delivery.Fate]int64{}
	for _, d := range m.all {
		if !d.ended.IsZero() {
			fates[d.fate]++
		}
	}
	maps.DeleteFunc(v.Fates, func(_ delivery.Fate, n int64) bool { return n == 0 })
	if int(v.Accepted) != len(m.all) || int(v.Queued) != m.waiting() || !maps.Equal(fates, v.Fates) {
		return fmt.Errorf("the ledger says %s, must be %v of %d", v, fates, len(m.all))
	}
	return nil
}

// setFlag sets a flag of the test binary for the time of a test.
func setFlag(t testing.TB, name, value string) {
	before := flag.Lookup(name).Value.String()
	require.NoError(t, flag.Set(name, value))
	t.Cleanup(func() { require.NoError(t, flag.Set(name, before)) })
}

func TestR23RandomHistoriesAgreeWithTheModel(t *testing.T) {
	const parts = 4 // side by side
	histories, length := size(1_000, 8)/parts, size(100, 50)
	setFlag(t, "rapid.checks", strconv.Itoa(histories))
	setFlag(t, "rapid.nofailfile", "true")
	var mu sync.Mutex
	fates, total := map[delivery.Fate]int{}, 0
	t.Cleanup(func() {
		var seen []string
		for _, f := range slices.Sorted(maps.Keys(fates)) {
			seen = append(seen, fmt.Sprintf("%d %s", fates[f], f))
		}
		t.Attr("measured", fmt.Sprintf("%d random steps, 0 mismatches: %s", total, strings.Join(seen, ", ")))
	})
	for part := range parts {
		t.Run(fmt.Sprint("part ", part), func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, func(rt *rapid.T) {
				list := rapid.SliceOfN(steps(), length, length).Draw(rt, "history")
				made := playHistory(t, rt, list)
				mu.Lock()
				defer mu.Unlock()
				for _, d := range made {
					fates[d.fate]++
				}
				total += length
			})
		})
	}
}

// playHistory plays a history in a world of its own, and returns what was made.
func playHistory(t *testing.T, rt *rapid.T, list []step) (all []*made) {
	var err error
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		if err = w.play(list); err != nil {
			err = fmt.Errorf("%w\n%s", err, strings.Join(w.trace, "\n"))
		}
		all = w.model.all
	})
	if err != nil {
		rt.Fatalf("%v", err)
	}
	return all
}
