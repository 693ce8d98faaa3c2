package main_test

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulsegate/pulsegate/delivery"
)

var update = flag.Bool("update", false, "write the timelines anew, from what happens")

// TestTimelines plays each story of testdata/timelines on fake time and compares what happens with what is written there, to the
// second. How to read them is told in testdata/timelines/README.txt.
func TestTimelines(t *testing.T) {
	t.Parallel() // it lives in fake time
	files, err := filepath.Glob(filepath.Join("..", "..", "testdata", "timelines", "*.txt"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".txt")
		if name == "README" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			var told string
			synctest.Test(t, func(t *testing.T) { told = playTimeline(t, parseTimeline(t, string(text))) })
			if *update {
				require.NoError(t, os.WriteFile(file, []byte(told), 0o644))
			}
			require.Equal(t, string(text), told)
		})
	}
}

// order is one line of a timeline that says what is done, with the comments above it.
type order struct {
	at    int // seconds
	text  string
	above []string
}

func parseTimeline(t testing.TB, text string) []order {
	var orders []order
	var above []string
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if rest, ok := strings.CutPrefix(line, "> "); ok {
			at, what, ok := strings.Cut(rest, " ")
			require.True(t, ok, line)
			orders = append(orders, order{parseClock(t, at), strings.TrimSpace(what), above})
			above = nil
		} else if strings.HasPrefix(line, "#") {
			if above == nil && orders != nil {
				above = []string{""}
			}
			above = append(above, line)
		}
	}
	return orders
}

func parseClock(t testing.TB, text string) int {
	minutes, seconds, ok := strings.Cut(text, ":")
	m, err := strconv.Atoi(minutes)
	require.NoError(t, err)
	s, err := strconv.Atoi(seconds)
	require.NoError(t, err)
	require.True(t, ok && s < 60, text)
	return 60*m + s
}

func clockText(s int) string { return fmt.Sprintf("%d:%02d", s/60, s%60) }

// timeline is a story that is being played.
type timeline struct {
	t        testing.TB
	replicas []*delivery.Carrier
	join     func() *delivery.Carrier // starts another gateway
	bot      *storyBot
	mails    *storyMailbox
	platform *storyPlatform

	reg     delivery.Registration
	exists  bool
	every   int      // seconds between two messages; 0: none
	authors []string // in turn; empty: another for each message
	since   int      // when the traffic began
	sent    int
	ids     []string
	fates   map[string]int // of the receipts of this second
	got     int            // mails told
	seenIDs map[string]bool
	inSums  bool           // one line from change to change
	latest  map[string]int // the number of each author's last message that the bot saw

	out  strings.Builder
	span []row
}

// row is what happened in one second.
type row struct {
	at   int
	text string
}

// playTimeline does what is ordered and tells what happens.
func playTimeline(t testing.TB, orders []order) string {
	s := openTimeline(t)
	for i, second := 0, 0; ; second++ {
		time.Sleep(50 * time.Millisecond)
		for ; i < len(orders) && orders[i].at == second; i++ {
			s.flush()
			for _, line := range orders[i].above {
				s.out.WriteString(line + "\n")
			}
			fmt.Fprintf(&s.out, "> %s %s\n", clockText(second), orders[i].text)
			if orders[i].text == "end" {
				s.sums()
				return s.out.String()
			}
			s.do(second, strings.Fields(orders[i].text))
		}
		require.Less(t, i, len(orders), "a timeline finishes with an order to end")
		time.Sleep(50 * time.Millisecond)
		if s.every > 0 && (second-s.since)%s.every == 0 {
			s.message("")
		}
		time.Sleep(800 * time.Millisecond)
		s.look(second)
		time.Sleep(100 * time.Millisecond)
	}
}

func openTimeline(t testing.TB) *timeline {
	s := &timeline{
		t: t, bot: &storyBot{pipes: newPipes(), manner: manner{status: 202}, others: map[string]manner{}}, mails: new(storyMailbox),
		platform: &storyPlatform{tagged: map[string][]int64{}}, fates: map[string]int{}, seenIDs: map[string]bool{}, latest: map[string]int{},
		reg: delivery.Registration{
			RegID: delivery.RegID{Entity: delivery.Entity{CompanyKey: "acme", NetworkKey: "chat", ExternalID: "page"}, AppID: "bot"},
			Name:  "Bot", CallbackURL: "http://bot.example/", ContactEmail: "owner@example.net", Mode: delivery.Live,
			Credentials: delivery.Credentials{Type: delivery.BasicAuth, Identity: "gate", Secret: "s3cret"},
		},
	}
	serveOver(t, s.bot.pipes, s.bot.serve)
	mails, platform := newPipes(), newPipes()
	s.mails.serve(t, mails)
	serveOver(t, platform, s.platform.serve)
	client := storyStore(t)
	s.join = func() *delivery.Carrier { return storyReplica(t, client, s.bot.pipes, mails, platform) }
	s.replicas = append(s.replicas, s.join())
	return s
}

