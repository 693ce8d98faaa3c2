package health_test

import (
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/pulsegate/pulsegate/health"
	"github.com/stretchr/testify/require"
)

// hostile are ids that would do harm in a key if they were not escaped.
var hostile = []string{
	"", "{}", "{1}", "}", "{", ":", "::", "a:b", "*", "?", "[a-z]", "\n", "\r\n", "%2F", "%", "/", "\x00", "a\x00b", "\u202eevil", "\u200f",
	" ", "+", "ä", "\xff\xfe", "pg:{18}:st", "..", "~", strings.Repeat("x", 4096),
}

// slot is the Redis Cluster slot of a key: CRC16 (XMODEM) of its hash tag.
func slot(key string) int {
	if open := strings.IndexByte(key, '{'); open >= 0 {
		if tag, _, ok := strings.Cut(key[open+1:], "}"); ok && tag != "" {
			key = tag
		}
	}
	crc := uint16(0)
	for i := range len(key) {
		crc ^= uint16(key[i]) << 8
		for range 8 {
			carry := crc&0x8000 != 0
			crc <<= 1
			if carry {
				crc ^= 0x1021
			}
		}
	}
	return int(crc) % 16384
}

func TestSlotsAreThoseOfRedisCluster(t *testing.T) {
	require.Equal(t, 12739, slot("123456789"), "the check value of the algorithm")
	require.Equal(t, slot("user1000"), slot("{user1000}.following"))
}

func TestShardsFallOneInEachSixteenthOfTheSlots(t *testing.T) {
	for s := range health.Shard(health.Shards) {
		require.Equal(t, int(s), slot(s.Key("st", "{other}"))/(16384/health.Shards), "shard %d", s)
	}
}

func TestKeysOfAShardShareItsSlot(t *testing.T) {
	for s := range health.Shard(health.Shards) {
		for _, id := range hostile {
			require.Equal(t, slot(s.Key("due")), slot(s.Key("st", id, "{x}")))
		}
	}
}

func TestKeysReadAsDocumented(t *testing.T) {
	require.Equal(t, "pg:{18}:due", health.Shard(0).Key("due"))
	require.Equal(t, "pg:{515}:st:co:7:a%3Ab", health.Shard(15).Key("st", "co", "7", "a:b"))
}

func TestHostileIdsStayOnePartOfTheKey(t *testing.T) {
	for _, id := range hostile {
		checkKey(t, id, "plain")
		checkKey(t, "plain", id)
	}
}

func TestHostileIdsNeverCollide(t *testing.T) {
	seen := map[string][2]string{}
	for _, a := range hostile {
		for _, b := range hostile {
			key := health.Shard(1).Key("st", a, b)
			require.NotContains(t, seen, key)
			seen[key] = [2]string{a, b}
		}
	}
}

// checkKey holds the key of two ids to its form, and reads the ids back out of it: so no two pairs share a key.
func checkKey(t testing.TB, a, b string) {
	key := health.Shard(3).Key("noun", a, b)
	parts := strings.Split(key, ":")
	require.Len(t, parts, 5)
	require.Equal(t, []string{"pg", "{223}", "noun"}, parts[:3])
	require.Equal(t, 1, strings.Count(key, "{"))
	require.Equal(t, 1, strings.Count(key, "}"))
	require.True(t, utf8.ValidString(key))
	require.NotContains(t, key, "*")
	for i, id := range []string{a, b} {
		for _, c := range []byte(parts[3+i]) {
			require.True(t, c > ' ' && c < 0x7f, "printable ASCII only")
		}
		back, err := url.QueryUnescape(parts[3+i])
		require.NoError(t, err)
		require.Equal(t, id, back)
	}
}

// text draws a short text over an alphabet of trouble, so that texts alike are likely.
func text(d draw) string {
	var b strings.Builder
	for range d("length", 0, 6) {
		b.WriteString(pick(d, "piece", []string{":", "%", "3A", "2", "5", "{", "}", "+", " ", "a", "\x00", "é", "\xff"}))
	}
	return b.String()
}

// checkPair draws two lists of ids: they share a key only if they are the same.
func checkPair(t testing.TB, d draw) {
	list := func() (ids []string) {
		for range d("ids", 0, 3) {
			ids = append(ids, text(d))
		}
		return ids
	}
	a, b := list(), list()
	same := health.Shard(0).Key("n", a...) == health.Shard(0).Key("n", b...)
	require.Equal(t, len(a) == len(b) && strings.Join(quoted(a), " ") == strings.Join(quoted(b), " "), same, "%q and %q", a, b)
}

func quoted(ids []string) (list []string) {
	for _, id := range ids {
		list = append(list, strings.ReplaceAll(url.PathEscape(id), " ", "%20"))
	}
	return list
}

func TestDifferentIdsNeverShareAKey(t *testing.T) {
	for i := range 20_000 {
		checkPair(t, seeded(uint64(i)))
	}
}

func FuzzKey(f *testing.F) {
	for _, id := range hostile {
		f.Add(id, "plain")
	}
	f.Fuzz(func(t *testing.T, a, b string) { checkKey(t, a, b) })
}
