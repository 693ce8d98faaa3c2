package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/redis/go-redis/v9"
)

// The floor of a gateway is the bare relay with the least of a store behind it that the contract asks of any: an event is in Redis, once, before it is
// answered, and leaves it together with what is counted and noted of it. It keeps no order, has no leases, judges nobody and cannot begin anew where another
// process died. Both of its steps are one script for all events that gathered while the last was under way, as the gateway's are.

// keepScript takes events in: KEYS for each dup st q ctl own, ARGV for each author body. Returns their ids; an empty one for what is not taken in.
const keepScript = `
local now = redis.call('TIME')[1]
local minute, ids = string.format('%d', math.floor(now / 60)), {}
for i = 1, #ARGV / 2 do
  local k, author = 5 * (i - 1), ARGV[2 * i - 1]
  ids[i] = ''
  if redis.call('SET', KEYS[k + 1], '1', 'EX', 86400, 'NX') and redis.call('HGET', KEYS[k + 2], 's') ~= 'DOWN' and redis.call('XLEN', KEYS[k + 3]) < 100000 then
    if redis.call('HGET', KEYS[k + 4], 'minute') ~= minute then
      redis.call('HSET', KEYS[k + 4], 'owner', 'BOT', 'minute', minute)
      redis.call('ZADD', KEYS[k + 5], now, author)
    end
    ids[i] = redis.call('XADD', KEYS[k + 3], '*', 'a', author, 'b', ARGV[2 * i])
  end
end
return ids`

// dropScript settles events: KEYS for each q win ok, ARGV for each id record.
const dropScript = `
local slot = string.format('%d', redis.call('TIME')[1] % 120)
for i = 1, #ARGV / 2 do
  local k = 3 * (i - 1)
  if redis.call('XDEL', KEYS[k + 1], ARGV[2 * i - 1]) == 1 then
    redis.call('HINCRBY', KEYS[k + 2], 'sum', 1)
    redis.call('HINCRBY', KEYS[k + 2], slot, 1)
    if redis.call('LPUSH', KEYS[k + 3], ARGV[2 * i]) > 1064 then redis.call('LTRIM', KEYS[k + 3], 0, 999) end
  end
end
return 0`

// floor is the store behind the bare relay.
type floor struct {
	client  redis.UniversalClient
	scripts struct{ keep, drop *redis.Script }
	errs    io.Writer
	arrived chan *floorEvent
	tried   chan *floorEvent
	working sync.WaitGroup
}

// floorEvent is one event on its way through.
type floorEvent struct {
	own, entity, author string
	body                []byte
	id                  string     // in the queue
	kept                chan error // once it is, or cannot be
}

// openFloor opens the store of a redis-server that listens on a socket.
func openFloor(socket string, errs io.Writer) *floor {
	options := baseOptions()
	options.Addrs = []string{"redis-server.floor:0"}
	options.Dialer = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}
	f := &floor{client: redis.NewUniversalClient(options), errs: errs, arrived: make(chan *floorEvent, floorBatch), tried: make(chan *floorEvent, floorBatch)}
	f.scripts.keep, f.scripts.drop = redis.NewScript(keepScript), redis.NewScript(dropScript)
	f.working.Go(func() { inBatches(f.arrived, f.keepAll) })
	f.working.Go(func() { inBatches(f.tried, f.dropAll) })
	return f
}

// close ends it when all that was handed in is through; nothing may come any more.
func (f *floor) close() {
	close(f.arrived)
	close(f.tried)
	f.working.Wait()
	_ = f.client.Close()
}

// floorBatch is how many events one script takes at most.
const floorBatch = 256

// inBatches carries out what comes, whatever gathered meanwhile at once.
func inBatches(from <-chan *floorEvent, carryOut func([]*floorEvent)) {
	var batch []*floorEvent
	for first := range from {
		batch = append(batch[:0], first)
		for len(batch) < floorBatch && len(from) > 0 {
			batch = append(batch, <-from)
		}
		carryOut(batch)
	}
}

// keep stores an event as the generator writes it, and returns it once that is done.
func (f *floor) keep(body []byte) (*floorEvent, error) {
	e := &floorEvent{
		own: textAfter(body, `"id":"`), entity: textAfter(body, `"externalId":"`), author: textAfter(body, `"author":{"id":"`), body: body, kept: make(chan error, 1),
	}
	f.arrived <- e
	return e, <-e.kept
}

func (f *floor) keepAll(events []*floorEvent) {
	var keys []string
	var args []any
	for _, e := range events {
		keys = append(keys, "dup:"+e.own, "st:"+e.entity, "q:"+e.entity, "ctl:"+e.entity+":"+e.author, "own:"+e.entity)
		args = append(args, &e.author, e.body)
	}
	ids, err := f.scripts.keep.Run(context.Background(), f.client, keys, args...).StringSlice()
	for i, e := range events {
		if err == nil {
			if e.id = ids[i]; e.id == "" {
				e.kept <- fmt.Errorf("event %s has come before", e.own)
				continue
			}
		}
		e.kept <- err
	}
}

func (f *floor) dropAll(events []*floorEvent) {
	var keys []string
	var args []any
	for _, e := range events {
		keys = append(keys, "q:"+e.entity, "win:"+e.entity, "ok:"+e.entity)
		args = append(args, &e.id, e.own+" "+e.author+" delivered")
	}
	if err := f.scripts.drop.Run(context.Background(), f.client, keys, args...).Err(); err != nil {
		_, _ = fmt.Fprintln(f.errs, "bench floor: drop:", err)
	}
}

// textAfter is what stands between a mark and the next quotation mark; empty when the mark is not there.
func textAfter(body []byte, mark string) string {
	_, after, _ := bytes.Cut(body, []byte(mark))
	text, _, _ := bytes.Cut(after, []byte{'"'})
	return string(text)
}
