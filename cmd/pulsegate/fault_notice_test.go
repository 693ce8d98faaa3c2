package main_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
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

// full says whether faults are tried at their full size.
func full() bool { return os.Getenv("PULSEGATE_FAULTS") == "full" }

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

// join starts another gateway, which tells of what it takes from the outbox, and returns what stops it.
func (s *scene) join(change ...func(*delivery.Config)) (stop func()) {
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
	notifier, err := notify.New(notify.Config{
		Outbox: carrier.Outbox(), SMTPURL: "smtp://mail.example:25", MailFrom: "Pulsegate <gate@example.net>", Dial: s.post.dial,
		PublicURL: "https://gate.example.net",
	})
	require.NoError(s.t, err)
	s.replicas = append(s.replicas, carrier)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = carrier.Run(ctx) })
	running.Go(func() { _ = notifier.Run(ctx) })
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

// notices lists all transitions of the company, newest first.
func (s *scene) notices() []delivery.Entry {
	s.t.Helper()
	list, err := s.replicas[0].Outbox().List(s.t.Context(), "acme", 10_000, delivery.EntryTransition)
	require.NoError(s.t, err)
	return list
}

// TestM04ManyBotsOfOneContactAreToldOfTogether lets a hundred bots of one contact fail within ten seconds. What came first goes out at
// once, and all the rest in one mail a minute later.
func TestM04ManyBotsOfOneContactAreToldOfTogether(t *testing.T) {
	bots := 30
	if full() {
		bots = 100
	}
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
		require.Len(t, others, 1, "another contact's is not among them")
		require.Less(t, others[0].at.Sub(began), 15*time.Second, "and does not wait")
		require.Len(t, ours, 2, "%v", ours)
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
		for _, e := range s.notices() {
			if e.AppID != appName(bots) {
				require.Equal(t, delivery.EntryDone, e.State, e.LastError)
				told++
			}
		}
		require.Equal(t, 2*bots, told, "DEGRADED and DOWN of each")
		t.Attr("measured", fmt.Sprintf("%d bots, %d notices: 1 mail after %v, 1 mail %v later naming %d bots",
			bots, told, ours[0].at.Sub(began).Round(time.Millisecond), ours[1].at.Sub(ours[0].at).Round(time.Second), len(named)))
	})
}
