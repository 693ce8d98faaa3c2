package delivery

import "github.com/pulsegate/pulsegate/health"

// holds says that events wait for the end of the pause where they are: the lane gives the registration back until then.
func (l *lane) holds() bool {
	return l.reg != nil && l.reg.WhenDown == Hold && l.state.reading.Standing.State == health.Down && l.paused()
}

// holding says that what waits in the queue stays there until the trial has been acknowledged.
func (l *lane) holding() bool {
	st := l.state.reading.Standing
	return st.Holding && st.State == health.Down
}

// isTrial says that a task is the trial of the bot's being DOWN now.
func (l *lane) isTrial(t *task) bool {
	st := l.state.reading.Standing
	return t.trial != 0 && st.State == health.Down && t.trial == st.Number
}

// resume takes up the queue again from its beginning, beside what is under way.
func (l *lane) resume() {
	l.resumes, l.releasing = false, false
	l.cursor = "0-0"
	for _, t := range l.tried {
		l.lines.m[t.author] = &line{busy: true}
	}
	l.mu.Lock()
	l.more = true
	l.mu.Unlock()
}
