package main_test

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// startPair starts two gateways on one store, with one key file.
func startPair(t testing.TB, url string, args ...string) [2]*gatewayProcess {
	t.Helper()
	data := t.TempDir()
	args = append([]string{"--redis", url}, args...)
	return [2]*gatewayProcess{startGateway(t, data, args...), startGateway(t, data, args...)}
}

// startMailbox starts a mail server on loopback and returns its URL.
func startMailbox(t testing.TB) (*storyMailbox, string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	box := new(storyMailbox)
	box.serve(t, listener)
	return box, "smtp://" + listener.Addr().String()
}

// subjects are the changes that the mails tell of, in order.
func (m *storyMailbox) subjects() []string {
	var all []string
	for _, mail := range m.all() {
		change, _, _ := strings.Cut(strings.TrimPrefix(mail.subject, "[Pulsegate] "), ":")
		all = append(all, change)
	}
	return all
}

// background runs f again and again until the returned function is called; that waits for its end.
func background(f func(n int)) (stop func()) {
	done := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-done:
				return
			default:
				f(n)
			}
		}
	})
	return sync.OnceFunc(func() { close(done); running.Wait() })
}

const pairPause = 2 * time.Second

// TestReplicasTellOnceAndTryOnce takes a bot through DOWN and back with two gateways: one mail for each change, one trial for each
// pause, and the same answers from both.
func TestReplicasTellOnceAndTryOnce(t *testing.T) {
	url, _ := storyRedis(t)
	mails, smtp := startMailbox(t)
	pair := startPair(t, url, "--health-window", "4s", "--pause", pairPause.String(), "--smtp", smtp, "--mail-from", "gate@example.net")
	var status atomic.Int64
	status.Store(http.StatusAccepted)
	bot := startRecorder(t, func(arrival, <-chan struct{}) int { return int(status.Load()) })
	require.Equal(t, http.StatusAccepted, registerBot(t, pair[0], "page", "bot", bot.url, nil))
	s := newPoster(t)
	defer background(func(n int) {
		s.post(pair[n%2], eventOf("page", fmt.Sprintf("author-%d", n), n))
		<-time.After(40 * time.Millisecond)
	})()
	compared, differed := 0, 0
	stopComparing := background(func(n int) {
		same, alike := answersOf(func(i int) healthAnswer { return s.health(t, pair[(n+i)%2], "bot") })
		if same {
			compared++
			if !alike {
				differed++
			}
		}
		<-time.After(15 * time.Millisecond)
	})
	defer stopComparing()

	awaitState(t, s, pair[0], "HEALTHY", func(h healthAnswer) bool { return h.SuccessCount > 20 })
	status.Store(http.StatusInternalServerError)
	awaitMails(t, mails, "DEGRADED", "DOWN", "still DOWN")
	awaitTrials(t, bot, 5)
	status.Store(http.StatusAccepted)
	awaitState(t, s, pair[1], "DEGRADED", nil)
	awaitState(t, s, pair[1], "HEALTHY", nil)
	awaitMails(t, mails, "HEALTHY again")
	stopComparing()
	require.Zero(t, differed, "both gateways answer alike")
	require.Greater(t, compared, 50)
	checkChanges(t, mails)
	trials, shortest := checkTrials(t, bot.all())
	t.Logf("mails: %v; %d trials, never two within %v; %d answers compared", mails.subjects(), trials, shortest, compared)
}

// answersOf asks two gateways in turn, three times each. same: neither changed its answer meanwhile; alike: they said the same.
func answersOf(ask func(i int) healthAnswer) (same, alike bool) {
	first, other := ask(0), ask(1)
	for range 2 {
		if ask(0) != first || ask(1) != other {
			return false, false
		}
	}
	return true, first == other
}

func awaitState(t testing.TB, s *poster, p *gatewayProcess, state string, also func(healthAnswer) bool) {
	t.Helper()
	eventually(t, func() bool {
		h := s.health(t, p, "bot")
		return h.Status == state && (also == nil || also(h))
	}, "the bot becomes "+state)
}

// awaitMails waits until mails about these changes have come.
func awaitMails(t testing.TB, mails *storyMailbox, changes ...string) {
	t.Helper()
	for _, change := range changes {
		eventually(t, func() bool { return strings.Contains(strings.Join(mails.subjects(), "\n"), change) }, "a mail tells of "+change)
	}
}

