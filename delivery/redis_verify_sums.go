package delivery

import (
	"context"
	"fmt"
	"maps"
	"strings"

	"github.com/pulsegate/pulsegate/health"
)

// storeLedger stands for the ledgers of all shards together, of which only the sum means anything.
const storeLedger = "pg:{*}:led"

// totals are what the ledger of the store said at one moment.
type totals struct {
	all    ledger // of all time
	gone   ledger // of the registrations that are gone; it has no queue
	states map[health.State]int64
}

// readTotals reads the ledger of the store.
func (v *verifier) readTotals(ctx context.Context) (totals, error) {
	ledgers, err := v.store.ledgers(ctx)
	if err != nil {
		return totals{}, err
	}
	t := totals{states: map[health.State]int64{}}
	for _, fields := range ledgers {
		t.all = t.all.plus(readLedger(fields), 1)
		t.gone = t.gone.plus(readCounters(fields, "g:"), 1)
		for _, state := range []health.State{health.Degraded, health.Down} {
			t.states[state] += toInt(fields["s:"+string(state)])
		}
	}
	return t, nil
}

// beginSums reads the ledger of the store before anything else is.
func (v *verifier) beginSums(ctx context.Context) (err error) {
	v.began, err = v.readTotals(ctx)
	if err == nil && v.began.all.discrepancy() != 0 {
		v.find(CheckLedger, storeLedger, v.began.all.String())
	}
	return err
}

// checkSums holds the sum over all registrations against the ledger of the store. Counters only grow, so whatever moved meanwhile, the sum lies
// between what is noted of those that are there before and after; where nothing moved, the queues and the states must be the same, too.
func (v *verifier) checkSums(ctx context.Context) error {
	ended, err := v.readTotals(ctx)
	if err != nil || v.unread {
		return err
	}
	low, high := v.began.all.plus(ended.gone, -1), ended.all.plus(v.began.gone, -1)
	var wrong []string
	compare := func(what string, sum, least, most int64) {
		switch {
		case sum >= least && sum <= most:
		case least == most:
			wrong = append(wrong, fmt.Sprintf("%s %d, not %d", what, sum, least))
		default:
			wrong = append(wrong, fmt.Sprintf("%s %d, not %d to %d", what, sum, least, most))
		}
	}
	compare("accepted", v.noted.accepted, low.accepted, high.accepted)
	for _, fate := range FinalFates() {
		compare(string(fate), v.noted.fates[fate], low.fates[fate], high.fates[fate])
	}
	if still := v.began.all.String() == ended.all.String() && maps.Equal(v.began.gone.fates, ended.gone.fates); still {
		compare("queued", v.noted.queued, ended.all.queued, ended.all.queued)
		compare("queued bytes", v.noted.bytes, ended.all.bytes, ended.all.bytes)
	}
	if len(wrong) > 0 {
		v.find(CheckLedger, storeLedger, "the registrations do not add up to it: "+strings.Join(wrong, "; "))
	}
	if v.result.Gateways == 0 && !maps.Equal(v.states, ended.states) {
		v.warn(CheckLedger, storeLedger, fmt.Sprintf("%d DEGRADED and %d DOWN are noted, %d and %d are there: the metrics count wrong",
			ended.states[health.Degraded], ended.states[health.Down], v.states[health.Degraded], v.states[health.Down]))
	}
	return nil
}

// addUp takes a registration into the sums.
func (v *verifier) addUp(f facts) {
	v.noted = v.noted.plus(readLedger(f.standing), 1)
	if state := health.State(f.standing["s"]); state == health.Degraded || state == health.Down {
		v.states[state]++
	}
}
