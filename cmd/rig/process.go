package rig

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
)

// process is a redis-server that runs.
type process struct {
	command *exec.Cmd
	exited  chan struct{} // closed when it has ended
}

// startProcess starts a redis-server. Its output goes to the file log.
func startProcess(log string, program []string, args ...string) (*process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	defer func() { _ = out.Close() }()
	p := &process{command: exec.Command(program[0], append(program[1:], args...)...), exited: make(chan struct{})}
	p.command.Stdout, p.command.Stderr = out, out
	p.command.SysProcAttr = attributes()
	started := make(chan error)
	go p.run(started)
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start redis-server (Debian: apt-get install redis-server): %w", err)
	}
	return p, nil
}

// run starts the process and waits for its end on one thread: the kernel ends the process with the thread that started it.
func (p *process) run(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(p.exited)
	err := p.command.Start()
	started <- err
	if err == nil {
		_ = p.command.Wait()
	}
}

// Tie has a process that a test starts itself end with the test process, where the kernel can do that.
func Tie(c *exec.Cmd) { c.SysProcAttr = attributes() }

// running tells whether the process has not ended.
func (p *process) running() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// signal sends a signal; one that has ended does not mind.
func (p *process) signal(s syscall.Signal) { _ = p.command.Process.Signal(s) }

// kill ends the process without a warning, and waits for its end.
func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	<-p.exited
}
