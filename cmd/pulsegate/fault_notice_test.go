package main_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/pulsegate/pulsegate/health"
	"github.com/pulsegate/pulsegate/notify"
)

// scene is a number of gateways on fake time, with one place where all bots live, a mail server, and one store.
type scene struct {
	t        testing.TB
	client   redis.UniversalClient
	bot      *storyBot
	post     *pipes // to the mail server
	mails    *storyMailbox
	replicas []*delivery.Carrier
	sent     int
}

func openScene(t testing.TB, client redis.UniversalClient) *scene {
	s := &scene{
		t: t, client: client, bot: &storyBot{pipes: newPipes(), manner: manner{status: 202}, others: map[string]manner{}},
		post: newPipes(), mails: new(storyMailbox),
	}
	serveOver(t, s.bot.pipes, s.bot.serve)
	s.mails.serve(t, s.post)
	return s
}

// join starts another gateway, and returns what stops it.
func (s *scene) join(change ...func(*delivery.Config)) (stop func()) {
	carrier := s.newCarrier(change...)
	notifier, err := notify.New(notify.Config{
		Outbox: carrier.Outbox(), SMTPURL: "smtp://mail.example:25", MailFrom: "Pulsegate <gate@example.net>", Dial: s.post.dial,
		PublicURL: "https://gate.example.net",
	})
	require.NoError(s.t, err)
	return s.run(carrier.Run, notifier.Run)
}

// joinMute starts another gateway, which tells nobody of anything.
func (s *scene) joinMute(change ...func(*delivery.Config)) (stop func()) {
	return s.run(s.newCarrier(change...).Run)
}

func (s *scene) newCarrier(change ...func(*delivery.Config)) *delivery.Carrier {
	sealer, err := delivery.NewSealer([]byte("0123456789abcdef0123456789abcdef"))
	require.NoError(s.t, err)
	cfg := delivery.Config{
		Client: s.client, Sealer: sealer, Guard: delivery.GuardConfig{AllowHTTP: true}, Dial: s.bot.dial, Log: slog.New(slog.DiscardHandler),
	}
	for _, f := range change {
		f(&cfg)
	}
	carrier, err := delivery.New(cfg)
	require.NoError(s.t, err)
	require.NoError(s.t, carrier.Ready(s.t.Context()))
	s.replicas = append(s.replicas, carrier)
	return carrier
}

func (s *scene) run(loops ...func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for _, loop := range loops {
		running.Go(func() { _ = loop(ctx) })
	}
	stop = sync.OnceFunc(func() { cancel(); running.Wait() })
	s.t.Cleanup(stop)
	return stop
}

// rules changes how the gateway judges.
func rules(r health.Rules) func(*delivery.Config) {
	return func(cfg *delivery.Config) { cfg.Rules = r }
}

// register puts the n-th bot of a contact on a page of its own.
func (s *scene) register(n int, contact string) {
	s.t.Helper()
	require.NoError(s.t, s.replicas[0].Put(s.t.Context(), delivery.Registration{
		RegID: delivery.RegID{Entity: delivery.Entity{CompanyKey: "acme", NetworkKey: "chat", ExternalID: pageName(n)}, AppID: appName(n)},
		Name:  fmt.Sprintf("Bot %d", n), CallbackURL: "http://bot.example/", ContactEmail: contact, Mode: delivery.Live,
		Credentials: delivery.Credentials{Type: delivery.BasicAuth, Identity: "gate", Secret: "s3cret"},
	}))
}

func appName(n int) string { return fmt.Sprintf("bot-%d", n) }

// message sends one message of a stranger to the n-th page, to the gateways in turn.
func (s *scene) message(n int) delivery.Receipt {
	s.t.Helper()
	s.sent++
	body := fmt.Appendf(nil, `{"type":"message","text":"%d","author":{"id":"a-%d"},"coordinate":{"companyKey":"acme","networkKey":"chat","externalId":%q,"messageId":"m-%d","scope":"PRIVATE"}}`,
		s.sent, s.sent, pageName(n), s.sent)
	r := s.replicas[s.sent%len(s.replicas)].Accept(s.t.Context(), "acme", []delivery.Incoming{{Body: body}})[0]
	require.NoError(s.t, r.Err)
	return r
}

// behaves changes how all bots answer.
func (s *scene) behaves(m manner) {
	s.bot.mu.Lock()
	defer s.bot.mu.Unlock()
	s.bot.manner = m
}

// listed is a transition as it is listed.
type listed struct {
	delivery.Entry
	made health.Transition
}

// timeline lists all transitions of a bot, oldest first.
func (s *scene) timeline(n int) []listed {
	s.t.Helper()
	all, err := s.replicas[0].Outbox().List(s.t.Context(), "acme", 10_000, nil, delivery.EntryTransition)
	require.NoError(s.t, err)
	var list []listed
	for _, e := range slices.Backward(all) {
		if e.AppID == appName(n) {
			l := listed{Entry: e}
			require.NoError(s.t, json.Unmarshal(e.Data, &l.made))
			list = append(list, l)
		}
	}
	return list
}

