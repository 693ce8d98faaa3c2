package delivery

// HandoffKind names the child tag of a handoff.
type HandoffKind string

// The kinds of handoff.
const (
	StandardHandoff    HandoffKind = "standard"
	AutomaticHandoff   HandoffKind = "automatic"
	MaintenanceHandoff HandoffKind = "maintenance"
)

// ParentTag is the tag that every handoff applies beside its own.
const ParentTag = "Bot Handoff"

// Tag is the name of the kind's child tag.
func (k HandoffKind) Tag() string {
	switch k {
	case StandardHandoff:
		return "Standard Bot Handoff"
	case MaintenanceHandoff:
		return "Maintenance Bot Handoff"
	default:
		return "Automatic Bot Handoff"
	}
}
