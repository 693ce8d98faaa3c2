package delivery

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"
)

// systemRoots are the authorities that this machine trusts; none where it knows of none.
func systemRoots() *x509.CertPool {
	if roots, err := x509.SystemCertPool(); err == nil {
		return roots
	}
	return x509.NewCertPool()
}

// CertificateProblem says what is wrong with PEM certificates that callbacks are to be trusted by, or "". None at all are fine.
func CertificateProblem(text string) string {
	if text == "" {
		return ""
	}
	rest, count := []byte(text), 0
	for {
		block, more := pem.Decode(rest)
		if block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return "may hold certificates only, and no " + strings.ToLower(clip(harmless(block.Type), 40))
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil || len(block.Headers) > 0 {
			return fmt.Sprintf("holds a certificate, number %d, that cannot be read", count+1)
		}
		rest, count = more, count+1
	}
	switch {
	case count == 0:
		return "must be PEM certificates"
	case strings.Contains(string(rest), "-----BEGIN"):
		return fmt.Sprintf("holds something after certificate number %d that cannot be read", count)
	}
	return ""
}
