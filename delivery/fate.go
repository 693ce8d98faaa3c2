package delivery

// Fate is what became of a delivery. Queued is not final: the delivery waits or is under way.
type Fate string

// The fates.
const (
	Queued        Fate = "queued"
	Delivered     Fate = "delivered"
	Failed        Fate = "failed"
	Suppressed    Fate = "suppressed"
	InMaintenance Fate = "maintenance"
	Overflow      Fate = "overflow"
	Expired       Fate = "expired"
	Withdrawn     Fate = "withdrawn"
	Filtered      Fate = "filtered"
)

// Receipt is the answer to one event that was handed in.
type Receipt struct {
	ID   string // made by the gateway; the webhook-id of every delivery of the event
	Fate Fate   // of the LIVE registration's delivery
	Err  error  // why the event was not stored: an *EventError, ErrUnknownEntity, or ErrUnavailable (try again)
}