// trialsOf are the first tries of a bot that was DOWN: those that came with a pause before them.
func trialsOf(got []arrival) (trials []arrival) {
	var last time.Time
	for _, a := range got {
		if a.try == 1 {
			if !last.IsZero() && a.at.Sub(last) > pairPause/2 {
				trials = append(trials, a)
			}
			last = a.at
		}
	}
	return trials
}

func awaitTrials(t testing.TB, bot *recorder, n int) {
	t.Helper()
	require.Eventually(t, func() bool { return len(trialsOf(bot.all())) >= n }, 40*time.Second, 20*time.Millisecond, "trials are made")
}

// checkTrials requires that each failed trial was alone in its pause, and returns how many there were and the shortest time between two.
func checkTrials(t testing.TB, got []arrival) (n int, shortest time.Duration) {
	trials := trialsOf(got)
	shortest = time.Hour
	for i := 1; i < len(trials); i++ {
		apart := trials[i].at.Sub(trials[i-1].at)
		shortest = min(shortest, apart)
		require.GreaterOrEqual(t, apart, pairPause, "one trial for each pause")
		between := map[string]bool{}
		for _, a := range got {
			if a.at.After(trials[i-1].at) && a.at.Before(trials[i].at) {
				between[a.id] = true
			}
		}
		delete(between, trials[i-1].id) // its second try
		require.Empty(t, between, "nothing but the trial goes to a bot that is DOWN")
	}
	return len(trials), shortest
}

// checkChanges requires one mail for each change, each in its place.
func checkChanges(t testing.TB, mails *storyMailbox) {
	ids := map[string]bool{}
	for _, m := range mails.all() {
		require.False(t, ids[m.id], "no mail comes twice: %s", m.subject)
		ids[m.id] = true
	}
	got := mails.subjects()
	require.GreaterOrEqual(t, len(got), 5)
	require.Equal(t, []string{"DEGRADED", "DOWN", "still DOWN"}, got[:3])
	require.Equal(t, []string{"DEGRADED after DOWN", "HEALTHY again"}, got[len(got)-2:])
	for _, change := range got[3 : len(got)-2] {
		require.Equal(t, "still DOWN", change)
	}
}

const (
	writers  = 50
	messages = 100
)

// TestMessagesOfAnAuthorStayInOrder sends numbered messages of many authors through two gateways to a bot that is slow and fails at
// random. Each author's come in order, and none is missing.
func TestMessagesOfAnAuthorStayInOrder(t *testing.T) {
	url, store := storyRedis(t)
	pair := startPair(t, url)
	bot := startRecorder(t, func(_ arrival, gone <-chan struct{}) int {
		select {
		case <-time.After(time.Duration(rand.IntN(10)) * time.Millisecond):
		case <-gone:
		}
		if rand.IntN(12) == 0 {
			return http.StatusInternalServerError
		}
		return http.StatusAccepted
	})
	require.Equal(t, http.StatusAccepted, registerBot(t, pair[0], "page", "bot", bot.url, nil))
	began := time.Now()
	s := newPoster(t)
	var posting sync.WaitGroup
	var refused atomic.Int64
	for w := range writers {
		posting.Go(func() {
			for n := range messages {
				if status, _, _ := s.post(pair[rand.IntN(2)], eventOf("page", fmt.Sprintf("author-%d", w), n)); status != http.StatusAccepted {
					refused.Add(1)
				}
			}
		})
	}
	posting.Wait()
	require.Zero(t, refused.Load())
	var sums map[string]int
	require.Eventually(t, func() bool { sums = ledger(t, store); return balanced(sums) }, 40*time.Second, 50*time.Millisecond, "every event has a fate")
	require.Equal(t, writers*messages, sums["accepted"])
	require.Equal(t, sums["accepted"], sums["delivered"]+sums["failed"])
	latest := map[string]int{}
	repeats := 0
	for _, a := range bot.all() {
		last, ok := latest[a.author]
		if !ok {
			last = -1
		}
		if a.n == last {
			repeats++
		} else {
			require.Equal(t, last+1, a.n, "the messages of %s come in order", a.author)
		}
		latest[a.author] = a.n
	}
	require.Len(t, latest, writers)
	for author, n := range latest {
		require.Equal(t, messages-1, n, "all messages of %s came", author)
	}
	t.Logf("%d events in %v: %v; %d second tries", sums["accepted"], time.Since(began).Round(time.Millisecond), sums, repeats)
}
