package delivery

import (
	"context"
	_ "embed"
	"errors"
	"log/slog"
	"strings"
	"sync"

	"github.com/pulsegate/pulsegate/health"
	"github.com/redis/go-redis/v9"
)

//go:embed reseal.lua
var resealLua string

// resealBatch is how many entities are read and written in one round trip.
const resealBatch = 100

// requiredKey is a string: the ids of the sealing keys that every gateway must have, the one that the first gateway had to begin with.
const requiredKey = "pg:key"

// NewVault returns the vault of a store. The sealer's current key is the one that everything is to be sealed with.
func NewVault(client redis.UniversalClient, sealer *Sealer, log *slog.Logger) *Vault {
	return &Vault{newStore(Config{Client: client, Sealer: sealer, Log: log})}
}

// Required are the ids of the keys that every gateway must have, or it does not start.
func (v *Vault) Required(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	text, err := v.s.client.Get(ctx, requiredKey).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return nil, unavailable("read required keys", err)
	}
	return strings.Fields(text), nil
}

// Require sets the ids of the keys that every gateway must have from now on.
func (v *Vault) Require(ctx context.Context, ids ...string) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	if err := v.s.client.Set(ctx, requiredKey, strings.Join(ids, " "), 0).Err(); err != nil {
		return unavailable("write required keys", err)
	}
	return nil
}

// Rings are the ids of the keys of every gateway that runs now, the current one first, by the gateway's name.
func (v *Vault) Rings(ctx context.Context) (map[string][]string, error) {
	rings := map[string][]string{}
	var mu sync.Mutex
	ask := func(ctx context.Context, server *redis.Client) error {
		list, err := server.PubSubChannels(ctx, ringPrefix+"*").Result()
		mu.Lock()
		defer mu.Unlock()
		for _, channel := range list {
			name, ids, _ := strings.Cut(strings.TrimPrefix(channel, ringPrefix), ":")
			rings[name] = strings.Split(ids, ",")
		}
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	var err error
	switch client := v.s.client.(type) {
	case *redis.ClusterClient:
		err = client.ForEachShard(ctx, ask) // a subscription may lie on a replica
	case *redis.Client:
		err = ask(ctx, client)
	}
	if err != nil {
		return nil, unavailable("ask gateways for their keys", err)
	}
	return rings, nil
}

// walkSecrets goes through the registrations of all shards, some entities at a time.
func (s *store) walkSecrets(ctx context.Context, progress func(int64), renew renewal) (Sealed, error) {
	found := Sealed{Secrets: map[string]int64{}}
	script := redis.NewScript(resealLua)
	for sh := range health.Shard(health.Shards) {
		seen := map[Entity]bool{} // a scan may name an entity twice
		for cursor := uint64(0); ; {
			entities, next, err := s.entityPage(ctx, sh, cursor)
			if err != nil {
				return found, err
			}
			var fresh []Entity
			for _, e := range entities {
				if !seen[e] {
					seen[e], fresh = true, append(fresh, e)
				}
			}
			if err := s.renewEntities(ctx, script, fresh, &found, renew); err != nil {
				return found, err
			}
			if progress != nil {
				progress(found.Registrations)
			}
			if cursor = next; cursor == 0 {
				break
			}
		}
	}
	return found, nil
}

// entityPage reads some of the entities of a shard.
func (s *store) entityPage(ctx context.Context, sh health.Shard, cursor uint64) ([]Entity, uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	page, next, err := s.client.HScan(ctx, hashesKey(sh), cursor, "", resealBatch).Result()
	if err != nil {
		return nil, 0, unavailable("read entities", err)
	}
	var entities []Entity
	for i := 1; i < len(page); i += 2 {
		if strings.Count(page[i], ":") != 2 {
			continue // a registration, or the number of all
		}
		if id, err := parseMember(page[i] + ":"); err == nil {
			entities = append(entities, id.Entity)
		}
	}
	return entities, next, nil
}

// renewEntities reads entities of one shard and writes what is to be replaced of them.
func (s *store) renewEntities(ctx context.Context, script *redis.Script, entities []Entity, found *Sealed, renew renewal) error {
	if len(entities) == 0 {
		return nil
	}
	reading, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	p := s.client.Pipeline()
	cmds := make([]*redis.MapStringStringCmd, len(entities))
	for i, e := range entities {
		cmds[i] = p.HGetAll(reading, e.regKey())
	}
	if _, err := p.Exec(reading); err != nil {
		return unavailable("read registrations", err)
	}
	var calls []scriptCall
	asked := int64(0)
	for i, e := range entities {
		var args []any
		for field, text := range cmds[i].Val() {
			app, ok := strings.CutPrefix(field, "a:")
			if !ok {
				continue
			}
			if next, change := s.see(found, RegID{e, app}, text, renew); change {
				args = append(args, field, text, next)
			}
		}
		if len(args) > 0 {
			calls, asked = append(calls, scriptCall{script, []string{e.regKey()}, args}), asked+int64(len(args)/3)
		}
	}
	if len(calls) == 0 {
		return nil
	}
	written := int64(0)
	replies, errs := s.pipeline(calls)
	for _, reply := range replies {
		if len(reply) == 1 {
			written += toInt(reply[0])
		}
	}
	found.Resealed, found.changed = found.Resealed+written, found.changed+asked-written
	if err := errors.Join(errs...); err != nil {
		return unavailable("write registrations", err)
	}
	return nil
}
