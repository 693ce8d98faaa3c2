package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// sharedWriter lets several processes write to what is not a file.
type sharedWriter struct {
	mu sync.Mutex // guards to
	to io.Writer
}

// Write writes one piece whole.
func (w *sharedWriter) Write(text []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.to.Write(text)
}

// part is one process of a bench.
type part struct {
	name    string
	command *exec.Cmd
	in      io.WriteCloser
	out     *bufio.Reader
	ended   bool
}

// launch starts this program with other arguments. Settings in the environment do not reach it. What it says of itself goes to
// errs. It must be called from a locked thread: the part is tied to the life of that thread where the kernel can do so.
func launch(name string, errs io.Writer, args ...string) (*part, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	p := &part{name: name, command: exec.Command(self, args...)}
	for _, setting := range os.Environ() {
		if !strings.HasPrefix(setting, "PULSEGATE_") || strings.HasPrefix(setting, "PULSEGATE_TEST_") {
			p.command.Env = append(p.command.Env, setting)
		}
	}
	p.command.Stderr = errs
	p.command.SysProcAttr = childAttributes()
	if p.in, err = p.command.StdinPipe(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	out, err := p.command.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p.out = bufio.NewReader(out)
	if err := p.command.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return p, nil
}

// address waits for the first line of a part that listens, and returns where.
func (p *part) address() (string, error) {
	var ready benchReady
	if err := readLine(p.out, &ready); err != nil {
		return "", fmt.Errorf("start %s: %w", p.name, err)
	}
	return ready.Address, nil
}

// hint sends a line: a generator that waits goes on.
func (p *part) hint() error {
	if _, err := p.in.Write([]byte{'\n'}); err != nil {
		return fmt.Errorf("ask %s: %w", p.name, err)
	}
	return nil
}

// ask sends a line and reads the answer into v.
func (p *part) ask(v any) error {
	if err := p.hint(); err != nil {
		return err
	}
	if err := readLine(p.out, v); err != nil {
		return fmt.Errorf("ask %s: %w", p.name, err)
	}
	return nil
}

// end stops the part, waits for it, and returns the CPU time that it used in all. Calling it again does nothing.
func (p *part) end(limit time.Duration) (time.Duration, error) {
	if p.ended {
		return 0, nil
	}
	p.ended = true
	_ = p.in.Close()
	if p.name == partGateway {
		_ = p.command.Process.Signal(syscall.SIGTERM)
	}
	timer := time.AfterFunc(limit, func() { _ = p.command.Process.Kill() })
	defer timer.Stop()
	_, _ = io.Copy(io.Discard, p.out)
	err := p.command.Wait()
	used := p.command.ProcessState.UserTime() + p.command.ProcessState.SystemTime()
	if err != nil {
		return used, fmt.Errorf("stop %s: %w", p.name, err)
	}
	return used, nil
}

// The names of the parts.
const (
	partGateway   = "gateway"
	partRelay     = "relay"
	partFloor     = "floor"
	partGenerator = "generator"
	partBots      = "bots"
	partRedis     = "redis"
)

// endAll stops parts in reverse order of their start, and returns the CPU time of each.
func endAll(parts []*part) (map[string]time.Duration, error) {
	used := make(map[string]time.Duration)
	var failures []error
	for i := len(parts) - 1; i >= 0; i-- {
		cpu, err := parts[i].end(30 * time.Second)
		used[parts[i].name] += cpu
		failures = append(failures, err)
	}
	return used, errors.Join(failures...)
}

// follow reads the generator's reports until the last one, hands each to progress, and returns the last.
func (p *part) follow(ctx context.Context, progress func(loadReport)) (loadReport, error) {
	stop := context.AfterFunc(ctx, func() { _ = p.command.Process.Kill() })
	defer stop()
	for {
		var report loadReport
		if err := readLine(p.out, &report); err != nil {
			return report, fmt.Errorf("follow %s: %w", p.name, errors.Join(ctx.Err(), err))
		}
		if report.Done {
			return report, nil
		}
		progress(report)
	}
}
