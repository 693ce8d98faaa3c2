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

// keys are the two keys of a gateway, derived from the one secret in its key file.
type keys struct {
	tokens  []byte // signs tokens; 32 bytes
	secrets []byte // seals secrets at rest; 32 bytes
	exposed bool   // others than its owner may read the file
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
	secret, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(secret) != keyFileBytes {
		return keys{}, wrongSetting("the key file %s does not hold %d base64-encoded bytes: restore it, or remove it to have a new one made", path, keyFileBytes)
	}
	return deriveKeys(secret, path)
}

// deriveKeys splits the secret into keys that tell nothing of each other.
func deriveKeys(secret []byte, path string) (keys, error) {
	tokens, err := hkdf.Key(sha256.New, secret, nil, "tokens", 32)
	if err != nil {
		return keys{}, fmt.Errorf("derive key of tokens: %w", err)
	}
	secrets, err := hkdf.Key(sha256.New, secret, nil, "secrets", 32)
	if err != nil {
		return keys{}, fmt.Errorf("derive key of secrets: %w", err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return keys{}, fmt.Errorf("look at key file: %w", err)
	}
	return keys{tokens: tokens, secrets: secrets, exposed: info.Mode().Perm()&0o077 != 0}, nil
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
