package health

import (
	"net/url"
	"strings"
)

// Shards is the number of shards; it is written to Redis at first start, and another number is refused.
const Shards = 16

// tags are the hash tags of the shards, chosen so that shard i lies in the i-th sixteenth of the 16,384 Redis Cluster slots.
var tags = [Shards]string{
	"18", "455", "333", "223", "553", "443", "95", "663", "265", "375", "908", "155", "985", "895", "405", "515",
}

// Shard is the number of a shard, from 0 to Shards-1.
type Shard int

// Key builds the key `pg:{tag}:noun:id:id…` of a shard. It is the only maker of Redis keys: every id is escaped, so no id can
// end the hash tag, add a part, or reach another registration's key.
func (s Shard) Key(noun string, ids ...string) string {
	var b strings.Builder
	b.WriteString("pg:{")
	b.WriteString(tags[s])
	b.WriteString("}:")
	b.WriteString(noun)
	for _, id := range ids {
		b.WriteByte(':')
		b.WriteString(url.QueryEscape(id))
	}
	return b.String()
}
