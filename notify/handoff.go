package notify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"time"

	"github.com/pulsegate/pulsegate/delivery"
)

// parentTag names the parent of the handoff tags in Config.TagIDs.
const parentTag = "parent"

// The steps of a handoff, as Entry.Step remembers them.
const (
	stepTag      = 0 // nothing went through yet
	stepControl  = 1 // the tag went through
	stepUntagged = 2 // the tag was refused for good: control is owed all the same
)

// The bodies of the two calls, in the platform's spelling.
type (
	platformCall struct {
		Type         string             `json:"type"`
		Owner        *delivery.Owner    `json:"owner,omitempty"`
		Author       platformAuthor     `json:"author"`
		Coordinate   platformCoordinate `json:"coordinate"`
		Comment      string             `json:"comment,omitempty"`
		LastUpdateTS string             `json:"lastUpdateTS,omitempty"`
		EntityType   string             `json:"entityType,omitempty"`
		TagIDs       []int64            `json:"tagIds,omitempty"`
	}
	platformAuthor struct {
		ID       string `json:"id"`
		FullName string `json:"fullName,omitempty"`
	}
	platformCoordinate struct {
		CompanyKey string `json:"companyKey"`
		NetworkKey string `json:"networkKey"`
		ExternalID string `json:"externalId"`
		BotID      string `json:"botId"`
		MessageID  string `json:"messageId,omitempty"`
		Scope      string `json:"scope"`
	}
)

// handOff tells the platform of a handoff (tag, then control) or of a change of control.
func (s *shift) handOff(ctx context.Context, e delivery.Entry) delivery.Entry {
	now := s.cfg.Outbox.Now()
	if s.cfg.Platform == nil {
		return keep(e, now, "no platform is set")
	}
	if tooLate(e, now, s.cfg.Deadline) {
		return s.platformEnd(finish(e, delivery.EntryGivenUp, now, e.LastError))
	}
	var h delivery.Handoff
	if err := json.Unmarshal(e.Data, &h); err != nil {
		return s.platformEnd(refuse(e, now, "the entry cannot be read"))
	}
	if e.Kind == delivery.EntryHandoff && h.Owner.Type == delivery.Undetermined {
		h.Owner = delivery.Owner{Type: delivery.Agent}
	}
	if h.Owner.Type == delivery.Undetermined {
		return keep(e, now, "the platform knows no undetermined owner")
	}
	if ids := s.tagIDs(h.HandoffKind); e.Kind == delivery.EntryHandoff && e.Step == stepTag && len(ids) > 0 {
		got := s.call(ctx, "/bots/v3/tag", tagCall(e, h, ids))
		switch got.means {
		case callAgain:
			return s.callAgain(ctx, e, got)
		case callRefused:
			e.Step, e.LastError = stepUntagged, got.why
		default:
			e.Step = stepControl
		}
	}
	return s.passControl(ctx, e, h)
}

// passControl makes the control call. A refused tag does not keep people from getting the conversation, but the entry says so.
func (s *shift) passControl(ctx context.Context, e delivery.Entry, h delivery.Handoff) delivery.Entry {
	tagFault := e.LastError
	got := s.call(ctx, "/bots/v3/control", over(h.Sent, controlCall(e, h)))
	now := s.cfg.Outbox.Now()
	switch {
	case got.means == callAgain:
		return s.callAgain(ctx, e, got)
	case got.means == callRefused:
		return s.platformEnd(refuse(e, now, got.why))
	case e.Step == stepUntagged:
		return s.platformEnd(refuse(e, now, "control passed on, but the tag was refused: "+tagFault))
	default:
		return done(e, now)
	}
}

// platformEnd logs that an entry of the platform ended without being told.
func (s *shift) platformEnd(e delivery.Entry) delivery.Entry {
	s.cfg.Log.Warn("handoff not told to the platform", "entry", e.ID, "state", e.State, "tries", e.Tries, "reason", e.LastError)
	return e
}

// gotten is the answer to one call.
type gotten struct {
	means answered
	wait  time.Duration // at least, before another try
	why   string
}

func (s *shift) call(ctx context.Context, path string, body any) gotten {
	got := s.ask(ctx, path, body)
	s.count.calls.WithLabelValues(string(got.means)).Inc()
	return got
}

