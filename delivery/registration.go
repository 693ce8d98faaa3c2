package delivery

import (
	"time"

	"github.com/pulsegate/pulsegate/health"
)

// Entity is one page, handle or number of a company on a channel.
type Entity struct {
	CompanyKey string
	NetworkKey string
	ExternalID string
}

// RegID names one registration: a bot on an entity.
type RegID struct {
	Entity
	AppID string
}

// Mode is the operating mode of a registration. Its text is the wire spelling.
type Mode string

// The modes.
const (
	Live        Mode = "LIVE"
	Maintenance Mode = "MAINTENANCE"
	Monitoring  Mode = "MONITORING"
)

// CredentialType is how the gateway proves itself to a bot.
type CredentialType string

// The credential types.
const (
	BasicAuth CredentialType = "BASIC_AUTH"
	HMAC      CredentialType = "HMAC"
)

// Secret is a text that never shows itself: not in logs, not in %v, not in JSON.
type Secret string

// String returns a fixed text in place of the secret.
func (Secret) String() string { return "REDACTED" }

// GoString returns a fixed text in place of the secret.
func (Secret) GoString() string { return "REDACTED" }

// MarshalText returns a fixed text in place of the secret.
func (Secret) MarshalText() ([]byte, error) { return []byte("REDACTED"), nil }

// Credentials are what a bot knows the gateway by.
type Credentials struct {
	Type     CredentialType
	Identity string
	Secret   Secret // write-only: set when a registration is written, empty in every registration that is read
}

// PublicFilter opts a registration in to public events.
type PublicFilter struct {
	IncludeTargeted     bool    `json:"includeTargeted"`
	IncludeSourceTagIDs []int64 `json:"includeSourceTagIds,omitempty"`
}

// WhenDown says what becomes of events while the bot is DOWN.
type WhenDown string

// The choices for WhenDown.
const (
	HandOff WhenDown = "handoff"
	Hold    WhenDown = "hold"
)

// Registration is one bot on one entity, as its owner wrote it.
type Registration struct {
	RegID
	Platform        string
	NetworkInstance string
	Name            string
	CallbackURL     string
	Credentials     Credentials
	CACertificate   string // PEM certificates that the callback is trusted by, beside the gateway's; empty: those alone
	ContactName     string
	ContactEmail    string
	AvatarURL       string
	Mode            Mode
	PublicFilter    *PublicFilter
	Metadata        []byte // a flat JSON object, as it was written; nil when absent
	Owner           string // the team
	RunbookURL      string
	DeliveryTimeout time.Duration // of one try; 0 means the gateway's setting
	MaxConcurrency  int           // tries at once; 0 means 32
	MaxPerSecond    int           // tries that may begin in any second; 0: any number
	WhenDown        WhenDown
	TimeToLive      time.Duration // how long an event may wait for its first try; 0: for ever, or the gateway's setting where events are held
	DebugUntil      time.Time
	Created         time.Time
	LastUpdated     time.Time
}

// Health is the health of one registration as it is answered.
type Health struct {
	Registration       Registration
	Counts             health.Counts
	Standing           health.Standing
	Verdict            health.Verdict // of Counts and Standing, at the moment of reading
	Window             time.Duration
	LastAcknowledgedAt time.Time // zero: never
	LastFailure        *Failure  // nil: never
}

// Failure is the last failed outcome of a registration.
type Failure struct {
	Class     health.Class
	At        time.Time
	RequestID string
}
