package main

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// keyFileBytes is the length of the random secret in a key file.
const keyFileBytes = 64

// keyFileKeys is how many secrets a key file may hold.
const keyFileKeys = 16

// keys are the two rings of keys of a gateway, derived from the secrets in its key file: one secret in each line, in base64. The first
// line is the current one, which signs and seals; those of all the others still verify and open, so that a secret can be replaced while
// what was signed and sealed with it stays good. Empty lines count for nothing.
type keys struct {
	tokens  [][]byte // sign tokens; 32 bytes each
	secrets [][]byte // seal secrets at rest; 32 bytes each
	exposed bool     // others than its owner may read the file
}

// openKeys reads the key file at path, and makes it first when there is none. Of two gateways that make it at once, one wins
// and both read the same.
func openKeys(path string) (keys, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err = makeKeyFile(path); err == nil {
			text, err = os.ReadFile(path)
		}
	}
	if err != nil {
		return keys{}, fmt.Errorf("open key file: %w", err)
	}
	ring, err := parseKeys(string(text), path)
	if err != nil {
		return keys{}, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return keys{}, fmt.Errorf("look at key file: %w", err)
	}
	ring.exposed = info.Mode().Perm()&0o077 != 0
	return ring, nil
}

// parseKeys reads the text of the key file at path: at least one secret, none twice.
func parseKeys(text, path string) (keys, error) {
	var ring keys
	seen := map[string]bool{}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		secret, err := base64.StdEncoding.DecodeString(line)
		switch {
		case err != nil || len(secret) != keyFileBytes:
			return keys{}, wrongKeyFile(path)
		case seen[string(secret)]:
			return keys{}, wrongSetting("the key file %s holds a key twice: remove one of the two lines", path)
		}
		seen[string(secret)] = true
		if err := ring.add(secret); err != nil {
			return keys{}, err
		}
	}
	switch {
	case len(seen) == 0:
		return keys{}, wrongKeyFile(path)
	case len(seen) > keyFileKeys:
		return keys{}, wrongSetting("the key file %s holds %d keys, more than %d: remove the oldest lines", path, len(seen), keyFileKeys)
	}
	return ring, nil
}

// wrongKeyFile is the one sentence about a file that holds no keys.
func wrongKeyFile(path string) error {
	return wrongSetting("the key file %s does not hold %d base64-encoded bytes in each line: restore it, or remove it to have a new one made", path, keyFileBytes)
}

// add splits a secret into keys that tell nothing of each other, and adds them behind those that are there.
func (k *keys) add(secret []byte) error {
	tokens, err := hkdf.Key(sha256.New, secret, nil, "tokens", 32)
	if err != nil {
		return fmt.Errorf("derive key of tokens: %w", err)
	}
	secrets, err := hkdf.Key(sha256.New, secret, nil, "secrets", 32)
	if err != nil {
		return fmt.Errorf("derive key of secrets: %w", err)
	}
	k.tokens, k.secrets = append(k.tokens, tokens), append(k.secrets, secrets)
	return nil
}

// makeKeyFile writes a new secret to path, readable by its owner only, complete or not at all. A file that appeared meanwhile
// stays as it is.
func makeKeyFile(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	secret := make([]byte, keyFileBytes)
	_, _ = rand.Read(secret) // never fails
	draft, err := os.CreateTemp(filepath.Dir(path), ".key-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(draft.Name()) }()
	_, err = draft.WriteString(base64.StdEncoding.EncodeToString(secret) + "\n")
	if err = errors.Join(err, draft.Sync(), draft.Close()); err != nil {
		return err
	}
	if err := os.Link(draft.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}
