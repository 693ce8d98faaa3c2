package notify

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/pulsegate/pulsegate/health"
)

// messageID names the mail about one transition. It is the same on every try and in every replica, so that a mail sent twice after
// a crash is one mail to the reader. Domain is the sender's.
func messageID(reg delivery.RegID, t health.Transition, domain string) string {
	return fmt.Sprintf("%s.%d.%s-%s.%d@%s", regName(reg), t.Number,
		strings.ToLower(stateWord(t.From)), strings.ToLower(stateWord(t.To)), t.At, domain)
}

// threadID names the incident that a transition belongs to. No mail has it; every mail of the incident refers to it.
func threadID(reg delivery.RegID, t health.Transition, domain string) string {
	return fmt.Sprintf("incident.%s.%d@%s", regName(reg), incidentStart(t), domain)
}

// contactThread names the thread of all mails of one kind to a contact that tell of several bots.
func contactThread(kind string, to delivery.Contact, domain string) string {
	sum := sha256.Sum256([]byte(to.Company + "\x00" + to.Address))
	return kind + "." + hex.EncodeToString(sum[:12]) + "@" + domain
}

// incidentStart is when the incident began, or the transition's own time when it is of none.
func incidentStart(t health.Transition) int64 {
	if t.Incident > 0 {
		return t.Incident
	}
	return t.At
}

// regName is a registration as part of a message id: the app ID if it is short and plain, and a hash of the whole, since the
// other parts may hold anything.
func regName(reg delivery.RegID) string {
	h := sha256.New()
	for _, part := range []string{reg.CompanyKey, reg.NetworkKey, reg.ExternalID, reg.AppID} {
		_, _ = fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	name := hex.EncodeToString(h.Sum(nil)[:12])
	if plainID(reg.AppID) && len(reg.AppID) <= 40 {
		return reg.AppID + "." + name
	}
	return name
}

// plainID reports whether s is of ASCII letters, digits, - and _ only: an atom of a message id.
func plainID(s string) bool {
	return s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") == ""
}

// idDomain is the domain of message ids: that of the sender's address, or a fixed one if that is not plain.
func idDomain(address string) string {
	_, domain, _ := strings.Cut(address[max(strings.LastIndex(address, "@"), 0):], "@")
	for atom := range strings.SplitSeq(domain, ".") {
		if !plainID(atom) {
			return "pulsegate.invalid"
		}
	}
	return strings.ToLower(domain)
}