// TestM04ManyBotsOfOneContactAreToldOfTogether lets a hundred bots of one contact fail within ten seconds. What came first goes out at
// once, and all the rest in one mail a minute later.
func TestM04ManyBotsOfOneContactAreToldOfTogether(t *testing.T) {
	t.Parallel() // it lives in fake time
	bots := sized(30, 100)
	synctest.Test(t, func(t *testing.T) {
		s := openScene(t, storyStore(t))
		for range 3 {
			s.join()
		}
		for n := range bots {
			s.register(n, "oncall@example.net")
		}
		s.register(bots, "other@example.net")
		s.behaves(manner{status: 500})
		began := time.Now()
		for range 10 {
			for n := range bots {
				s.message(n)
			}
			time.Sleep(time.Second)
		}
		s.message(bots)
		time.Sleep(10 * time.Minute)

		var ours, others []storyMail
		for _, m := range s.mails.all() {
			if m.to == "oncall@example.net" {
				ours = append(ours, m)
			} else {
				others = append(others, m)
			}
		}
		require.Equal(t, 1, len(others), "another contact's is not among them")
		require.Less(t, others[0].at.Sub(began), 15*time.Second, "and does not wait")
		require.Equal(t, 2, len(ours), "mails to the contact")
		require.Less(t, ours[0].at.Sub(began), 5*time.Second)
		require.InDelta(t, 60, ours[1].at.Sub(ours[0].at).Seconds(), 1)
		named := map[string]bool{}
		for n := range bots {
			name := fmt.Sprintf("Bot %d (bot-%d on chat/%s)", n, n, pageName(n))
			require.True(t, strings.Contains(ours[1].text, "DOWN: "+name), "%s is named", name)
			named[name] = true
		}
		require.Contains(t, ours[1].subject, fmt.Sprintf("%d bots: %d DOWN", bots, bots))
		told := 0
		for n := range bots {
			for _, e := range s.timeline(n) {
				if e.made.Notice {
					require.Equal(t, delivery.EntryDone, e.State, e.LastError)
					told++
				}
			}
		}
		require.Equal(t, 2*bots, told, "DEGRADED and DOWN of each")
		measured(t, "%d bots, %d notices: 1 mail after %v, 1 mail %v later naming %d bots",
			bots, told, ours[0].at.Sub(began).Round(time.Millisecond), ours[1].at.Sub(ours[0].at).Round(time.Second), len(named))
	})
}

// TestH05FlappingBotOfTwoGateways lets a bot fail every ten seconds for half an hour, with an outage in the middle.
func TestH05FlappingBotOfTwoGateways(t *testing.T) {
	t.Parallel() // it lives in fake time
	minutes := sized(4, 30)
	synctest.Test(t, func(t *testing.T) {
		s := openScene(t, storyStore(t))
		judging := rules(health.Rules{Window: 4 * time.Second, MinAttempts: 3, Pause: 20 * time.Second})
		s.join(judging)
		leave := s.join(judging)
		s.register(0, "oncall@example.net")
		flaps := func(minutes int) {
			for second := range 60 * minutes {
				s.behaves(manner{status: 202})
				if second%10 == 0 {
					s.behaves(manner{status: 500})
				}
				s.message(0)
				time.Sleep(time.Second)
			}
		}
		flaps(minutes / 2)
		require.True(t, s.health(0).Verdict.Flapping)
		require.Contains(t, s.health(0).Verdict.Reason, "flapping")
		require.Len(t, s.mails.all(), 4, "four notices go out")
		s.behaves(manner{status: 500})
		for range 20 {
			s.message(0)
			time.Sleep(time.Second)
		}
		require.Equal(t, health.Down, s.health(0).Verdict.State)
		down := s.mails.all()
		require.Len(t, down, 5)
		require.Contains(t, down[4].subject, "] DOWN: Bot 0")
		s.behaves(manner{status: 202})
		for range 10 {
			s.message(0)
			time.Sleep(time.Second)
		}
		require.Len(t, s.mails.all(), 6, "the recovery is not held back")
		flaps(minutes / 2)
		require.Len(t, s.mails.all(), 6)
		leave() // one is enough to wait for the digest, which is due an hour after the first notice in it
		time.Sleep(time.Hour + time.Duration(minutes)*time.Minute)

		mails, all := s.mails.all(), s.timeline(0)
		require.Len(t, mails, 7, "one digest")
		require.Contains(t, mails[6].subject, "flapping: Bot 0")
		require.False(t, s.health(0).Verdict.Flapping, "it has been quiet for more than an hour")
		held := checkFlapping(t, all)
		require.Contains(t, mails[6].text, fmt.Sprintf("DEGRADED %d times and HEALTHY again %d times", held[health.ToDegraded], held[health.ToHealthy]))
		require.GreaterOrEqual(t, len(all), 12*minutes)
		measured(t, "%d min: %d changes, all in the timeline; 4 mails, DOWN, recovery, 1 digest of %d notices",
			minutes, len(all), held[health.ToDegraded]+held[health.ToHealthy])
	})
}

// checkFlapping requires that no number is missing, and counts what the digest tells.
func checkFlapping(t testing.TB, all []listed) (held map[health.Kind]int) {
	held = map[health.Kind]int{}
	for i, e := range all {
		require.EqualValues(t, all[0].made.Number+int64(i), e.made.Number, "the timeline has every transition")
		if e.made.Held {
			held[e.made.Kind]++
			require.NotEmpty(t, e.Mail)
		}
		if e.made.Notice {
			require.Equal(t, delivery.EntryDone, e.State, "%s %s", e.made.Kind, e.LastError)
		}
	}
	return held
}

// health is what all gateways say of a bot.
func (s *scene) health(n int) delivery.Health {
	s.t.Helper()
	var first delivery.Health
	for i, r := range s.replicas {
		all, err := r.Health(s.t.Context(), "acme", appName(n))
		require.NoError(s.t, err)
		require.Len(s.t, all, 1)
		if i == 0 {
			first = all[0]
		}
		require.Equal(s.t, first.Verdict, all[0].Verdict, "all gateways say the same")
	}
	return first
}
