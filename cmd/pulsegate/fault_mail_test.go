package main_test

import (
	"bufio"
	"cmp"
	"fmt"
	"net"
	"net/http"
	"net/textproto"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/pulsegate/pulsegate/delivery"
)

// deed is what a sick mail server does at one step of a conversation.
type deed struct {
	wait   time.Duration // before it answers
	say    string        // instead of what it should; "": as it should
	hangUp bool          // after it has answered, or instead if there is nothing to say
	silent bool          // it never answers
	before func()        // it answers
	after  func()        // it has answered
}

// The steps of a conversation beside the commands: the greeting, and the end of a mail.
const (
	greeting = "greeting"
	sent     = "sent"
)

// moment is where a conversation stands.
type moment struct {
	step, to string
	door     int // that the client came in by
}

// sickbay is a mail server with faults. It keeps the mails that it took.
type sickbay struct {
	storyMailbox
	mu    sync.Mutex
	fault func(moment) deed // nil: it is well
}

func (b *sickbay) falls(fault func(moment) deed) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fault = fault
}

func (b *sickbay) at(m moment) deed {
	b.mu.Lock()
	fault := b.fault
	b.mu.Unlock()
	if fault == nil {
		return deed{}
	}
	return fault(m)
}

// to are the mails that somebody got.
func (b *sickbay) to(contact string) []storyMail {
	return slices.DeleteFunc(b.all(), func(m storyMail) bool { return m.to != contact })
}

// open opens a door of the server until the test ends.
func (b *sickbay) open(t testing.TB, listener net.Listener, door int) {
	var serving sync.WaitGroup
	done := make(chan struct{})
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				over := make(chan struct{})
				serving.Go(func() {
					select {
					case <-done:
					case <-over:
					}
					_ = conn.Close()
				})
				defer close(over)
				(&visit{sickbay: b, conn: conn, done: done, door: door}).converse()
			})
		}
	})
	t.Cleanup(func() { close(done); _ = listener.Close(); serving.Wait() })
}

// visit is one conversation.
type visit struct {
	*sickbay
	conn net.Conn
	done <-chan struct{}
	door int
	to   string
}

// answer answers at a step, and says whether the conversation goes on. yes is called before a yes is said.
func (v *visit) answer(step, usual string, yes func()) bool {
	d := v.at(moment{step, v.to, v.door})
	if d.wait > 0 {
		select {
		case <-time.After(d.wait):
		case <-v.done:
			return false
		}
	}
	if d.before != nil {
		d.before()
	}
	reply := cmp.Or(d.say, usual)
	switch {
	case d.silent:
		<-v.done
		return false
	case d.hangUp && d.say == "":
		return false
	case strings.HasPrefix(reply, "2"):
		yes()
	}
	_, err := v.conn.Write([]byte(reply + "\r\n"))
	if d.after != nil {
		d.after()
	}
	return err == nil && !d.hangUp
}

func (v *visit) converse() {
	if !v.answer(greeting, "220 mail.example", func() {}) {
		return
	}
	usual := map[string]string{"DATA": "354 go on", "QUIT": "221 bye"}
	lines := textproto.NewReader(bufio.NewReader(v.conn))
	for {
		line, err := lines.ReadLine()
		if err != nil {
			return
		}
		verb, rest, _ := strings.Cut(line, " ")
		if verb == "RCPT" {
			v.to = strings.Trim(strings.TrimPrefix(rest, "TO:"), "<>")
		}
		if !v.answer(verb, cmp.Or(usual[verb], "250 fine"), func() {}) || verb == "QUIT" {
			return
		}
		if verb != "DATA" {
			continue
		}
		m, err := readMail(lines.DotReader(), v.to)
		if err != nil || !v.answer(sent, "250 taken", func() { v.keep(m) }) {
			return
		}
	}
}

// mailFault is one way in which a mail server is sick.
type mailFault struct {
	name  string
	off   bool // nobody listens
	fault func(moment) deed
}

var mailFaults = []mailFault{
	{name: "refused", off: true},
	{name: "never greets", fault: at(greeting, deed{silent: true})},
	{name: "tarpit of 30 s a line", fault: func(moment) deed { return deed{wait: 30 * time.Second} }},
	{name: "421 at the greeting", fault: at(greeting, deed{say: "421 try later", hangUp: true})},
	{name: "421 at the recipient", fault: at("RCPT", deed{say: "421 try later"})},
	{name: "421 after the mail", fault: at(sent, deed{say: "421 try later"})},
	{name: "hangs up in the mail", fault: at("DATA", deed{hangUp: true})},
}

// at is a fault at one step.
func at(step string, d deed) func(moment) deed {
	return func(m moment) deed {
		if m.step == step {
			return d
		}
		return deed{}
	}
}

