package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pulsegate/pulsegate/gateway"
)

// benchToken makes the key file of a data directory and a token that it verifies.
func benchToken(data string) (string, error) {
	keys, err := openKeys(filepath.Join(data, "pulsegate.key"))
	if err != nil {
		return "", err
	}
	return signToken(keys, gateway.Claims{CompanyKey: benchCompany, Scope: gateway.ScopeAdmin}, time.Hour)
}

// startGateway starts a gateway on an empty store and registers the bots.
func (r *benchRoom) startGateway(ctx context.Context, bots string, registrations int64) (*part, string, error) {
	if err := r.client.FlushAll(ctx).Err(); err != nil {
		return nil, "", fmt.Errorf("empty the store: %w", err)
	}
	p, err := launch(partGateway, r.streams.err, "serve", "--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0",
		"--data", r.data, "--allow-callback", "loopback", "--allow-http", "--log-level", "warn", "--drain-grace", "0s")
	if err != nil {
		return nil, "", err
	}
	line, err := p.out.ReadString('\n')
	address, ok := strings.CutPrefix(strings.TrimSpace(line), listenLine)
	if err != nil || !ok {
		return p, "", fmt.Errorf("start gateway: it says %.80q", line)
	}
	return p, address, r.register(ctx, address, bots, registrations)
}

// register makes one registration for each entity of the generator.
func (r *benchRoom) register(ctx context.Context, address, bots string, registrations int64) error {
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 8}}
	defer client.CloseIdleConnections()
	var next atomic.Int64
	var workers sync.WaitGroup
	failed := make([]error, 8)
	for w := range failed {
		workers.Go(func() {
			for failed[w] == nil {
				i := next.Add(1) - 1
				if i >= registrations {
					return
				}
				failed[w] = r.registerOne(ctx, client, address, bots, i)
			}
		})
	}
	workers.Wait()
	return errors.Join(failed...)
}

// registerOne puts registration i, again and again while the gateway asks for patience.
func (r *benchRoom) registerOne(ctx context.Context, client *http.Client, address, bots string, i int64) error {
	body, err := json.Marshal(map[string]any{
		"platform": "LITHIUM", "companyKey": benchCompany, "networkKey": "bench", "externalId": fmt.Sprintf("e%d", i),
		"appId": fmt.Sprintf("bot-%d", i), "name": fmt.Sprintf("Bot %d", i), "callbackUrl": "http://" + bots + "/", "mode": "LIVE",
		"credentials": map[string]string{"type": "BASIC_AUTH", "identity": "bench", "secret": "bench"},
	})
	if err != nil {
		return fmt.Errorf("write registration: %w", err)
	}
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://"+address+"/bots/v3/registrations", bytes.NewReader(body))
		if err != nil {
			return fmt.Errorf("register bot %d: %w", i, err)
		}
		request.Header.Set("Authorization", "Bearer "+r.token)
		request.Header.Set("Content-Type", "application/json; charset=utf-8")
		answer, err := client.Do(request)
		if err != nil {
			return fmt.Errorf("register bot %d: %w", i, err)
		}
		text, _ := io.ReadAll(io.LimitReader(answer.Body, 4<<10))
		_ = answer.Body.Close()
		switch answer.StatusCode {
		case http.StatusAccepted, http.StatusOK:
			return nil
		case http.StatusServiceUnavailable, http.StatusTooManyRequests:
			if !pause(ctx, 100*time.Millisecond) {
				return ctx.Err()
			}
		default:
			return fmt.Errorf("register bot %d: %d %.200s", i, answer.StatusCode, text)
		}
	}
}
