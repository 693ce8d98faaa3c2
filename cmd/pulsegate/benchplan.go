package main

import (
	"fmt"
	"io"
	"os"
	"time"
)

// benchPlan is how far a bench is, for the lines of progress.
type benchPlan struct {
	began    time.Time
	runs     int // in all
	done     int
	terminal bool
	said     time.Time // when progress was last told
	open     bool      // the terminal's line is unfinished
}

// isTerminal tells whether somebody watches.
func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// say prints one line of progress.
func (r *benchRoom) say(format string, args ...any) {
	if r.plan.open {
		_, _ = io.WriteString(r.streams.err, "\r\x1b[K")
		r.plan.open = false
	}
	_, _ = fmt.Fprintf(r.streams.err, format+"\n", args...)
}

// tell says how far a run is: one line that changes on a terminal, elsewhere a line every two seconds.
func (r *benchRoom) tell(format string, args ...any) {
	text := r.plan.where() + fmt.Sprintf(format, args...)
	if r.plan.terminal {
		_, _ = io.WriteString(r.streams.err, "\r\x1b[K"+text)
		r.plan.open = true
		return
	}
	if time.Since(r.plan.said) < 2*time.Second {
		return
	}
	r.plan.said = time.Now()
	r.say("%s", text)
}

// where is how many runs are done, and about how long the rest will take.
func (p benchPlan) where() string {
	if p.runs == 0 {
		return "  "
	}
	text := fmt.Sprintf("  run %d of %d", min(p.done+1, p.runs), p.runs)
	if took := time.Since(p.began); p.done > 2 {
		left := time.Duration(float64(took) / float64(p.done) * float64(p.runs-p.done))
		text += fmt.Sprintf(", about %v left", left.Round(time.Second))
	}
	return text + ": "
}
