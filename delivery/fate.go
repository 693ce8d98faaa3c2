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

// words say why a delivery was not tried; "" for one that was.
func (f Fate) words() string {
	switch f {
	case Suppressed:
		return "not tried: the bot is DOWN"
	case InMaintenance:
		return "not tried: the registration is in MAINTENANCE"
	case Overflow:
		return "not tried: too much waits for the registration"
	case Expired:
		return "not tried: its time was up"
	case Withdrawn:
		return "not tried: the registration was deleted"
	case Filtered:
		return "not tried: the public filter does not admit it"
	default:
		return ""
	}
}

// Receipt is the answer to one event that was handed in.
type Receipt struct {
	ID   string // made by the gateway; the webhook-id of every delivery of the event
	Fate Fate   // of the LIVE registration's delivery
	Err  error  // why the event was not stored: an *EventError, ErrUnknownEntity, or ErrUnavailable (try again)
}
