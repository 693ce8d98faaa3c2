package delivery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// Action is what somebody did, as the audit trail names it.
type Action string

// The actions that are in the audit trail.
const (
	RegistrationCreate Action = "registration.create"
	RegistrationPut    Action = "registration.put" // created, or replaced as a whole
	RegistrationDelete Action = "registration.delete"
	ModeSwitch         Action = "mode.switch"
	TokenCreate        Action = "token.create"
	TokenRefresh       Action = "token.refresh"
	TokenRevoke        Action = "token.revoke"
	ControlPass        Action = "control.pass"
	RequestRedeliver   Action = "request.redeliver"
)

// routine says that an action is part of a bot's daily work: there are many, and they must not push the others out of the trail.
func (a Action) routine() bool { return a == ControlPass || a == RequestRedeliver }

// Actor is who did something: the bearer of a token, or an administrator by name.
type Actor struct {
	TokenID string `json:"tokenId,omitempty"`
	Scope   string `json:"scope,omitempty"`
	AppID   string `json:"appId,omitempty"` // of a bot's token
	Admin   string `json:"admin,omitempty"`
}

// DeedOutcome is what became of a deed.
type DeedOutcome string

// What became of a deed. Unknown: the process died, or the store went away, after it had begun; it was done or it was not.
const (
	DeedDone    DeedOutcome = "done"
	DeedPending DeedOutcome = "pending"
	DeedUnknown DeedOutcome = "unknown"
)

// Deed is one entry of a company's audit trail. It holds no secret and no token: a token is named by its id.
type Deed struct {
	Company    string            `json:"-"`
	Number     int64             `json:"-"` // its place in the trail; 0 while it is pending
	At         time.Time         `json:"-"` // by the store's clock
	Outcome    DeedOutcome       `json:"-"`
	Action     Action            `json:"action"`
	By         Actor             `json:"by"`
	RequestID  string            `json:"requestId"`
	NetworkKey string            `json:"networkKey,omitempty"`
	ExternalID string            `json:"externalId,omitempty"`
	AppID      string            `json:"appId,omitempty"` // what it was done to
	Details    map[string]string `json:"details,omitempty"`
}

// On returns the deed as one done to a registration.
func (d Deed) On(id RegID) Deed {
	d.NetworkKey, d.ExternalID, d.AppID = id.NetworkKey, id.ExternalID, id.AppID
	return d
}

// DeedQuery says which deeds are asked for.
type DeedQuery struct {
	From   time.Duration // how far back; 0: as far as the trail goes
	Limit  int           // at most so many; 0 means 100
	Before int64         // only those with a smaller number; 0: from the newest on
	AppID  string        // only those done to this app; "": to any
}

// Audit does something and keeps word of it in the trail of d.Company. The trail has it before it is begun: if that cannot be
// written, nothing is done and the error is ErrUnavailable. What do refuses leaves no trace; what may or may not have happened, because
// the store went away or the process died, stays in the trail as unknown. do may add to d.Details. The error is that of do.
//
// A crash before do leaves a pending deed that was not done, a crash after it one that was: both are listed as unknown.
func (c *Carrier) Audit(ctx context.Context, d Deed, do func(context.Context) error) error {
	mark := uuid.NewString()
	if err := c.store.deed(ctx, "begin", mark, d); err != nil {
		return err
	}
	err := do(ctx)
	end := "done"
	switch {
	case err == nil:
	case errors.Is(err, ErrUnavailable), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return err // nobody knows
	default:
		end = "not"
	}
	if lost := c.store.deed(context.WithoutCancel(ctx), end, mark, d); lost != nil {
		c.log.Error("audit trail does not know how a deed ended", "action", d.Action, "company", d.Company, "requestId", d.RequestID, "ended", end, "error", lost)
	}
	return err
}

// Deeds lists the audit trail of a company, newest first. It goes back 400 days, and 20,000 deeds of each of two kinds: the daily work of
// bots (control passed, deliveries made again), and all else.
func (c *Carrier) Deeds(ctx context.Context, company string, q DeedQuery) ([]Deed, error) {
	if q.Limit <= 0 {
		q.Limit = 100
	}
	return c.store.deeds(ctx, company, q)
}

// readDeed reads a deed as it is stored.
func readDeed(company string, at int64, outcome DeedOutcome, text string) (Deed, error) {
	d := Deed{Company: company, At: time.UnixMilli(at), Outcome: outcome}
	if err := json.Unmarshal([]byte(text), &d); err != nil {
		return d, fmt.Errorf("decode deed: %w", err)
	}
	return d, nil
}
