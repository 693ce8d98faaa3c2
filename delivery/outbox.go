package delivery

import (
	"context"
	"encoding/json"
	"time"
)

// EntryKind says what an outbox entry asks for.
type EntryKind string

// The kinds of outbox entries.
const (
	EntryTransition EntryKind = "transition" // tell people
	EntryHandoff    EntryKind = "handoff"    // tell the platform: tag, then control
	EntryControl    EntryKind = "control"    // tell the platform: control only
	EntryJob        EntryKind = "job"        // hand off all ongoing conversations of an app
	EntryMail       EntryKind = "mail"       // tell a contact of several transitions at once
)

// Entry is one thing that somebody outside must be told, or one stored job: written in the atomic step that caused it,
// and kept for the lists at /notices and /handoffs after it is done.
type Entry struct {
	ID         string          `json:"id"` // names its shard
	Kind       EntryKind       `json:"kind"`
	CompanyKey string          `json:"companyKey"`
	NetworkKey string          `json:"networkKey"`
	ExternalID string          `json:"externalId"`
	AppID      string          `json:"appId"`
	At         int64           `json:"at"`   // epoch ms of the store's clock
	Data       json.RawMessage `json:"data"` // a health.Transition, a Handoff, a Job, or a Mail
	// What has been done about it.
	State     EntryState `json:"state"`
	Tries     int        `json:"tries"`
	NextTry   int64      `json:"nextTry,omitempty"` // epoch ms
	DoneAt    int64      `json:"doneAt,omitempty"`
	LastError string     `json:"lastError,omitempty"`
	Step      int        `json:"step,omitempty"` // handoff: 1 after the tag call went through
	Cursor    string     `json:"cursor,omitempty"`
	Mail      string     `json:"mail,omitempty"` // transition: the entry of the mail that tells of it, if that tells of others too
}

func (e Entry) regID() RegID {
	return RegID{Entity{e.CompanyKey, e.NetworkKey, e.ExternalID}, e.AppID}
}

// EntryState says how far an entry has come.
type EntryState string

// The states of an entry.
const (
	EntryPending EntryState = "pending" // waiting for its first or next try
	EntryDone    EntryState = "done"    // told, or the job has run to its end
	EntryKept    EntryState = "kept"    // nobody to tell: no platform, no SMTP, no contact, or no notice due
	EntryRefused EntryState = "refused" // told, and refused for good
	EntryGivenUp EntryState = "givenup" // 24 hours of tries are over
	EntryJoined  EntryState = "joined"  // a mail tells of it together with others: what becomes of that one becomes of it
)

// Handoff is the Data of an EntryHandoff or EntryControl.
type Handoff struct {
	HandoffKind HandoffKind `json:"kind,omitempty"` // empty for EntryControl to a bot
	AuthorID    string      `json:"author"`
	AuthorName  string      `json:"authorName,omitempty"`
	MessageID   string      `json:"messageId,omitempty"` // coordinate.messageId of the event that caused it, for the tag
	Scope       string      `json:"scope,omitempty"`
	Owner       Owner       `json:"owner"`
	Comment     string      `json:"comment,omitempty"`
	Reason      string      `json:"reason,omitempty"` // failed, suppressed, overflow, expired, down, mode, deleted, maintenance, control
	RequestID   string      `json:"requestId,omitempty"`

	Sent json.RawMessage `json:"sent,omitempty"` // what a bot sent to pass control, whole: the platform gets what we know nothing of, too
}

// Job is the Data of an EntryJob: hand off all conversations that the app has owned since before the entry was made.
type Job struct {
	HandoffKind HandoffKind `json:"kind"`
	Reason      string      `json:"reason"`
}

// Outbox is what notify consumes. Safe for concurrent use by any number of replicas.
type Outbox interface {
	// Take leases up to n entries that are due, for lease; nobody else gets them until it ends. An entry whose taker died is
	// given out again after its lease.
	Take(ctx context.Context, n int, lease time.Duration) ([]Entry, error)
	// Update stores what has been done. An entry that is still EntryPending becomes due again at e.NextTry.
	Update(ctx context.Context, e Entry) error
	// List returns entries of the kinds of a company that keep wants (nil: all), newest first, at most n. A transition that a mail tells of has
	// the mail's state.
	List(ctx context.Context, company string, n int, keep func(Entry) bool, kinds ...EntryKind) ([]Entry, error)
	// RunJob hands off one batch for a job entry and returns it with its cursor moved on, or done.
	RunJob(ctx context.Context, e Entry) (Entry, error)
	// Gather decides whether the notice of a transition goes out by itself, "", or in a mail with others, whose entry it names and which
	// becomes due by itself. It decides once: asked again within 26 hours, by whomever, it gives the same answer.
	Gather(ctx context.Context, e Entry, to Contact, g Gathering) (mail string, err error)
	// Gathered returns what an EntryMail has to tell, in the order of time. It is fixed from the moment that somebody takes the entry.
	Gathered(ctx context.Context, mail Entry) ([]Gathered, error)
	// Mark notes how mail to a contact fares. It was not taken: further notices wait together until then, and why says why it was
	// refused, if it was. It was taken, at the zero time: what gathered since it was not goes out.
	Mark(ctx context.Context, to Contact, until time.Time, why string) error
	// Waiting returns how many entries are pending and the age of the oldest due one (0: none), for the metrics.
	Waiting(ctx context.Context) (n int64, lag time.Duration, err error)
	// Signal is closed over whenever this replica wrote an entry: a hint to Take at once.
	Signal() <-chan struct{}
	// Registration returns the registration as it is now, for contact, name and links; ErrNotFound when it was deleted.
	Registration(ctx context.Context, id RegID) (Registration, error)
	// Now is the store's clock, as well as this replica knows it.
	Now() time.Time
}
