package delivery_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"testing"
	"time"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/pulsegate/pulsegate/health"
	"github.com/stretchr/testify/require"
)

// authority makes certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  string
}

func newAuthority(t testing.TB) *authority {
	a := &authority{}
	c := a.issue(t, func(c *x509.Certificate) {
		c.Subject.CommonName = "Authority of a test"
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
	})
	a.cert, a.key, a.pem = c.Leaf, c.PrivateKey.(*ecdsa.PrivateKey), pemOf(c)
	return a
}

func pemOf(c tls.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}))
}

// issue makes a certificate for 127.0.0.1; one of an authority without a certificate signs itself.
func (a *authority) issue(t testing.TB, change ...func(*x509.Certificate)) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "bot"}, NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	for _, f := range change {
		f(template)
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	require.NoError(t, err)
	leaf, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func (a *authority) serverConfig(t testing.TB, change ...func(*x509.Certificate)) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{a.issue(t, change...)}}
}

func TestD09OnlyTrustedTLSIsSpoken(t *testing.T) {
	known, unknown := newAuthority(t), newAuthority(t)
	old := func(version uint16) *tls.Config {
		c := known.serverConfig(t)
		c.MinVersion, c.MaxVersion = tls.VersionTLS10, version
		return c
	}
	selfSigned := (&authority{}).issue(t)
	cases := map[string]struct {
		cfg   *tls.Config
		class health.Class
	}{
		"expired":       {known.serverConfig(t, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-24 * time.Hour) }), health.TLS},
		"not yet valid": {known.serverConfig(t, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(30 * time.Minute) }), health.TLS},
		"wrong name":    {known.serverConfig(t, func(c *x509.Certificate) { c.IPAddresses, c.DNSNames = nil, []string{"another.example"} }), health.TLS},
		"for clients":   {known.serverConfig(t, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }), health.TLS},
		"self-signed":   {&tls.Config{Certificates: []tls.Certificate{selfSigned}}, health.TLS},
		"unknown":       {unknown.serverConfig(t), health.TLS},
		"TLS 1.0":       {old(tls.VersionTLS10), health.TLS},
		"TLS 1.1":       {old(tls.VersionTLS11), health.TLS},
		"TLS 1.2":       {old(tls.VersionTLS12), health.Acknowledged},
		"TLS 1.3":       {old(tls.VersionTLS13), health.Acknowledged},
	}
	r := outward(t, func(c *delivery.Config) { c.CallbackCA = known.pem })
	bots := map[string]*wildBot{}
	urls := map[string]string{}
	for name, c := range cases {
		bots[name] = startWildBot(t, overTLS(c.cfg, accepting))
		urls[name] = name
	}
	together(t, r, urls, func(name string) string { return "https://" + bots[name].addr + "/" }, func(t *testing.T, name string, rec delivery.Record) {
		require.Equal(t, cases[name].class, rec.Class, rec.Message)
		require.Equal(t, cases[name].class == health.Acknowledged, bots[name].requests.Load() == 1)
		requireHarmless(t, rec.Message)
	})
	t.Attr("measured", fmt.Sprintf("%d kinds of TLS, 8 refused with class tls before any request, 1.2 and 1.3 spoken", len(cases)))
}

func TestD09ARegistrationBringsItsOwnAuthority(t *testing.T) {
	a := newAuthority(t)
	selfSigned := (&authority{}).issue(t)
	r := outward(t)
	bot := startWildBot(t, overTLS(a.serverConfig(t), accepting))
	own := startWildBot(t, overTLS(&tls.Config{Certificates: []tls.Certificate{selfSigned}}, accepting))
	trusting := func(pem string) func(*delivery.Registration) {
		return func(r *delivery.Registration) { r.CACertificate = pem }
	}
	require.Equal(t, delivery.Delivered, r.deliver(t, "with", "https://"+bot.addr+"/", trusting(a.pem)).Fate)
	require.Equal(t, delivery.Delivered, r.deliver(t, "itself", "https://"+own.addr+"/", trusting(pemOf(selfSigned))).Fate)
	require.Equal(t, health.TLS, r.deliver(t, "without", "https://"+bot.addr+"/").Class, "trust is not shared, and neither are connections")
	require.Equal(t, health.TLS, r.deliver(t, "another", "https://"+bot.addr+"/", trusting(newAuthority(t).pem)).Class)

	reg := registration("without", "app-without", func(r *delivery.Registration) { r.CallbackURL, r.CACertificate = "https://"+bot.addr+"/", a.pem })
	require.NoError(t, r.Put(t.Context(), reg))
	require.Equal(t, delivery.Delivered, r.settled(t, r.send(t, message("without", "ann", 2))[0].ID).Fate)
	back, err := r.Registration(t.Context(), reg.RegID)
	require.NoError(t, err)
	require.Equal(t, a.pem, back.CACertificate, "it is public")
	t.Attr("measured", "a private authority and a self-signed certificate, trusted for the registrations that bring them and for no other")
}

func TestD09WhatIsNoCertificateIsRefusedAtRegistration(t *testing.T) {
	a := newAuthority(t)
	der, err := x509.MarshalECPrivateKey(a.key)
	require.NoError(t, err)
	key := string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
	for text, want := range map[string]string{
		"hello": "caCertificate must be PEM certificates", a.pem + key: "caCertificate may hold certificates only, and no ec private key",
		"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n": "caCertificate holds a certificate, number 1, that cannot be read",
		a.pem + "-----BEGIN CERTIFICATE-----\nAA":                        "caCertificate holds something after certificate number 1",
	} {
		problems := delivery.Validate(registration("e", "app", func(r *delivery.Registration) { r.CACertificate = text }))
		require.Len(t, problems, 1)
		require.Contains(t, problems[0], want)
	}
	require.Empty(t, delivery.Validate(registration("e", "app", func(r *delivery.Registration) { r.CACertificate = a.pem + "\n# a note\n" + a.pem })))
}
