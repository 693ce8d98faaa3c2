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

// startGateway starts a gateway on the store, and returns where its API is.
func (b *benchStore) startGateway(errs io.Writer, settings ...string) (*part, string, error) {
	p, err := launch(partGateway, errs, append([]string{
		"serve", "--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0", "--data", b.data, "--allow-callback", "loopback", "--allow-http",
		"--log-level", "error", "--drain-grace", "0s", "--token-rate", "0",
	}, settings...)...)
	if err != nil {
		return nil, "", err
	}
	line, err := p.out.ReadString('\n')
	address, ok := strings.CutPrefix(strings.TrimSpace(line), listenLine)
	if err != nil || !ok {
		return p, "", fmt.Errorf("it says %.80q", line)
	}
	return p, address, nil
}

// benchRegistration is registration i as it is put; whenDown may be empty.
func benchRegistration(i int64, callback, whenDown string) map[string]any {
	return map[string]any{
		"platform": "LITHIUM", "companyKey": benchCompany, "networkKey": "bench", "externalId": fmt.Sprintf("e%d", i),
		"appId": fmt.Sprintf("bot-%d", i), "name": fmt.Sprintf("Bot %d", i), "callbackUrl": callback, "mode": "LIVE", "whenDown": whenDown,
		"credentials": map[string]string{"type": "BASIC_AUTH", "identity": "bench", "secret": "bench"},
	}
}

// register puts the registrations from first to below end.
func (b *benchStore) register(ctx context.Context, address string, first, end int64, body func(i int64) any) error {
	const workers = 16
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: workers}}
	defer client.CloseIdleConnections()
	var next atomic.Int64
	next.Store(first)
	var working sync.WaitGroup
	failed := make([]error, workers)
	for w := range failed {
		working.Go(func() {
			for failed[w] == nil {
				i := next.Add(1) - 1
				if i >= end {
					return
				}
				failed[w] = b.registerOne(ctx, client, address, body(i))
			}
		})
	}
	working.Wait()
	return errors.Join(failed...)
}

// registerOne puts one registration, again and again while the gateway asks for patience.
func (b *benchStore) registerOne(ctx context.Context, client *http.Client, address string, registration any) error {
	body, err := json.Marshal(registration)
	if err != nil {
		return fmt.Errorf("write registration: %w", err)
	}
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://"+address+"/bots/v3/registrations", bytes.NewReader(body))
		if err != nil {
			return fmt.Errorf("register bot: %w", err)
		}
		request.Header.Set("Authorization", "Bearer "+b.token)
		request.Header.Set("Content-Type", "application/json; charset=utf-8")
		answer, err := client.Do(request)
		if err != nil {
			return fmt.Errorf("register bot: %w", err)
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
			return fmt.Errorf("register bot: %d %.200s", answer.StatusCode, text)
		}
	}
}

// fetch reads a page of the gateway's API into v.
func (b *benchStore) fetch(ctx context.Context, client *http.Client, url string, v any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("read %s: %w", url, err)
	}
	request.Header.Set("Authorization", "Bearer "+b.token)
	answer, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("read %s: %w", url, err)
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("read %s: status %d", url, answer.StatusCode)
	}
	if err := json.NewDecoder(answer.Body).Decode(v); err != nil {
		return fmt.Errorf("read %s: %w", url, err)
	}
	return nil
}
