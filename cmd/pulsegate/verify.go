package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/pulsegate/pulsegate/delivery"
)

// verifyCommand holds a store's ledger and indexes against each other.
type verifyCommand struct {
	Redis string `help:"Redis to verify, as for serve. Default: the redis-server of --data." placeholder:"URL"`
	Data  string `help:"Directory of a redis-server child's files: the child that runs is joined; if none does, one runs for the time being." default:"pulsegate-data"`
	JSON  bool   `help:"Print what was found as JSON." name:"json"`
}

// Validate refuses a Redis that cannot be read.
func (c verifyCommand) Validate() error {
	if c.Redis == "" {
		return nil
	}
	_, err := redisOptions(c.Redis)
	return err
}

// Run verifies once. It fails when something is wrong.
func (c verifyCommand) Run(s streams, log *slog.Logger) error {
	ctx, release := untilSignal()
	defer release()
	if err := c.checkData(); err != nil {
		return err
	}
	store, err := openStore(ctx, storeConfig{url: c.Redis, data: c.Data, banner: s.err, log: log})
	if err != nil {
		return err
	}
	defer func() {
		stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), 15*time.Second)
		defer cancel()
		if err := store.stop(stopping); err != nil {
			log.Warn("the store did not stop", "error", err)
		}
	}()
	found, err := delivery.Verify(ctx, delivery.VerifyConfig{Client: store.client, Progress: progressTo(s.err)})
	if err != nil {
		return err
	}
	if err := c.print(s.out, found); err != nil {
		return err
	}
	if !found.Balanced() {
		return fmt.Errorf("%s does not balance", store.name)
	}
	return nil
}

// checkData refuses a directory that no redis-server has run on, because an empty one would be started there and found in order.
func (c verifyCommand) checkData() error {
	if c.Redis != "" {
		return nil
	}
	if _, err := exec.LookPath("redis-server"); err != nil {
		return wrongSetting("--data %s: no redis-server is on the PATH; name the Redis with --redis", c.Data)
	}
	if _, err := os.Stat(filepath.Join(c.Data, runningLock)); err != nil {
		return wrongSetting("--data %s: no gateway has run a redis-server there; name the directory, or the Redis with --redis", c.Data)
	}
	return nil
}

// progressTo returns a function that writes a line every second when w is a terminal.
func progressTo(w io.Writer) func(string, int64) {
	file, ok := w.(*os.File)
	if !ok {
		return nil
	}
	if info, err := file.Stat(); err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return nil
	}
	next := time.Now().Add(time.Second)
	return func(what string, done int64) {
		if now := time.Now(); now.After(next) {
			next = now.Add(time.Second)
			_, _ = fmt.Fprintf(w, "%d %s read\n", done, what)
		}
	}
}

// print prints a table for each check that found something and the whole ledger in a line, or everything as JSON.
func (c verifyCommand) print(out io.Writer, found delivery.Verification) error {
	if c.JSON {
		return writeLine(out, struct {
			Balanced bool `json:"balanced"`
			delivery.Verification
		}{found.Balanced(), found})
	}
	for _, check := range delivery.Checks() {
		if err := printFindings(out, check, found.Findings); err != nil {
			return err
		}
	}
	if found.Unmeasured > 0 {
		if _, err := fmt.Fprintf(out, "not measured: the bytes of %d queues, which moved all the time\n", found.Unmeasured); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintln(out, found)
	return err
}

// checkTitles say what is wrong when a check found something.
var checkTitles = map[delivery.Check]string{
	delivery.CheckLoss:      "LOSS: data that went from the store while gateways ran",
	delivery.CheckLedger:    "LEDGER: accepted is not the sum of the fates and of what is queued",
	delivery.CheckQueue:     "QUEUE: what is noted of a queue is not what lies in it",
	delivery.CheckWindow:    "WINDOW: the sums are not those of the slots",
	delivery.CheckAttention: "ATTENTION: work that nobody looks at, or a look at nobody",
	delivery.CheckIndex:     "INDEX: registrations and indexes differ",
	delivery.CheckOutbox:    "OUTBOX: entries that are missing or will not be told",
	delivery.CheckLeftover:  "LEFTOVER: keys without a registration",
}

// longestName is how much of a name or a problem is printed.
const longestName = 1000

// printFindings prints the table of one check; nothing when there is nothing to say.
func printFindings(out io.Writer, check delivery.Check, all []delivery.Finding) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	titled := false
	for _, f := range all {
		if f.Check != check {
			continue
		}
		if !titled {
			_, _ = fmt.Fprintln(table, checkTitles[check])
			titled = true
		}
		gravity := "wrong"
		if f.Warning {
			gravity = "warning"
		}
		_, _ = fmt.Fprintf(table, "  %s\t%s\t%s\n", gravity, printable(f.Of, longestName), printable(f.Problem, longestName))
	}
	if titled {
		_, _ = fmt.Fprintln(table)
	}
	return table.Flush()
}
