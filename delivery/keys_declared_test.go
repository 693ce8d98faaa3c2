package delivery_test

import (
	"bufio"
	"context"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// keyWatch hears of every command that a server carries out, and notes the keys that scripts use without having been given them. On a cluster
// such a script is refused as soon as the key lies on another master.
type keyWatch struct {
	undeclared []string
	ended      chan struct{} // closed when the mark was heard, or nothing more is
}

const endOfStory = "the story has ended"

// watchKeys begins to listen, and requires at the end of the test that no script used a key that it was not given.
func watchKeys(t testing.TB, client redis.UniversalClient) {
	server := client.(*redis.Client)
	conn, err := net.Dial("tcp", server.Options().Addr)
	require.NoError(t, err)
	_, err = conn.Write([]byte("MONITOR\r\n"))
	require.NoError(t, err)
	lines := bufio.NewReader(conn)
	said, err := lines.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "+OK\r\n", said)
	w := &keyWatch{ended: make(chan struct{})}
	go w.listen(lines)
	t.Cleanup(func() {
		if server.Echo(context.Background(), endOfStory).Err() == nil {
			select {
			case <-w.ended:
			case <-time.After(10 * time.Second):
			}
		}
		_ = conn.Close()
		<-w.ended
		require.Empty(t, w.undeclared, "every key in KEYS")
	})
}

func (w *keyWatch) listen(lines *bufio.Reader) {
	defer close(w.ended)
	var given []string
	for {
		line, err := lines.ReadString('\n')
		if err != nil || strings.Contains(line, endOfStory) {
			return
		}
		_, rest, _ := strings.Cut(line, "] ")
		name, rest := word(rest)
		switch strings.ToUpper(name) {
		case "EVAL", "EVALSHA":
			given = keysOf(rest)
		default:
			if strings.Contains(line[:strings.IndexByte(line, ']')+1], " lua]") {
				w.check(name, rest, given)
			}
		}
	}
}

// check notes the keys of a script's command that are not among those given to it.
func (w *keyWatch) check(name, rest string, given []string) {
	if name == "PUBLISH" {
		return
	}
	for key, rest := word(rest); strings.HasPrefix(key, "pg:"); key, rest = word(rest) {
		if !slices.Contains(given, key) {
			w.undeclared = append(w.undeclared, name+" "+key)
		}
		if name != "DEL" {
			return
		}
	}
}

// word takes the first argument off what MONITOR prints.
func word(text string) (first, rest string) {
	text = strings.TrimLeft(text, " ")
	quoted, err := strconv.QuotedPrefix(text)
	if err != nil {
		return "", ""
	}
	first, _ = strconv.Unquote(quoted)
	return first, text[len(quoted):]
}

// keysOf are the keys that follow the script in its arguments.
func keysOf(rest string) (keys []string) {
	_, rest = word(rest)
	count, rest := word(rest)
	n, _ := strconv.Atoi(count)
	for range n {
		var key string
		key, rest = word(rest)
		keys = append(keys, key)
	}
	return keys
}
