package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pulsegate/pulsegate/delivery"
)

// keyFile is the text of a key file: a secret in each line, the current one first.
type keyFile struct {
	path  string
	lines []string
}

// readKeyFile reads a key file that is there.
func readKeyFile(path string) (keyFile, keys, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return keyFile{}, keys{}, wrongSetting("--key-file: %v", err)
	}
	ring, err := parseKeys(string(text), path)
	if err != nil {
		return keyFile{}, keys{}, err
	}
	return keyFile{path: path, lines: strings.Fields(string(text))}, ring, nil
}

// write replaces the file as a whole: whoever reads it meanwhile reads the old or the new one.
func (f keyFile) write() error {
	draft, err := os.CreateTemp(filepath.Dir(f.path), ".key-*")
	if err != nil {
		return fmt.Errorf("write key file: %w", err)
	}
	defer func() { _ = os.Remove(draft.Name()) }()
	_, err = draft.WriteString(strings.Join(f.lines, "\n") + "\n")
	if err = errors.Join(err, draft.Sync(), draft.Close()); err == nil {
		err = os.Rename(draft.Name(), f.path)
	}
	if err != nil {
		return fmt.Errorf("write key file: %w", err)
	}
	return nil
}

// with returns the file with a line at a place, wherever it was before.
func (f keyFile) with(line string, first bool) keyFile {
	rest := slices.DeleteFunc(slices.Clone(f.lines), func(l string) bool { return l == line })
	if first {
		return keyFile{path: f.path, lines: append([]string{line}, rest...)}
	}
	return keyFile{path: f.path, lines: append(rest, line)}
}

// ids are the names of a ring's sealing keys, the current one first. They name the lines of the file.
func (k keys) ids() []string {
	var ids []string
	for _, key := range k.secrets {
		ids = append(ids, delivery.KeyID(key))
	}
	return ids
}
