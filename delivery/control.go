package delivery

import "time"

// OwnerType says who owns a conversation. The empty type is undetermined.
type OwnerType string

// The owners.
const (
	Undetermined OwnerType = ""
	Bot          OwnerType = "BOT"
	Agent        OwnerType = "AGENT"
)

// Owner is who owns a conversation; AppID is set for Bot only.
type Owner struct {
	Type  OwnerType `json:"type"`
	AppID string    `json:"appId,omitempty"`
}

// Control is the ownership of one author's conversation on an entity.
type Control struct {
	Entity      Entity
	AuthorID    string
	AuthorName  string // as last seen; may be empty
	Owner       Owner
	Tags        []string // handoff tags, as the platform names them
	LastUpdated time.Time
}

// ControlChange is one PUT of control by a bot.
type ControlChange struct {
	Entity       Entity
	AppID        string // the bot that asks
	AuthorID     string
	AuthorName   string
	Owner        Owner
	Comment      string
	LastUpdateTS int64  // epoch ms; 0: not given. Older than ours: ErrStale
	Body         []byte // as received; passed on to the platform
}
