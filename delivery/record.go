package delivery

import (
	"time"

	"github.com/pulsegate/pulsegate/health"
)

// RequestState is the state of a request record. Its text is the wire spelling.
type RequestState string

// The request states.
const (
	RequestPending RequestState = "PENDING"
	RequestSuccess RequestState = "SUCCESS"
	RequestError   RequestState = "ERROR"
)

// The origins of request records.
const (
	OriginGateway = "KHOROS" // gateway -> bot
	OriginBot     = "BOT"    // bot -> gateway
)

// Record is one request record: a delivery, or a call by a bot.
type Record struct {
	ID          string
	EventID     string // empty for calls by bots
	Reg         RegID
	CallbackURL string
	Origin      string
	State       RequestState
	Fate        Fate
	Class       health.Class // of a failure
	Code        string       // the bot's HTTP status, or empty
	Message     string       // in words, at most 512 bytes
	Payload     []byte       // kept with failures and while pending
	Tries       int
	Latency     time.Duration // of the last try
	Handoff     HandoffKind   // empty: the conversation was not handed off
	Created     time.Time
	Completed   time.Time // zero while pending
	LastUpdated time.Time
}

// RecordQuery selects records of an app.
type RecordQuery struct {
	From   time.Duration  // how far back; at most 31 days
	States []RequestState // empty: all
	Origin string         // empty: both
	Limit  int            // 0: 1,000
}