// do carries out one order.
func (s *timeline) do(second int, words []string) {
	last := s.replicas[len(s.replicas)-1]
	switch what, rest := words[0], words[1:]; what {
	case "sums": // from here on
		s.inSums = true
	case "another": // gateway joins
		s.replicas = append(s.replicas, s.join())
	case "register", "change":
		for _, w := range rest {
			s.set(w)
		}
		require.NoError(s.t, s.replicas[0].Put(s.t.Context(), s.reg))
		s.exists = true
	case "mode":
		require.NoError(s.t, last.SetMode(s.t.Context(), s.reg.RegID, delivery.Mode(rest[0])))
		s.reg.Mode = delivery.Mode(rest[0])
	case "delete":
		require.NoError(s.t, last.Delete(s.t.Context(), s.reg.RegID))
		s.exists = false
	case "bot":
		s.behave(rest)
	case "traffic":
		s.traffic(second, rest)
	case "message":
		s.message(rest[0])
	case "owner":
		c, err := s.replicas[0].Control(s.t.Context(), s.reg.Entity, rest[0])
		require.NoError(s.t, err)
		fmt.Fprintf(&s.out, "        %s: %s\n", rest[0], cmp.Or(strings.Join(append([]string{string(c.Owner.Type)}, c.Tags...), ", "), "nobody"))
	default:
		require.Fail(s.t, "unknown order", what)
	}
}

// set changes one field of the registration: name=value.
func (s *timeline) set(word string) {
	name, value, _ := strings.Cut(word, "=")
	switch name {
	case "url":
		s.reg.CallbackURL = value
	case "timeout":
		s.reg.DeliveryTimeout = s.duration(value)
	case "debug":
		s.reg.DebugUntil = time.Now().Add(s.duration(value))
	case "whenDown":
		s.reg.WhenDown = delivery.WhenDown(value)
	default:
		require.Fail(s.t, "unknown field", name)
	}
}

func (s *timeline) duration(text string) time.Duration {
	d, err := time.ParseDuration(text)
	require.NoError(s.t, err)
	return d
}

// behave reads "on", "off", or "STATUS|hangs [after DURATION] [for AUTHOR]".
func (s *timeline) behave(words []string) {
	switch words[0] {
	case "off", "on":
		s.bot.switchTo(words[0] == "on")
		return
	}
	var m manner
	if words[0] != "hangs" {
		status, err := strconv.Atoi(words[0])
		require.NoError(s.t, err)
		m.status = status
	}
	author := ""
	for i := 1; i+1 < len(words); i += 2 {
		if words[i] == "after" {
			m.after = s.duration(words[i+1])
		} else {
			author = words[i+1]
		}
	}
	s.bot.mu.Lock()
	defer s.bot.mu.Unlock()
	if author == "" {
		s.bot.manner = m
	} else {
		s.bot.others[author] = m
	}
}

// traffic reads "stops", or "every Ns of AUTHOR…|strangers".
func (s *timeline) traffic(second int, words []string) {
	s.every, s.authors = 0, nil
	if words[0] == "stops" {
		return
	}
	s.every, s.since = int(s.duration(words[1])/time.Second), second
	if words[3] != "strangers" {
		s.authors = words[3:]
	}
}

// message sends one message, to the gateways in turn.
func (s *timeline) message(author string) {
	s.sent++
	switch {
	case author != "":
	case len(s.authors) > 0:
		author = s.authors[s.sent%len(s.authors)]
	default:
		author = fmt.Sprintf("stranger-%d", s.sent)
	}
	body := fmt.Appendf(nil, `{"type":"message","text":"%d","author":{"id":%q},"coordinate":{"companyKey":"acme","networkKey":"chat","externalId":"page","messageId":"m-%d","scope":"PRIVATE"}}`,
		s.sent, author, s.sent)
	r := s.replicas[s.sent%len(s.replicas)].Accept(s.t.Context(), "acme", []delivery.Incoming{{Body: body}})[0]
	if r.Err != nil {
		s.fates["refused ("+r.Err.Error()+")"]++
		return
	}
	s.ids = append(s.ids, r.ID)
	s.fates[string(r.Fate)]++
}
