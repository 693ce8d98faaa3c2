package gateway_test

import (
	"context"
	"slices"
	"time"

	"github.com/pulsegate/pulsegate/delivery"
)

func (f *fakeCarrier) Audit(ctx context.Context, d delivery.Deed, do func(context.Context) error) error {
	unlock := f.lock()
	away := f.away
	unlock()
	if away {
		return delivery.ErrUnavailable
	}
	if err := do(ctx); err != nil {
		return err
	}
	defer f.lock()()
	d.Number, d.At, d.Outcome = int64(len(f.deeds)+1), time.Now(), delivery.DeedDone
	f.deeds = append(f.deeds, d)
	return nil
}

func (f *fakeCarrier) Deeds(_ context.Context, company string, q delivery.DeedQuery) (out []delivery.Deed, _ error) {
	defer f.lock()()
	if f.away {
		return nil, delivery.ErrUnavailable
	}
	for _, d := range slices.Backward(f.deeds) {
		if d.Company == company && len(out) < q.Limit && (q.Before == 0 || d.Number < q.Before) && (q.AppID == "" || q.AppID == d.AppID) && time.Since(d.At) <= q.From {
			out = append(out, d)
		}
	}
	return out, nil
}
