package health

// Next is the standing and the transition that a verdict leads to.
func (r Rules) Next(was Reading, v Verdict) (Transition, Standing) { return r.next(was, v) }
