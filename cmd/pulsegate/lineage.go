package main

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
)

// mostNames is how many gateways on one data directory have names.
const mostNames = 64

// lineage is a name that this process has alone, and that the next process on the same data directory gets when this one has ended: so it
// knows that what the name stands for elsewhere is over. A nil lineage has no name.
type lineage struct {
	name string
	file *os.File // locked for as long as the process lives
}

// openLineage takes the first free name of a data directory. Where there can be none (a directory that cannot be written or locked), it
// returns nil, and whoever comes next waits until the leases of this process have run out.
func openLineage(data string, log *slog.Logger) *lineage {
	l, err := firstFree(data)
	if err != nil {
		log.Debug("this gateway has no name that it keeps over a restart", "error", err)
	}
	return l
}

func firstFree(data string) (*lineage, error) {
	if err := os.MkdirAll(data, 0o700); err != nil {
		return nil, err
	}
	for i := range mostNames {
		file, err := os.OpenFile(filepath.Join(data, fmt.Sprintf("gateway-%d.name", i)), os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		err = lockFile(file)
		if err == nil {
			name, err := nameOf(file)
			if err != nil {
				_ = file.Close()
				return nil, err
			}
			return &lineage{name: name, file: file}, nil
		}
		_ = file.Close()
		if !errors.Is(err, errLocked) {
			return nil, err
		}
	}
	return nil, fmt.Errorf("%d gateways have one on %s", mostNames, data)
}

// nameOf reads a name, and makes it first in an empty file. The file's place and the machine's present run are part of it, so that a copy of
// the file elsewhere is another name.
func nameOf(file *os.File) (string, error) {
	text, err := io.ReadAll(io.LimitReader(file, 64))
	if err != nil {
		return "", err
	}
	if len(text) == 0 {
		text = []byte(rand.Text())
		if _, err := file.WriteAt(text, 0); err != nil {
			return "", err
		}
	}
	place, err := fileID(file)
	if err != nil {
		return "", err
	}
	host, err := os.Hostname()
	if err != nil {
		return "", err
	}
	boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id") // not on every system
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %s %s %s", text, place, host, boot))
	return strings.ToLower(base32.StdEncoding.EncodeToString(sum[:10])), nil
}

// text is the name, or "".
func (l *lineage) text() string {
	if l == nil {
		return ""
	}
	return l.name
}

// close gives the name up.
func (l *lineage) close() {
	if l != nil {
		_ = l.file.Close()
	}
}