// openSick opens a scene of a gateway whose mail server can be sick, and registers two bots with a contact each.
func openSick(t testing.TB) (*scene, *sickbay) {
	s, b := openScene(t, storyStore(t)), new(sickbay)
	s.post = newPipes()
	b.open(t, s.post, 0)
	s.join()
	s.register(0, "oncall@example.net")
	s.register(1, "other@example.net")
	return s, b
}

// TestM02SickMailServers makes a mail server sick in one way after the other, each for minutes, at whose beginning a bot fails. Events are
// delivered as before, and in the end there is exactly one mail.
func TestM02SickMailServers(t *testing.T) {
	t.Parallel() // it lives in fake time
	minutes, tries := sized(3, 10), sized(2, 3)
	tried := 0
	for _, f := range mailFaults {
		t.Run(f.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, b := openSick(t)
				s.message(1)
				time.Sleep(time.Second)
				began, conversations := time.Now(), 0
				b.falls(func(m moment) deed {
					if m.step == greeting {
						conversations++
					}
					if f.fault == nil {
						return deed{}
					}
					return f.fault(m)
				})
				s.post.switchTo(!f.off)
				s.failOnce(0)
				for time.Since(began) < time.Duration(minutes)*time.Minute {
					at := time.Now()
					id := s.message(1).ID
					time.Sleep(200 * time.Millisecond)
					requireDelivered(t, s, id)
					time.Sleep(10*time.Second - time.Since(at))
				}
				require.Empty(t, b.all())
				if f.off {
					s.post.mu.Lock()
					conversations = s.post.refused
					s.post.mu.Unlock()
				}
				require.GreaterOrEqual(t, conversations, tries)
				require.Less(t, conversations, 15, "backoff")
				b.falls(nil)
				s.post.switchTo(true)
				time.Sleep(time.Duration(minutes+5) * time.Minute) // the longest wait so far, and more
				require.Len(t, b.all(), 1)
				told := s.timeline(0)
				require.Equal(t, delivery.EntryDone, told[len(told)-2].State, "DEGRADED; what followed tells nobody")
				tried += conversations
			})
		})
	}
	measured(t, "%d kinds of sick mail servers, %d min each: every event delivered within 200 ms, %d tries, then 1 mail each", len(mailFaults), minutes, tried)
}

// failOnce lets one message of a bot fail, which makes the bot DEGRADED.
func (s *scene) failOnce(n int) {
	s.behaves(manner{status: 500})
	s.message(n)
	time.Sleep(time.Second)
	s.behaves(manner{status: 202})
}

func requireDelivered(t testing.TB, s *scene, id string) {
	t.Helper()
	records, err := s.replicas[0].EventRecords(t.Context(), "acme", id)
	require.NoError(t, err)
	require.Len(t, records, 1)
	require.Equal(t, delivery.Delivered, records[0].Fate)
}

// TestM02ServerThatHangsUpAfterItsYes takes the mail and drops the connection: that is one mail.
func TestM02ServerThatHangsUpAfterItsYes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := openSick(t)
		b.falls(at(sent, deed{say: "250 taken", hangUp: true}))
		s.failOnce(0)
		time.Sleep(5 * time.Minute)
		require.Len(t, b.all(), 1)
		measured(t, "accepts, then drops: 1 mail")
	})
}

// TestM02RefusedContactIsMarked refuses one contact for good: it is told so in the list, gets one conversation a quarter of an hour at most,
// and the other contact's mails go out.
func TestM02RefusedContactIsMarked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := openSick(t)
		asked := 0
		b.falls(func(m moment) deed {
			if m.step == "RCPT" && m.to == "oncall@example.net" {
				asked++
				return deed{say: "550 no such user"}
			}
			return deed{}
		})
		for range 2 { // DEGRADED and HEALTHY again
			s.failOnce(0)
			s.failOnce(1)
			for range 30 {
				s.message(0)
				s.message(1)
				time.Sleep(10 * time.Second)
			}
		}
		time.Sleep(16 * time.Minute)
		refused := 0
		for _, e := range s.timeline(0) {
			if e.made.Notice {
				require.Equal(t, delivery.EntryRefused, e.State)
				require.Contains(t, e.LastError, "no such user")
				refused++
			}
		}
		require.Equal(t, 4, refused)
		require.Less(t, asked, refused, "what follows a refusal waits and goes together")
		others := b.all()
		require.NotEmpty(t, others)
		for _, m := range others {
			require.Equal(t, "other@example.net", m.to)
		}
		for _, e := range s.timeline(1) {
			if e.made.Notice {
				require.Equal(t, delivery.EntryDone, e.State)
			}
		}
		measured(t, "550 to one contact: %d notices refused in %d conversations, %d mails to the other", refused, asked, len(others))
	})
}

