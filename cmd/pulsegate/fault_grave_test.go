package main_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/pulsegate/pulsegate/health"
	"github.com/pulsegate/pulsegate/notify"
)

var errDead = errors.New("the process is dead")

// mortal is the outbox of a process that dies at one of its calls: before it reaches the store, or when it has.
type mortal struct {
	delivery.Outbox
	post  *pipes // its way to the mail server
	dead  atomic.Bool
	calls atomic.Int64 // it still makes
	after bool         // it dies when the last of them has reached the store
}

func (m *mortal) die() {
	m.dead.Store(true)
	m.post.switchTo(false)
}

// call makes a call that changes the store, if the process still lives.
func (m *mortal) call(do func() error) error {
	if m.dead.Load() {
		return errDead
	}
	last := m.calls.Add(-1) == 0
	if last && !m.after {
		m.die()
		return errDead
	}
	err := do()
	if last {
		m.die()
		return errDead
	}
	return err
}

// Take implements delivery.Outbox.
func (m *mortal) Take(ctx context.Context, n int, lease time.Duration) (list []delivery.Entry, err error) {
	if m.dead.Load() {
		return nil, errDead
	}
	if list, err = m.Outbox.Take(ctx, n, lease); len(list) > 0 {
		err = m.call(func() error { return err })
	}
	return list, err
}

// Update implements delivery.Outbox.
func (m *mortal) Update(ctx context.Context, e delivery.Entry) error {
	return m.call(func() error { return m.Outbox.Update(ctx, e) })
}

// Gather implements delivery.Outbox.
func (m *mortal) Gather(ctx context.Context, e delivery.Entry, to delivery.Contact, g delivery.Gathering) (mail string, err error) {
	err = m.call(func() error {
		mail, err = m.Outbox.Gather(ctx, e, to, g)
		return err
	})
	return mail, err
}

// Gathered implements delivery.Outbox.
func (m *mortal) Gathered(ctx context.Context, e delivery.Entry) ([]delivery.Gathered, error) {
	if m.dead.Load() {
		return nil, errDead
	}
	return m.Outbox.Gathered(ctx, e)
}

// Registration implements delivery.Outbox.
func (m *mortal) Registration(ctx context.Context, id delivery.RegID) (delivery.Registration, error) {
	if m.dead.Load() {
		return delivery.Registration{}, errDead
	}
	return m.Outbox.Registration(ctx, id)
}

// graveyard is where notifiers die and are born again.
type graveyard struct {
	*scene
	box    *sickbay
	random *rand.Rand
	doors  int
	mu     sync.Mutex
	living map[int]*mortal // by door
	stops  map[int]func()
	deaths int
}

// born starts a notifier that will die at some call, or never.
func (g *graveyard) born(carrier *delivery.Carrier, dies bool) {
	m := &mortal{Outbox: carrier.Outbox(), post: newPipes(), after: g.random.IntN(2) == 0}
	if dies {
		m.calls.Store(int64(1 + g.random.IntN(25)))
	}
	door := g.doors
	g.doors++
	g.box.open(g.t, m.post, door)
	notifier, err := notify.New(notify.Config{
		Outbox: m, SMTPURL: "smtp://mail.example:25", MailFrom: "Pulsegate <gate@example.net>", Dial: m.post.dial,
	})
	require.NoError(g.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = notifier.Run(ctx) }()
	stop := sync.OnceFunc(func() { cancel(); <-ended })
	g.t.Cleanup(stop)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.living[door], g.stops[door] = m, stop
}

// bury lets a new notifier take the place of each that has died.
func (g *graveyard) bury(dies bool) {
	g.mu.Lock()
	var dead []int
	for door, m := range g.living {
		if m.dead.Load() || !dies && m.calls.Load() > 0 {
			dead = append(dead, door)
		}
	}
	g.mu.Unlock()
	for _, door := range dead {
		g.living[door].die()
		go g.stops[door]()
		delete(g.living, door)
		g.deaths++
		g.born(g.replicas[g.deaths%len(g.replicas)], dies)
	}
}

// deadly lets some processes die at a mail: before the server's yes, or when it is on its way.
func (g *graveyard) deadly(m moment) deed {
	g.mu.Lock()
	defer g.mu.Unlock()
	if m.step != sent || g.random.IntN(8) > 0 || g.living[m.door] == nil || g.living[m.door].calls.Load() <= 0 {
		return deed{}
	}
	victim := g.living[m.door]
	if g.random.IntN(2) == 0 {
		return deed{before: victim.die, hangUp: true}
	}
	return deed{before: func() { victim.dead.Store(true) }, after: victim.die}
}

