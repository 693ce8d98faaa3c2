package main_test

import (
	"encoding/base64"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	main "github.com/pulsegate/pulsegate/cmd/pulsegate"
)

// FuzzConfig holds that settings are kept or refused, never half of both, and that a refusal tells no password.
func FuzzConfig(f *testing.F) {
	f.Add("redis://127.0.0.1:6379/0", "smtp://gate:pass@mail.example:587", "127.0.0.1:8080", "10.0.0.0/8", "https://gate.example")
	f.Add("redis+cluster://a:1,b:2", "smtps://mail.example", ":0", "loopback", "http://h:1/p")
	f.Add("redis+sentinel://u:canary@h1,h2/master", "smtp://u:ca%6eary@h:x", "[::1]:99999", "::/0", "https://u:canary@h")
	f.Add("rediss://:p%zz@h", "smtp://", "h", "1.2.3.4", "ftp://h")
	f.Add("redis://:canary\x00@h/-1", "SMTP://u:canary@h/path", "h:-1", "10.0.0.1/33", "//h")
	f.Fuzz(func(t *testing.T, redis, smtp, listen, allow, public string) {
		if smtp == "" {
			return // then there is no sender either
		}
		err := main.CheckServe(main.ServeSettings{Redis: redis, SMTP: smtp, Listen: listen, Allow: allow, Public: public})
		if err != nil {
			for _, text := range []string{redis, smtp, public} {
				if u, bad := url.Parse(text); bad == nil && u.User != nil {
					if password, _ := u.User.Password(); len(password) > 5 && !strings.Contains(listen+allow, password) {
						require.NotContains(t, err.Error(), password)
					}
				}
			}
			return
		}
		if redis != "" {
			options, err := main.RedisOptions(redis)
			require.NoError(t, err)
			for _, address := range options.Addrs {
				_, _, err := net.SplitHostPort(address)
				require.NoError(t, err)
			}
		}
		_, _, err = net.SplitHostPort(listen)
		require.NoError(t, err)
		if allow != "loopback" {
			_, err := netip.ParsePrefix(allow)
			require.NoError(t, err)
		}
	})
}

// FuzzKeyFile holds that a key file gives as many keys of each kind as it has lines, all different, or none.
func FuzzKeyFile(f *testing.F) {
	line := func(b byte) string { return base64.StdEncoding.EncodeToString([]byte(strings.Repeat(string(b), 64))) }
	f.Add(line('a') + "\n")
	f.Add(line('a') + "\n\n " + line('b') + "\r\n")
	f.Add(line('a') + "\n" + line('a'))
	f.Add(line('a')[1:])
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		tokens, secrets, err := main.ParseKeyFile(text)
		if err != nil {
			require.Empty(t, tokens)
			for word := range strings.FieldsSeq(text) {
				if len(word) > 20 {
					require.NotContains(t, err.Error(), word, "a refusal tells no key")
				}
			}
			return
		}
		seen := map[string]bool{}
		for _, key := range append(tokens, secrets...) {
			require.Len(t, key, 32)
			require.False(t, seen[string(key)])
			seen[string(key)] = true
		}
		require.Len(t, secrets, len(tokens))
		require.Len(t, tokens, len(strings.Fields(text)))
	})
}
