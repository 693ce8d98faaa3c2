package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// scaleLook is what the processes use at one moment.
type scaleLook struct {
	at         time.Time
	rss        int64         // of the gateway, in bytes
	cpu        time.Duration // of the gateway, since it began
	redisBytes int64
	redisOps   int64
	redisCPU   time.Duration
	down       int64 // registrations that are DOWN
	metrics    int   // bytes of /metrics
	took       time.Duration
}

// fetch reads a page of the gateway with the admin's token.
func (r *scaleRun) fetch(ctx context.Context, url string) (status int, body []byte, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, nil, err
	}
	request.Header.Set("Authorization", "Bearer "+r.token)
	answer, err := r.http.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = answer.Body.Close() }()
	body, err = io.ReadAll(answer.Body)
	return answer.StatusCode, body, err
}

// look reads /metrics and what Redis says of itself.
func (r *scaleRun) look(ctx context.Context) (scaleLook, error) {
	began := time.Now()
	status, page, err := r.fetch(ctx, "http://"+r.ops+"/metrics")
	if err != nil || status != http.StatusOK {
		return scaleLook{}, fmt.Errorf("read /metrics: status %d: %w", status, errors.Join(err, ctx.Err()))
	}
	l := scaleLook{at: time.Now(), metrics: len(page), took: time.Since(began)}
	l.rss = int64(sample(page, "process_resident_memory_bytes"))
	l.cpu = time.Duration(sample(page, "process_cpu_seconds_total") * float64(time.Second))
	l.down = int64(sample(page, `pulsegate_health_registrations{state="DOWN"}`))
	l.redisCPU = r.redisCPU(ctx)
	memory, err := r.client.Info(ctx, "memory").Result()
	if err != nil {
		return l, fmt.Errorf("read memory of redis: %w", err)
	}
	l.redisBytes = infoNumber(memory, "used_memory") - infoNumber(memory, "mem_aof_buffer") - infoNumber(memory, "mem_clients_normal")
	stats, err := r.client.Info(ctx, "stats").Result()
	if err != nil {
		return l, fmt.Errorf("read statistics of redis: %w", err)
	}
	l.redisOps = infoNumber(stats, "total_commands_processed")
	return l, nil
}

// sample is the value of one series of a page of metrics; 0 when it is not there.
func sample(page []byte, series string) float64 {
	_, after, ok := bytes.Cut(page, []byte("\n"+series+" "))
	if !ok {
		return 0
	}
	line, _, _ := bytes.Cut(after, []byte("\n"))
	value, err := strconv.ParseFloat(string(line), 64)
	if err != nil {
		return 0
	}
	return value
}

// infoNumber is one number of what Redis says of itself; 0 when it is not there.
func infoNumber(text, name string) int64 {
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
			if err != nil {
				return 0
			}
			return n
		}
	}
	return 0
}

// looking is how many commands of Redis a look itself costs at its end, outside of what it counts.
const looking = 3

// watchIdle lets the gateway alone for a while, and says what it used.
func (r *scaleRun) watchIdle(ctx context.Context) (scaleIdle, error) {
	if !pause(ctx, 2*time.Second) { // what there was to do is done
		return scaleIdle{}, ctx.Err()
	}
	before, err := r.look(ctx)
	if err != nil {
		return scaleIdle{}, err
	}
	if !pause(ctx, r.Idle) {
		return scaleIdle{}, ctx.Err()
	}
	ops, err := r.redisOps(ctx)
	if err != nil {
		return scaleIdle{}, err
	}
	seconds := time.Since(before.at).Seconds()
	after, err := r.look(ctx)
	if err != nil {
		return scaleIdle{}, err
	}
	return scaleIdle{
		RSS: after.rss, CPUPercent: (after.cpu - before.cpu).Seconds() / seconds * 100, RedisOps: float64(ops-before.redisOps-looking) / seconds,
		RedisCPUPercent: (after.redisCPU - before.redisCPU).Seconds() / seconds * 100, MetricsBytes: after.metrics, MetricsMs: millis(max(before.took, after.took)),
	}, nil
}

// redisOps is how many commands Redis has carried out so far, those of scripts among them.
func (r *scaleRun) redisOps(ctx context.Context) (int64, error) {
	stats, err := r.client.Info(ctx, "stats").Result()
	if err != nil {
		return 0, fmt.Errorf("read statistics of redis: %w", err)
	}
	return infoNumber(stats, "total_commands_processed"), nil
}

// watchRSS notes the most memory that the gateway has, until it is stopped; then it returns that. 0: the system does not say.
func (r *scaleRun) watchRSS() (stop func() int64) {
	ended, most := make(chan struct{}), make(chan int64, 1)
	pid := r.gateway.command.Process.Pid
	go func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		peak := residentBytes(pid)
		for {
			select {
			case <-ended:
				most <- max(peak, residentBytes(pid))
				return
			case <-tick.C:
				peak = max(peak, residentBytes(pid))
			}
		}
	}()
	return func() int64 { close(ended); return <-most }
}

// residentBytes is how much memory a process has; 0 when the system does not say.
func residentBytes(pid int) int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(text))
	if len(fields) < 2 {
		return 0
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	if err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}
