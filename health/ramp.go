package health

// Ramp is the width of delivery after a pause: 1 at first, doubling after as many acknowledgements in a row as it is wide, back to 1
// on a failure. The zero value is no ramp: full width.
type Ramp struct {
	Width int // tries at once; 0: as many as the registration allows
	run   int // acknowledgements in a row at this width
}

// Count moves the ramp on by one outcome. Past limit the ramp is over.
func (r Ramp) Count(acknowledged bool, limit int) Ramp {
	switch {
	case r.Width == 0:
		return r
	case !acknowledged:
		return Ramp{Width: 1}
	case r.run+1 < r.Width:
		return Ramp{Width: r.Width, run: r.run + 1}
	case r.Width*2 >= limit:
		return Ramp{}
	default:
		return Ramp{Width: r.Width * 2}
	}
}
