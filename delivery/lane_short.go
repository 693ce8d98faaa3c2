package delivery

import (
	"errors"
	"time"
)

// shortWait is after what time a process that was short of files tries again.
const shortWait = 250 * time.Millisecond

// shortOf has a try made later for which no file was left.
func (l *lane) shortOf(t *task) {
	if l.short = time.Now().Add(shortWait); t.tries > 0 {
		t.retryAt = l.short
		l.retries = append(l.retries, t)
	} else {
		l.left(t)
		l.lines.putBack(t)
	}
	l.c.caller.shed()
	l.c.unwell.warn(l.c.log, "no file is left to call bots with: raise the limit of open files (ulimit -n), or lower --in-flight", l.id, errShort)
}

var errShort = errors.New("too many open files")