// TestM05KilledAnywhere kills the processes that tell, at any call to the store and at any mail, while bots of three contacts change
// and flap. In the end each notice stands in one mail, which may have come again, and no notice in none.
func TestM05KilledAnywhere(t *testing.T) {
	t.Parallel() // it lives in fake time
	seeds, seconds := sized(1, 8), sized(30, 240)
	deaths, notices, again, mails := 0, 0, 0, 0
	for seed := range seeds {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := playDeaths(t, uint64(seed), seconds)
				told, repeated := checkTold(t, g)
				deaths, notices, again, mails = deaths+g.deaths, notices+told, again+repeated, mails+len(g.box.all())
			})
		})
	}
	measured(t, "%d kills, %d notices in %d mails: none lost, none in two mails, %d mails came again with the same Message-ID", deaths, notices, mails, again)
}

const graves = 6 // bots

func playDeaths(t *testing.T, seed uint64, seconds int) *graveyard {
	s := openScene(t, storyStore(t))
	g := &graveyard{scene: s, box: new(sickbay), random: rand.New(rand.NewPCG(seed, 5)), living: map[int]*mortal{}, stops: map[int]func(){}}
	judging := rules(health.Rules{Window: 4 * time.Second, MinAttempts: 3, Pause: 10 * time.Second})
	var leave []func()
	for range 3 {
		leave = append(leave, s.joinMute(judging))
		g.born(s.replicas[len(s.replicas)-1], true)
	}
	for n := range graves {
		s.register(n, fmt.Sprintf("contact-%d@example.net", n%3))
	}
	g.box.falls(g.deadly)
	for second := range seconds {
		for n := range graves {
			status := 202
			if (second+7*n)%(9+n) < 1+n/3 { // each in a rhythm of its own
				status = 500
			}
			s.bot.mu.Lock()
			s.bot.others[fmt.Sprintf("a-%d", s.sent+1)] = manner{status: status} // both tries of the next message
			s.bot.mu.Unlock()
			s.message(n)
			time.Sleep(40 * time.Millisecond)
		}
		time.Sleep(600 * time.Millisecond)
		g.bury(true)
	}
	g.box.falls(nil)
	g.bury(false)
	time.Sleep(5 * time.Minute)
	for _, f := range leave[1:] { // one is enough to wait for the digests
		f()
	}
	time.Sleep(65 * time.Minute)
	return g
}

var (
	inMail   = regexp.MustCompile(`(?m)^(DOWN|still DOWN|DEGRADED after DOWN|DEGRADED|HEALTHY again): Bot (\d+) \(.*\n  At (.*) UTC\.`)
	alone    = regexp.MustCompile(`^(DOWN|still DOWN|DEGRADED after DOWN|DEGRADED|HEALTHY again): Bot (\d+) \((?s:.*)\nAt: +(.*) UTC\n`)
	inDigest = regexp.MustCompile(`(?m)^Bot (\d+) \(.*\n  DEGRADED (\d+) times? and HEALTHY again (\d+) times?`)
)

// checkTold holds the mails against the timelines, and returns how many notices there were and how many mails came again.
func checkTold(t testing.TB, g *graveyard) (notices, again int) {
	byID, told, digested := map[string]storyMail{}, map[string]int{}, map[string]int{}
	for _, m := range g.box.all() {
		if first, ok := byID[m.id]; ok {
			require.Equal(t, first.text, m.text, "a mail that comes again is the same")
			again++
			continue
		}
		byID[m.id] = m
		for _, found := range append(inMail.FindAllStringSubmatch(m.text, -1), alone.FindAllStringSubmatch(m.text, -1)...) {
			told[strings.Join(found[1:], " ")]++
		}
		for _, found := range inDigest.FindAllStringSubmatch(m.text, -1) {
			for i, kind := range []health.Kind{health.ToDegraded, health.ToHealthy} {
				n, err := strconv.Atoi(found[2+i])
				require.NoError(t, err)
				digested[found[1]+" "+string(kind)] += n
			}
		}
	}
	want, held := map[string]int{}, map[string]int{}
	for n := range graves {
		for _, e := range g.timeline(n) {
			switch {
			case !e.made.Notice:
				continue
			case e.made.Held:
				held[fmt.Sprint(n, " ", e.made.Kind)]++
			default:
				want[fmt.Sprint(label(e.made), " ", n, " ", time.UnixMilli(e.made.At).UTC().Format(time.DateTime))]++
			}
			notices++
			require.Equal(t, delivery.EntryDone, e.State, "%s of bot %d: %s", e.made.Kind, n, e.LastError)
		}
	}
	require.NotEmpty(t, held)
	require.Equal(t, want, told)
	require.Equal(t, held, digested)
	require.LessOrEqual(t, again, g.deaths)
	return notices, again
}

// label is what a mail calls a transition.
func label(tr health.Transition) string {
	switch {
	case tr.Kind == health.StillDown:
		return "still DOWN"
	case tr.Kind == health.ToDegraded && tr.From == health.Down:
		return "DEGRADED after DOWN"
	case tr.Kind == health.ToHealthy:
		return "HEALTHY again"
	default:
		return string(tr.To)
	}
}
