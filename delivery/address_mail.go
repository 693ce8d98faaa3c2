package delivery

import (
	"errors"
	"net/mail"
	"strings"
	"unicode"

	"golang.org/x/net/idna"
)

const maxLocalPart = 64 // bytes before the @

var errMailAddress = errors.New("must be one plain mail address")

// MailAddress is what goes into an envelope for a contact's address: one mailbox, its domain in ASCII, its local part as it is. An error
// means that no mail server could be asked to take mail for it.
func MailAddress(text string) (string, error) {
	a, err := mail.ParseAddress(text)
	if err != nil || a.Name != "" || strings.ContainsFunc(text, unicode.IsControl) {
		return "", errMailAddress
	}
	if quoted := strings.TrimSuffix(strings.TrimPrefix(a.String(), "<"), ">"); text != a.Address && text != quoted {
		return "", errMailAddress // a comment, or brackets
	}
	at := strings.LastIndexByte(a.Address, '@')
	local, domain := a.Address[:at], a.Address[at+1:]
	if len(local) > maxLocalPart || strings.ContainsFunc(local, func(r rune) bool { return r > unicode.MaxASCII }) {
		return "", errMailAddress // letters beyond ASCII there need a mail server that takes SMTPUTF8, and all servers behind it too
	}
	if domain, err = idna.Lookup.ToASCII(domain); err != nil || !hostName(domain) {
		return "", errMailAddress
	}
	return local + "@" + domain, nil
}

// hostName says whether s is the name of a host in ASCII: labels of letters, digits and inner hyphens.
func hostName(s string) bool {
	if len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		odd := strings.ContainsFunc(label, func(r rune) bool {
			return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-'
		})
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' || odd {
			return false
		}
	}
	return true
}