func (s *shift) ask(ctx context.Context, path string, body any) gotten {
	data, err := json.Marshal(body)
	if err != nil {
		return gotten{means: callRefused, why: "the call cannot be written"}
	}
	status, header, _, err := s.cfg.Platform.Pass(ctx, http.MethodPut, path, data)
	if err != nil {
		return gotten{means: callAgain, why: err.Error()}
	}
	return gotten{
		means: meaning(status),
		wait:  retryAfter(header.Get("Retry-After"), s.cfg.Outbox.Now()),
		why:   fmt.Sprintf("PUT %s: status %d", path, status),
	}
}

func (s *shift) callAgain(ctx context.Context, e delivery.Entry, got gotten) delivery.Entry {
	now := s.cfg.Outbox.Now()
	if ctx.Err() != nil { // cut off by the end of Run: nobody's fault
		return later(e, now, 0)
	}
	tagRefused, fault := e.Step == stepUntagged, e.LastError
	e = again(e, now, max(got.wait, platformSchedule.after(e.Tries+1)), s.cfg.Deadline, got.why)
	if tagRefused && e.State == delivery.EntryPending {
		e.LastError = fault // kept for the end; the control call's own fault may pass
	}
	if e.State == delivery.EntryGivenUp {
		return s.platformEnd(e)
	}
	return e
}

// tagIDs are the ids of a handoff's tags: the parent's and the kind's own, as far as they are set.
func (s *shift) tagIDs(kind delivery.HandoffKind) []int64 {
	var ids []int64
	for _, name := range []string{parentTag, string(kind)} {
		if id, ok := s.cfg.TagIDs[name]; ok {
			ids = append(ids, id)
		}
	}
	return ids
}

func tagCall(e delivery.Entry, h delivery.Handoff, ids []int64) platformCall {
	c := callAbout("tag", e, h)
	c.EntityType, c.TagIDs = "POST", ids
	return c
}

func controlCall(e delivery.Entry, h delivery.Handoff) platformCall {
	c := callAbout("control", e, h)
	c.Owner = &h.Owner
	c.Comment = h.Comment
	if c.Comment == "" && e.Kind == delivery.EntryHandoff {
		c.Comment = reasonWords(h.Reason)
	}
	c.LastUpdateTS = strconv.FormatInt(e.At, 10)
	return c
}

// over is a call laid over what a bot sent: what we say of it wins, and what we know nothing of stays as it came.
func over(sent json.RawMessage, c platformCall) any {
	whole, err := members(sent)
	if err != nil {
		return c
	}
	ours, err := members(c)
	if err != nil {
		return c
	}
	delete(whole, "lastUpdatedTS") // the other spelling of ours
	for name, value := range ours {
		inner, err := members(value)
		theirs, none := members(whole[name])
		if err == nil && none == nil && name != "owner" {
			maps.Copy(theirs, inner)
			if value, err = json.Marshal(theirs); err != nil {
				return c
			}
		}
		whole[name] = value
	}
	return whole
}

// members are those of a JSON object; an error for what is none.
func members(v any) (m map[string]json.RawMessage, err error) {
	text, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(text, &m)
	}
	if err == nil && m == nil {
		err = errors.New("no object")
	}
	return m, err
}

func callAbout(kind string, e delivery.Entry, h delivery.Handoff) platformCall {
	scope := h.Scope
	if scope == "" {
		scope = "PRIVATE"
	}
	return platformCall{
		Type:   kind,
		Author: platformAuthor{ID: h.AuthorID, FullName: h.AuthorName},
		Coordinate: platformCoordinate{
			CompanyKey: e.CompanyKey, NetworkKey: e.NetworkKey, ExternalID: e.ExternalID, BotID: e.AppID,
			MessageID: h.MessageID, Scope: scope,
		},
	}
}

// reasonWords is the comment that agents see beside a handoff that no bot asked for.
func reasonWords(reason string) string {
	switch reason {
	case "failed":
		return "Handed over automatically: a message could not be delivered to the bot."
	case "suppressed", "down":
		return "Handed over automatically: the bot is DOWN."
	case "overflow":
		return "Handed over automatically: too many events wait for the bot."
	case "expired":
		return "Handed over automatically: a message waited for the bot for too long."
	case "maintenance", "mode":
		return "Handed over automatically: the bot does not take part at present."
	case "deleted":
		return "Handed over automatically: the bot is no longer registered."
	default:
		return "Handed over automatically."
	}
}
