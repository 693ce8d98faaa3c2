package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/pulsegate/pulsegate/delivery"
)

// benchLedger is the account that a gateway's store gives at the end, held against what generator and bots have counted.
type benchLedger struct {
	Accepted int64    `json:"accepted"`
	Fates    fates    `json:"fates"`
	Queued   int64    `json:"queued"`
	Problems []string `json:"problems,omitempty"` // none: it balances
}

type fates = map[delivery.Fate]int64

// verify reads the store's account. The gateway has gone by then, in order, so that everything is settled.
func (s *stack) verify(ctx context.Context) (benchLedger, error) {
	found, err := delivery.Verify(ctx, delivery.VerifyConfig{Client: s.store.client})
	if err != nil {
		return benchLedger{}, fmt.Errorf("verify the store: %w", err)
	}
	ledger := benchLedger{Accepted: found.Accepted, Fates: found.Fates, Queued: found.Queued}
	for _, f := range found.Findings {
		if !f.Warning {
			ledger.problem("%s of %s: %s", f.Check, printable(f.Of, longestName), printable(f.Problem, longestName))
		}
	}
	sum := found.Queued
	for _, n := range found.Fates {
		sum += n
	}
	if sum != found.Accepted {
		ledger.problem("accepted %d, fates and queued %d", found.Accepted, sum)
	}
	if found.Accepted != s.tally.accepted {
		ledger.problem("the generator had %d events accepted, the ledger says %d", s.tally.accepted, found.Accepted)
	}
	if delivered := found.Fates[delivery.Delivered]; delivered != s.tally.arrived {
		ledger.problem("%d events came to the bots, the ledger says %d", s.tally.arrived, delivered)
	}
	return ledger, nil
}

func (l *benchLedger) problem(format string, args ...any) {
	l.Problems = append(l.Problems, fmt.Sprintf(format, args...))
}

// judge is nil when the ledger balances.
func (l benchLedger) judge(of string) error {
	var failures []error
	for _, problem := range l.Problems {
		failures = append(failures, fmt.Errorf("%s: the ledger does not balance: %s", of, problem))
	}
	return errors.Join(failures...)
}
