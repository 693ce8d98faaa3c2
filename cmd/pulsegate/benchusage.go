package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// ticksPerSecond is the unit of CPU time in /proc, the same on every Linux that Go runs on.
const ticksPerSecond = 100

// processCPU is the CPU time that a running process has used so far; 0 when the system does not say.
func processCPU(pid int) time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:])) // from the state on
	if len(fields) < 13 {
		return 0
	}
	var ticks int64
	for _, field := range fields[11:13] { // user, system
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / ticksPerSecond
}

// processPeak is the most memory that a running process has had, in bytes; 0 when the system does not say.
func processPeak(pid int) int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		value, ok := strings.CutPrefix(line, "VmHWM:")
		if !ok {
			continue
		}
		kilobytes, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		if err != nil {
			return 0
		}
		return kilobytes << 10
	}
	return 0
}

// cpu is what each process of the stack has used so far.
func (s *stack) cpu(ctx context.Context) map[string]time.Duration {
	used := make(map[string]time.Duration)
	for _, p := range s.parts {
		used[p.name] += processCPU(p.command.Process.Pid)
	}
	if s.store != nil {
		used[partRedis] = s.store.redisCPU(ctx)
	}
	return used
}

// peaks is the most memory that each process of the stack has had.
func (s *stack) peaks(ctx context.Context) map[string]int64 {
	most := make(map[string]int64)
	for _, p := range s.parts {
		most[p.name] = processPeak(p.command.Process.Pid)
	}
	if s.store != nil {
		most[partRedis] = s.store.redisPeak(ctx)
	}
	return most
}

// machineCPU is the CPU time that everything on the machine has used since it started, and what a hypervisor kept from it; 0 when the
// system does not say.
func machineCPU() time.Duration {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(text), "\n")
	var ticks int64
	for i, field := range strings.Fields(line) {
		if i == 0 || i == 4 || i == 5 || i > 8 { // the name; idle, waiting for disks; guests, which are counted as users
			continue
		}
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / ticksPerSecond
}

// usage is what was used up to one moment.
type usage struct {
	at      time.Time
	machine time.Duration
	parts   map[string]time.Duration
}

func (s *stack) usage(ctx context.Context) usage {
	return usage{at: time.Now(), machine: machineCPU(), parts: s.cpu(ctx)}
}

// others is how many cores were busy with anything but the bench, on average since another moment; 0 when the system does not say.
func (u usage) others(since usage) float64 {
	used := u.machine - since.machine
	for name, cpu := range u.parts {
		used -= cpu - since.parts[name]
	}
	return max(0, ratio(used.Seconds(), u.at.Sub(since.at).Seconds()))
}
