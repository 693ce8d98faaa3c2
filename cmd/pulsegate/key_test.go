package main_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	main "github.com/pulsegate/pulsegate/cmd/pulsegate"
	"github.com/pulsegate/pulsegate/gateway"
)

func TestKeyFileIsMadeOnceAndReadableByItsOwnerOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deep", "pulsegate.key")
	tokens, secrets, exposed, err := main.Keys(path)
	require.NoError(t, err)
	require.False(t, exposed)
	require.Len(t, tokens, 32)
	require.Len(t, secrets, 32)
	require.NotEqual(t, tokens, secrets)
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())

	again, same, _, err := main.Keys(path)
	require.NoError(t, err)
	require.Equal(t, tokens, again)
	require.Equal(t, secrets, same)
	entries, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	require.Len(t, entries, 1)
}

func TestKeyFileMadeByManyAtOnceIsOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pulsegate.key")
	made := make(chan string, 8)
	for range 8 {
		go func() {
			tokens, _, _, err := main.Keys(path)
			if err != nil {
				tokens = []byte(err.Error())
			}
			made <- string(tokens)
		}()
	}
	first := <-made
	for range 7 {
		require.Equal(t, first, <-made)
	}
}

func TestKeyFileThatOthersMayReadIsNoticed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pulsegate.key")
	_, _, _, err := main.Keys(path)
	require.NoError(t, err)
	require.NoError(t, os.Chmod(path, 0o644))
	_, _, exposed, err := main.Keys(path)
	require.NoError(t, err)
	require.True(t, exposed)
}

func TestBrokenKeyFileIsRefusedAndNotShown(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pulsegate.key")
	require.NoError(t, os.WriteFile(path, []byte("c2VjcmV0\n"), 0o600))
	_, _, _, err := main.Keys(path)
	require.ErrorContains(t, err, "does not hold 64 base64-encoded bytes")
	require.NotContains(t, err.Error(), "c2VjcmV0")
}

func TestKeyFileOfSeveralKeysSignsWithTheFirst(t *testing.T) {
	dir := t.TempDir()
	line := func(name string) string {
		_, _, _, err := main.Keys(filepath.Join(dir, name))
		require.NoError(t, err)
		text, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		return string(text)
	}
	old, young := line("old"), line("young")
	both := filepath.Join(dir, "both")
	require.NoError(t, os.WriteFile(both, []byte(young+"\n"+old), 0o600))
	tokens, secrets, err := main.KeyRing(both)
	require.NoError(t, err)
	require.Len(t, tokens, 2)
	require.Len(t, secrets, 2)
	for i, name := range []string{"young", "old"} {
		token, secret, _, err := main.Keys(filepath.Join(dir, name))
		require.NoError(t, err)
		require.Equal(t, token, tokens[i])
		require.Equal(t, secret, secrets[i])
	}
	for _, wrong := range []string{young + young, young + "x", "\n", strings.Repeat(young, 20)} {
		require.NoError(t, os.WriteFile(both, []byte(wrong), 0o600))
		_, _, err := main.KeyRing(both)
		require.Error(t, err)
		require.NotContains(t, err.Error(), strings.TrimSpace(young))
	}
}

func TestTokenIsPrintedAloneAndVerifiedByTheSameKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pulsegate.key")
	status, out, errs := run("token", "--key-file", path, "--company", "acme", "--scope", "bot", "--app-id", "my-bot", "--ttl", "1h")
	require.Zero(t, status, errs)
	require.Empty(t, errs)
	require.Equal(t, 1, strings.Count(out, "\n"))
	key, _, _, err := main.Keys(path)
	require.NoError(t, err)
	tokens, err := gateway.NewTokens(key)
	require.NoError(t, err)
	claims, err := tokens.Verify(strings.TrimSpace(out))
	require.NoError(t, err)
	require.Equal(t, "acme", claims.CompanyKey)
	require.Equal(t, gateway.ScopeBot, claims.Scope)
	require.Equal(t, "my-bot", claims.AppID)
}

func TestTokenTakesTheKeyOfTheDataDirectory(t *testing.T) {
	data := t.TempDir()
	status, _, errs := run("token", "--data", data, "--company", "acme")
	require.Zero(t, status, errs)
	require.FileExists(t, filepath.Join(data, "pulsegate.key"))
}