// endLeases makes every notice that somebody has taken due, as if ninety seconds had passed.
func endLeases(t testing.TB, client *redis.Client) {
	keys, err := client.Keys(t.Context(), "pg:{*}:notices").Result()
	require.NoError(t, err)
	for _, key := range keys {
		ids, err := client.ZRange(t.Context(), key, 0, -1).Result()
		require.NoError(t, err)
		for _, id := range ids {
			require.NoError(t, client.ZAddXX(t.Context(), key, redis.Z{Score: 1, Member: id}).Err())
		}
	}
}

// TestM05KilledBetweenTheServersYesAndTheMark kills a gateway of three with SIGKILL at a mail: after the server's yes has reached its
// socket and before it can read it, and in other rounds before the server's yes. At full size the leases end by themselves, after 90 s.
func TestM05KilledBetweenTheServersYesAndTheMark(t *testing.T) {
	rounds, hastened := sized(4, 2), sized(true, false)
	url, store := storyRedis(t)
	box, data := new(sickbay), t.TempDir()
	var mu sync.Mutex
	gateways := map[int]*gatewayProcess{}
	open := make([]string, 3)
	for i := range open {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		open[i] = listener.Addr().String()
		box.open(t, listener, i)
	}
	start := func(i int) {
		p := startGateway(t, data, "--redis", url, "--smtp", "smtp://"+open[i], "--mail-from", "gate@example.net")
		mu.Lock()
		defer mu.Unlock()
		gateways[i] = p
	}
	for i := range open {
		start(i)
	}
	bot := startRecorder(t, func(arrival, <-chan struct{}) int { return http.StatusInternalServerError })
	poster, twice := newPoster(t), 0
	for round := range rounds {
		contact, page := fmt.Sprintf("contact-%d@example.net", round), pageName(round)
		require.Equal(t, http.StatusAccepted, registerBot(t, anyOf(&mu, gateways), page, appName(round), bot.url, map[string]any{"contact": map[string]any{"email": contact}}))
		killed := make(chan int, 1)
		taken := round%2 == 0
		box.falls(killAt(&mu, gateways, killed, taken))
		status, _, _ := poster.post(anyOf(&mu, gateways), eventOf(page, "ann", round))
		require.Equal(t, http.StatusAccepted, status)
		victim := <-killed
		<-gateways[victim].ended
		box.falls(nil)
		want := 1
		if taken {
			want = 2
		}
		if hastened {
			endLeases(t, store) // once: the only notice that is taken is the victim's
		}
		require.Eventually(t, func() bool { return len(box.to(contact)) >= want }, 2*time.Minute, 20*time.Millisecond, "the others take it over")
		start(victim)
		eventually(t, func() bool { return waitingNotices(t, store) == 0 }, "nothing is owed any more")
		mails := box.to(contact)
		require.Len(t, mails, want, "never none, and one duplicate at most")
		for _, m := range mails {
			require.Equal(t, mails[0].id, m.id, "the same mail")
			require.Contains(t, m.subject, "DEGRADED")
		}
		twice += want - 1
	}
	measured(t, "3 gateways, %d kills at a mail (%d after the server's yes): no notice lost, %d came twice with the same Message-ID", rounds, (rounds+1)/2, twice)
}

func anyOf(mu *sync.Mutex, gateways map[int]*gatewayProcess) *gatewayProcess {
	mu.Lock()
	defer mu.Unlock()
	return gateways[len(gateways)-1]
}

// waitingNotices is how many notices are not done.
func waitingNotices(t testing.TB, client *redis.Client) (n int64) {
	keys, err := client.Keys(t.Context(), "pg:{*}:notices").Result()
	require.NoError(t, err)
	for _, key := range keys {
		n += client.ZCard(t.Context(), key).Val()
	}
	return n
}

// killAt kills the gateway that brings the next mail: when the server's yes lies in its socket and it has not read it, or before the yes.
func killAt(mu *sync.Mutex, gateways map[int]*gatewayProcess, killed chan<- int, taken bool) func(moment) deed {
	var once atomic.Bool
	return func(m moment) deed {
		if m.step != sent || !once.CompareAndSwap(false, true) {
			return deed{}
		}
		mu.Lock()
		process := gateways[m.door].command.Process
		mu.Unlock()
		kill := func() { _ = process.Kill(); killed <- m.door }
		if !taken {
			return deed{before: kill, hangUp: true}
		}
		return deed{before: func() { _ = process.Signal(syscall.SIGSTOP) }, after: kill}
	}
}
