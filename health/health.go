package health

import (
	"fmt"
	"time"
)

// State is the condition of a bot at one registration. Its text is the wire spelling.
type State string

// The three states.
const (
	Healthy  State = "HEALTHY"
	Degraded State = "DEGRADED"
	Down     State = "DOWN"
)

// Class says why an outcome failed; the empty class is an acknowledgement.
type Class string

// The closed set of classes. Their order in Classes is the order of the counters in a window slot.
const (
	Acknowledged Class = ""
	Timeout      Class = "timeout"    // no answer within the time of a try
	Refused      Class = "refused"    // nobody listens
	DNS          Class = "dns"        // the name does not resolve
	TLS          Class = "tls"        // no trusted encrypted connection
	Status       Class = "status"     // an answer other than 200 or 202
	Blocked      Class = "blocked"    // the callback address is not allowed; no connection was opened
	Broken       Class = "broken"     // the connection broke, or the answer was not HTTP
	Suppressed   Class = "suppressed" // not tried, because the bot is DOWN
)

// Classes returns the failure classes in the order of the window's counters.
func Classes() []Class {
	return []Class{Timeout, Refused, DNS, TLS, Status, Blocked, Broken, Suppressed}
}

// Counts are the outcomes of one window.
type Counts struct {
	Acknowledged int64
	Failed       int64
	ByClass      map[Class]int64 // failures only; classes without any are absent
}

// Rules are the settings that judging depends on.
type Rules struct {
	Window      time.Duration // how long an outcome counts; 0 means 2 minutes
	MinAttempts int64         // failures without one acknowledgement that make DOWN; 0 means 10
	Pause       time.Duration // how long DOWN pauses delivery; 0 means 2 minutes
}

// WithDefaults returns the rules with zero values replaced by the documented defaults.
func (r Rules) WithDefaults() Rules {
	if r.Window <= 0 {
		r.Window = 2 * time.Minute
	}
	if r.MinAttempts <= 0 {
		r.MinAttempts = 10
	}
	if r.Pause <= 0 {
		r.Pause = 2 * time.Minute
	}
	return r
}

// Validate reports the first setting that cannot be kept.
func (r Rules) Validate() error {
	switch {
	case r.Window < 120*time.Millisecond:
		return fmt.Errorf("health window %v: must be at least 120ms", r.Window)
	case r.Pause < 10*time.Millisecond:
		return fmt.Errorf("pause %v: must be at least 10ms", r.Pause)
	}
	return nil
}

// Standing is what the store remembers of one registration between two judgements.
type Standing struct {
	State       State
	Since       time.Time // of State
	PausedUntil time.Time // zero unless DOWN
	Number      int64     // of the last transition; 0 before the first
	Verified    bool      // an acknowledgement stands behind HEALTHY
	TrialFailed bool      // a trial failed and has not been judged yet
	Incident    time.Time // start of the open incident; zero when there is none
	DownSince   time.Time // start of the present outage; zero unless DOWN
	StillDown   int64     // doublings of the pause that the outage must reach for people to be told again; 0 before the first telling
	Debug       bool      // outcomes stay out of the window
	Judged      bool      // false in MAINTENANCE and after deletion
	Holding     bool      // events are held, not handed off, while DOWN, and some are waiting
	Notices     Notices   // what people have been told
}

// Kind names a transition by what it means for people.
type Kind string

// The kinds of transition. None means that nothing changes.
const (
	None         Kind = ""
	ToDegraded   Kind = "degraded"   // left HEALTHY, or DOWN by a trial
	ToDown       Kind = "down"       // delivery pauses
	StillDown    Kind = "still_down" // a trial failed; another pause
	ToUnverified Kind = "unverified" // HEALTHY because the window emptied
	ToHealthy    Kind = "healthy"    // HEALTHY with an acknowledgement behind it
)

// Verdict is a judgement: the state, why, and the transition it asks for.
type Verdict struct {
	State    State
	Verified bool
	Reason   string // the rule that fired, in words
	Kind     Kind   // None: the standing is right as it is
	Notice   bool   // people are told of this transition
	Flapping bool   // it changed so often within the last hour that a notice was held back
}

// Transition is one change of standing as it is told to people: the outbox carries it.
type Transition struct {
	Number         int64           `json:"number"`
	Kind           Kind            `json:"kind"`
	From           State           `json:"from"`
	To             State           `json:"to"`
	At             int64           `json:"at"` // epoch milliseconds of the store's clock, as are all below
	Since          int64           `json:"since"`
	PausedUntil    int64           `json:"pausedUntil,omitempty"`
	Incident       int64           `json:"incident,omitempty"`  // when the incident began
	DownSince      int64           `json:"downSince,omitempty"` // when the outage began
	Notice         bool            `json:"notice"`
	Held           bool            `json:"held,omitempty"` // the bot flaps: the notice goes into a digest
	Reason         string          `json:"reason"`
	Acknowledged   int64           `json:"acknowledged"`
	Failed         int64           `json:"failed"`
	ByClass        map[Class]int64 `json:"byClass,omitempty"`
	HandedOff      int64           `json:"handedOff"`                // conversations, since the incident began
	Undelivered    int64           `json:"undelivered"`              // failed and suppressed events, since the incident began
	FailedRequests []string        `json:"failedRequests,omitempty"` // last failed request ids, newest first, at most 5
}

// Index is the number of a class among the counters of a window slot: 0 for an acknowledgement, from 1 for a failure.
func (c Class) Index() int {
	for i, k := range Classes() {
		if k == c {
			return i + 1
		}
	}
	return 0
}
