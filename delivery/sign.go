package delivery

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"strconv"
	"strings"
)

// sign returns one Standard Webhooks signature, "v1,<base64>", over id, timestamp (seconds) and body. A secret "whsec_…" is base64;
// any other is its raw bytes.
func sign(secret Secret, id string, timestamp int64, body []byte) string {
	key := []byte(secret)
	if rest, ok := strings.CutPrefix(string(secret), "whsec_"); ok {
		if raw, err := base64.StdEncoding.DecodeString(rest); err == nil {
			key = raw
		}
	}
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(id))
	mac.Write([]byte{'.'})
	mac.Write(strconv.AppendInt(nil, timestamp, 10))
	mac.Write([]byte{'.'})
	mac.Write(body)
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// basicAuth is the value of the header Authorization for the type Basic, in UTF-8 (RFC 7617).
func basicAuth(identity string, secret Secret) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(identity+":"+string(secret)))
}

func appendInt(b []byte, n int64) []byte { return strconv.AppendInt(b, n, 10) }
