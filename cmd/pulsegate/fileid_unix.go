//go:build unix

package main

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// fileID names a file by its device and its number there.
func fileID(f *os.File) (string, error) {
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return "", errors.New("files have no numbers here")
	}
	return fmt.Sprintf("%d:%d", stat.Dev, stat.Ino), nil
}
