package main

import (
	"log/slog"
	"net/netip"
	"net/url"
	"strings"

	"github.com/pulsegate/pulsegate/gateway"
)

// issuerFlags say whose tokens are good beside those of the key file.
type issuerFlags struct {
	IssuerJWKS     string            `help:"URL of the keys (JWKS) of an issuer whose tokens are good as well: RS256, ES256 or EdDSA, with kid. They are read every five minutes; when they cannot be read, those known stay good for an hour." name:"issuer-jwks" placeholder:"URL"`
	Issuer         string            `help:"What iss must be in those tokens; needed with --issuer-jwks." placeholder:"NAME"`
	IssuerAudience string            `help:"What aud must hold in those tokens. Default: pulsegate." placeholder:"NAME"`
	IssuerClaims   map[string]string `help:"Which of their claims say what: company=NAME,scope=NAME,app=NAME. Default: companyKey, scope and appId." mapsep:"," placeholder:"WHAT=NAME,…"`
}

// check refuses settings that do not go together.
func (f issuerFlags) check() error {
	if f.IssuerJWKS == "" {
		if f.Issuer != "" || f.IssuerAudience != "" || len(f.IssuerClaims) > 0 {
			return wrongSetting("--issuer, --issuer-audience and --issuer-claims: only with --issuer-jwks")
		}
		return nil
	}
	u, err := url.Parse(f.IssuerJWKS)
	if err != nil || u.Hostname() == "" || u.User != nil || u.Scheme != "https" && !(u.Scheme == "http" && isLoopback(u.Hostname())) {
		return wrongSetting("--issuer-jwks: write https://host/path; http only for this machine itself")
	}
	if f.Issuer == "" || f.Issuer == "pulsegate" {
		return wrongSetting("--issuer: is needed with --issuer-jwks, and may not be pulsegate")
	}
	for what, name := range f.IssuerClaims {
		if !strings.Contains(" company scope app ", " "+what+" ") || name == "" {
			return wrongSetting("--issuer-claims %s=%s: the names are company, scope and app", what, name)
		}
	}
	return nil
}

// isLoopback says that a host is this machine itself.
func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}

// newIssuer is the issuer of the settings; nil: none.
func (f issuerFlags) newIssuer(log *slog.Logger) (*gateway.Issuer, error) {
	if f.IssuerJWKS == "" {
		return nil, nil
	}
	return gateway.NewIssuer(gateway.IssuerConfig{
		URL: f.IssuerJWKS, Name: f.Issuer, Audience: f.IssuerAudience,
		Company: f.IssuerClaims["company"], Scope: f.IssuerClaims["scope"], App: f.IssuerClaims["app"], Log: log,
	})
}
