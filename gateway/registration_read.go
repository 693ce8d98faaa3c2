package gateway

import (
	"slices"
	"strings"

	"github.com/pulsegate/pulsegate/delivery"
)

// registration reads the body as a registration that the token may write. All its problems, those of wrong types and those of
// wrong values, come as one *delivery.ValidationError.
func (g *Gateway) registration(c *call) (delivery.Registration, error) {
	f, err := readFields(c.body)
	if err != nil {
		return delivery.Registration{}, err
	}
	r := registrationOf(f)
	if r.CompanyKey == "" {
		r.CompanyKey = c.CompanyKey
	}
	if r.CompanyKey != c.CompanyKey {
		return r, delivery.ErrNotFound
	}
	if r.AppID != "" {
		if err := c.may(r.AppID); err != nil {
			return r, err
		}
	}
	if problems := allProblems(*f.problems, g.Carrier.Problems(r)); len(problems) > 0 {
		return r, &delivery.ValidationError{Problems: problems}
	}
	return r, nil
}

// allProblems joins the problems of types and of values; a field of the wrong type is not said to be empty as well.
func allProblems(types, values []string) []string {
	all := slices.Clone(types)
	for _, v := range values {
		field, _, _ := strings.Cut(v, " ")
		said := func(t string) bool {
			return strings.HasPrefix(t, field+" ") || strings.HasPrefix(field, beforeSpace(t)+".")
		}
		if !slices.ContainsFunc(types, said) {
			all = append(all, v)
		}
	}
	return all
}

// beforeSpace is the first word of s.
func beforeSpace(s string) string {
	word, _, _ := strings.Cut(s, " ")
	return word
}

// registrationOf reads the fields of a registration as far as they can be read.
func registrationOf(f fields) delivery.Registration {
	r := delivery.Registration{
		Platform: f.text("platform"), NetworkInstance: f.text("networkInstance"), Name: f.text("name"),
		CallbackURL: f.text("callbackUrl"), CACertificate: f.text("caCertificate"), AvatarURL: f.text("avatarUrl"), Mode: modeOf(f), PublicFilter: filterOf(f),
		Metadata: f.flat("metadata"), Owner: f.text("owner"), RunbookURL: f.text("runbookUrl"),
		DeliveryTimeout: f.millis("deliveryTimeoutMs"), TimeToLive: f.millis("timeToLiveMs"),
		MaxConcurrency: int(f.positive("maxConcurrency")), MaxPerSecond: int(f.positive("maxPerSecond")),
		WhenDown: delivery.WhenDown(f.text("whenDown")), DebugUntil: f.moment("debugUntil"),
	}
	r.CompanyKey, r.NetworkKey = f.text("companyKey"), f.text("networkKey")
	r.ExternalID, r.AppID = f.text("externalId"), f.text("appId")
	credentials, _ := f.object("credentials")
	r.Credentials = delivery.Credentials{
		Type:     delivery.CredentialType(credentials.text("type")),
		Identity: credentials.text("identity"), Secret: delivery.Secret(credentials.text("secret")),
	}
	contact, _ := f.object("contact")
	r.ContactEmail, r.ContactName = contact.text("email"), contact.text("name")
	return r
}

// modeOf is the mode as it is named, else by the older maintenanceMode, else LIVE.
func modeOf(f fields) delivery.Mode {
	old := f.flag("maintenanceMode")
	switch mode := f.text("mode"); {
	case mode != "":
		return delivery.Mode(strings.ToUpper(mode))
	case old:
		return delivery.Maintenance
	default:
		return delivery.Live
	}
}

// filterOf is the opt-in to public events; nil when there is none.
func filterOf(f fields) *delivery.PublicFilter {
	filter, ok := f.object("publicFilter")
	if !ok {
		return nil
	}
	return &delivery.PublicFilter{
		IncludeTargeted: filter.flag("includeTargeted"), IncludeSourceTagIDs: filter.wholes("includeSourceTagIds"),
	}
}
