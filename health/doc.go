// Package health decides how well a bot is, from what became of its last deliveries, and keeps what the decision needs in Redis.
//
// # The way of a judgement
//
//	outcome ─▶ count ─▶ judge ─▶ transition ─▶ outbox
//	           (Lua)    (Go)     (Lua)
//
// A script that settles deliveries counts their outcomes with the functions of Lua, and returns the counts and the standing. ParseReading
// makes a Reading of them, Rules.Judge a Verdict, and Store.Transit carries out the transition, if the verdict asks for one. When nothing
// is settled, a timer does the same through Store.Rejudge. Store.Read shows the same facts without writing anything.
//
// # Concepts
//
//	outcome     how a delivery ended: acknowledged, or failed in a class; each delivery has one
//	window      the outcomes of the last two minutes of one registration
//	counts      how many of them were acknowledged, and how many failed, by class
//	state       HEALTHY, DEGRADED or DOWN
//	standing    what is remembered of a registration between two judgements, its state among it
//	verdict     what a judgement says: the state, the rule that fired in words, and the transition it asks for
//	transition  a change of standing, with a number of its own; people are told of those that carry a notice
//	pause       the two minutes after DOWN in which nothing is tried
//	trial       the one delivery that is tried when a pause is over
//	ramp        how delivery widens after a pause: 1, 2, 4 … at once
//	verified    an acknowledgement stands behind HEALTHY, not just an empty window
//	incident    from leaving HEALTHY to the next verified HEALTHY
//	outage      from DOWN to the first state that is not DOWN
//
// # The decision table
//
// Over the acknowledged (a) and failed (f) deliveries of the window:
//
//	f = 0              HEALTHY    also when a = 0
//	a = 0 and f >= 10  DOWN       10 is Rules.MinAttempts
//	everything else    DEGRADED
//
// # The transitions
//
// Outside DOWN the state is what the table says. DOWN is held until an acknowledgement, a failed trial, or a window that is empty when the
// pause is over; ageing and late failures change counts only.
//
//	from      when                                    to                 kind        people are told
//	HEALTHY   the table says DEGRADED                 DEGRADED           degraded    unless it continues an incident unverified
//	not DOWN  the table says DOWN                     DOWN, paused       down        always
//	DOWN      acknowledged, f > 0                     DEGRADED           degraded    always
//	DOWN      acknowledged, f = 0                     HEALTHY, verified  healthy     always
//	DOWN      trial failed, the table says DEGRADED   DEGRADED           degraded    always
//	DOWN      trial failed, the table says DOWN       DOWN, paused       still_down  the first time, then at 2, 4, 8 … pauses
//	DOWN      pause over, window empty                HEALTHY            unverified  never
//	DEGRADED  window empty                            HEALTHY            unverified  never
//	DEGRADED  acknowledged, f = 0                     HEALTHY, verified  healthy     when an incident was open
//	HEALTHY   unverified, acknowledged, f = 0         HEALTHY, verified  healthy     when an incident was open
//
// A registration that holds its events while DOWN lets them go at an acknowledgement only: as long as some wait, a failed trial always leads
// to another pause, and an empty window to nothing. In MAINTENANCE nothing is judged. While debugging, outcomes stay out of the window.
//
// # Failures and crashes
//
// Counts are facts, and a judgement can be repeated at any time, so no crash loses one. Store.Rejudge leaves the registration in the index of
// the timer until the transition that it may owe is stored: if the process dies before that, another looks within a second. Store.Transit
// changes the standing and writes the outbox entries in one step, and only if the transition number and the facts that decide (a = 0, f = 0,
// f >= 10) are still those of the reading. Of two replicas that judge the same reading, one wins; the other judges again. When Redis is
// away, the methods of Store return the error wrapped with what they were at, and nothing has changed. Each script begins with a removal, so
// that a Redis without memory still judges.
//
// # Concurrency
//
// Rules, Ramp and all readings are values. A Store is safe for concurrent use by any number of goroutines and replicas. The room starts no
// goroutine of its own, and reads no clock but the one of Redis.
//
// # Decisions
//
//   - A window has 120 slots. With r = window/120, an outcome at t counts at now while floor(now/r) - floor(t/r) < 120: it leaves with its
//     slot, at most r before its time (1 s of 2 minutes), and never late. In return the size and the cost of a window do not grow with traffic.
//   - A slot is one hash field, packed as text: its number and nine counters. The running sums are one more. Counting touches two fields, and
//     a slot that leaves is subtracted once. Nine fields for each slot would be nine times the names, and a list of outcomes has no bound.
//   - A clock that steps back, as after a failover, counts into the last slot that was written, so that the window never grows younger, and
//     what has been counted leaves when it would have. Until the clock catches up, nothing leaves.
//   - A window of another length starts empty: its slots mean other times.
//   - Scripts count and compare facts; states, reasons, and whether people are told are decided here, in plain functions over values.
//   - A change that empties the window is a transition, and the window counts from there on: the outcome of a try that began before says nothing of
//     the bot as it is registered now. Its event has its fate all the same.
//   - The first acknowledgement of a new registration is a transition to a verified HEALTHY without a notice. So the first failure after it is
//     judged against something known, and nobody gets a mail because a bot was set up.
//   - HEALTHY over an empty window is shown as unverified, but an idle bot that was verified keeps that in its standing, and needs no timer.
//   - A failed trial is a transition even when nobody is told, because it starts another pause. An outage that passed several doublings
//     without a trial, for want of events, is told of once for them all.
//   - Each transition names the incident and its cost as they were before it, so that the notice of a recovery can say how long it lasted.
package health
