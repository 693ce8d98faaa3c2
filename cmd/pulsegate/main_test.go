package main_test

import (
	"bytes"
	"fmt"
	"os"
	"runtime/debug"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	main "github.com/pulsegate/pulsegate/cmd/pulsegate"
)

// TestMain lets this program stand in for the gateway itself, where a test needs a process of its own.
func TestMain(m *testing.M) {
	redis.SetLogger(main.Mute{})
	switch {
	case os.Getenv("PULSEGATE_TEST_HOLD") != "":
		main.HoldStore(os.Getenv("PULSEGATE_TEST_HOLD"))
	case os.Getenv("PULSEGATE_TEST_RUN") != "":
		os.Exit(main.Run(os.Args[1:], os.Stdout, os.Stderr))
	default:
		debug.SetGCPercent(400) // the store in memory makes much garbage
		status := m.Run()
		if err := goleak.Find(); err != nil && status == 0 {
			_, _ = fmt.Fprintln(os.Stderr, "goroutines that outlive the tests:", err)
			status = 1
		}
		os.Exit(status)
	}
}

// run runs the program in this process.
func run(args ...string) (status int, out, errs string) {
	var o, e bytes.Buffer
	status = main.Run(args, &o, &e)
	return status, o.String(), e.String()
}

func TestWrongSettingsStopTheStartWithOneSentence(t *testing.T) {
	dir := t.TempDir()
	for name, c := range map[string]struct {
		args []string
		says string
	}{
		"unknown flag":               {[]string{"serve", "--nope"}, "unknown flag --nope"},
		"unknown command":            {[]string{"nope"}, "nope"},
		"address without port":       {[]string{"serve", "--listen", "here"}, "--listen here: write HOST:PORT"},
		"same address twice":         {[]string{"serve", "--ops-listen", "127.0.0.1:8080"}, "must differ from --listen"},
		"redis scheme":               {[]string{"serve", "--redis", "http://h"}, "--redis: the scheme must be redis"},
		"several plain redis":        {[]string{"serve", "--redis", "redis://a,b"}, "redis+cluster://"},
		"sentinel without master":    {[]string{"serve", "--redis", "redis+sentinel://a,b"}, "name of the master"},
		"short window":               {[]string{"serve", "--health-window", "1ms"}, "health window"},
		"no attempts":                {[]string{"serve", "--health-min-attempts", "0"}, "--health-min-attempts 0"},
		"long timeout":               {[]string{"serve", "--delivery-timeout", "1m"}, "--delivery-timeout 1m0s: must be from 500ms to 30s"},
		"bad range":                  {[]string{"serve", "--allow-callback", "10.0.0.1"}, "--allow-callback 10.0.0.1: write a CIDR"},
		"mail without sender":        {[]string{"serve", "--smtp", "smtp://h:25"}, "--smtp: needs --mail-from"},
		"sender without mail":        {[]string{"serve", "--mail-from", "a@b.example"}, "--mail-from: only with --smtp"},
		"smtp scheme":                {[]string{"serve", "--smtp", "mail://h", "--mail-from", "a@b.example"}, "--smtp: write smtp://"},
		"tags without platform":      {[]string{"serve", "--tag-ids", "standard=1"}, "only with --platform-url"},
		"unknown tag":                {[]string{"serve", "--platform-url", "https://p.example", "--tag-ids", "other=1"}, "--tag-ids other"},
		"platform URL":               {[]string{"serve", "--platform-url", "p.example"}, "--platform-url: write http"},
		"missing token file":         {[]string{"serve", "--data", dir, "--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0", "--platform-url", "https://p.example", "--platform-token-file", dir + "/none"}, "--platform-token-file"},
		"token without company":      {[]string{"token"}, "--company"},
		"bot token without app":      {[]string{"token", "--company", "acme", "--scope", "bot"}, "--scope bot: needs --app-id"},
		"admin token with app":       {[]string{"token", "--company", "acme", "--app-id", "a"}, "--app-id: only for --scope bot"},
		"token that is over at once": {[]string{"token", "--company", "acme", "--ttl", "0s"}, "--ttl 0s: must be positive"},
		"status of a bot":            {[]string{"bot", "--status", "99"}, "--status 99: must be from 200 to 599"},
		"bench without events":       {[]string{"bench", "--events", "0"}, "--events 0"},
	} {
		t.Run(name, func(t *testing.T) {
			status, out, errs := run(c.args...)
			require.Equal(t, 2, status, errs)
			require.Contains(t, errs, c.says)
			require.Empty(t, out)
			last := bytes.Split(bytes.TrimSpace([]byte(errs)), []byte("\n"))
			require.Contains(t, string(last[len(last)-1]), "pulsegate: ")
		})
	}
}

func TestSettingsComeFromTheEnvironmentToo(t *testing.T) {
	t.Setenv("PULSEGATE_HEALTH_WINDOW", "1ms")
	status, _, errs := run("serve")
	require.Equal(t, 2, status)
	require.Contains(t, errs, "health window")
}

func TestRefusedSettingsDoNotShowPasswords(t *testing.T) {
	for _, args := range [][]string{
		{"serve", "--redis", "redis://me:s3cret@h:bad"},
		{"serve", "--redis", "redis://me:s3cret@a,b"},
		{"serve", "--smtp", "mail://me:s3cret@h", "--mail-from", "a@b.example"},
		{"serve", "--platform-url", "https://me:s3cret@h"},
	} {
		status, out, errs := run(args...)
		require.Equal(t, 2, status)
		require.NotContains(t, out+errs, "s3cret")
	}
}
