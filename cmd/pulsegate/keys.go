package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/pulsegate/pulsegate/delivery"
)

// keysCommands are what can be done with the keys of a key file.
type keysCommands struct {
	List   keysListCommand   `cmd:"" help:"Show the keys of the key file, what is sealed with each, and how many gateways have it."`
	Rotate keysRotateCommand `cmd:"" help:"Replace the current key while the gateways serve; may be broken off and run again."`
	Remove keysRemoveCommand `cmd:"" help:"Take a key out of the key file that nothing is sealed with."`
}

// vaultFlags say which key file and which store.
type vaultFlags struct {
	keyFlags
	storeFlags
}

// Validate refuses a Redis that cannot be read.
func (f vaultFlags) Validate() error { return f.check() }

// vault is a key file and the store that it belongs to, open.
type vault struct {
	*delivery.Vault
	file keyFile
	ring keys
}

// use opens key file and store, lets do work on them, and closes the store.
func (f vaultFlags) withVault(s streams, log *slog.Logger, do func(context.Context, vault) error) error {
	if err := (verifyCommand{Redis: f.Redis, Data: f.Data}).checkData(); err != nil {
		return err
	}
	file, ring, err := readKeyFile(f.path())
	if err != nil {
		return err
	}
	sealer, err := delivery.NewSealer(ring.secrets...)
	if err != nil {
		return err
	}
	return f.open(f.Data, s.err, log, func(ctx context.Context, at *store) error {
		v := vault{Vault: delivery.NewVault(at.client, sealer, log), file: file, ring: ring}
		if err := v.fits(ctx); err != nil {
			return err
		}
		return do(ctx, v)
	})
}

// fits is nil when the file has every key that the store needs.
func (v vault) fits(ctx context.Context) error {
	required, err := v.Required(ctx)
	if err != nil {
		return err
	}
	for _, id := range required {
		if !slices.Contains(v.ring.ids(), id) {
			return wrongSetting("--key-file %s: it lacks key %s, which secrets in this Redis are sealed with; it has %s", v.file.path, id, strings.Join(v.ring.ids(), ", "))
		}
	}
	return nil
}

// keysListCommand shows keys.
type keysListCommand struct{ vaultFlags }

// Run prints a table, a line for each key. It prints names of keys, never keys.
func (c keysListCommand) Run(s streams, log *slog.Logger) error {
	return c.withVault(s, log, func(ctx context.Context, v vault) error {
		found, err := v.Count(ctx, nil)
		if err != nil {
			return err
		}
		rings, err := v.Rings(ctx)
		if err != nil {
			return err
		}
		if err := v.print(s.out, found, rings); err != nil {
			return err
		}
		if n := len(found.Unreadable); n > 0 {
			return fmt.Errorf("%d registrations have a secret that no key of the file opens; the first is %s", n, printable(found.Unreadable[0], longestName))
		}
		return nil
	})
}

// print prints the table of keys.
func (v vault) print(out io.Writer, found delivery.Sealed, rings map[string][]string) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "KEY\tUSE\tSECRETS\tGATEWAYS")
	for i, id := range v.ring.ids() {
		use := "opens and verifies"
		if i == 0 {
			use = "seals and signs"
		}
		have := 0
		for _, ids := range rings {
			if slices.Contains(ids, id) {
				have++
			}
		}
		_, _ = fmt.Fprintf(table, "%s\t%s\t%d\t%d of %d\n", id, use, found.Secrets[id], have, len(rings))
	}
	return table.Flush()
}

// keysRemoveCommand takes a key out.
type keysRemoveCommand struct {
	vaultFlags
	Key       string `arg:"" help:"Name of the key, as keys list shows it."`
	EndTokens bool   `help:"Say that the tokens that were signed with it may end now."`
}

// Run removes the key if nothing is sealed with it any more, and nothing will be.
func (c keysRemoveCommand) Run(s streams, log *slog.Logger) error {
	return c.withVault(s, log, func(ctx context.Context, v vault) error {
		if err := v.removable(ctx, c.Key); err != nil {
			return err
		}
		if !c.EndTokens {
			return wrongSetting("key %s seals nothing any more, but tokens that were signed with it end when it goes: say --end-tokens when they may, which is at the latest 90 days after the rotation unless tokens were made with a longer --ttl", c.Key)
		}
		i := slices.Index(v.ring.ids(), c.Key)
		f := keyFile{path: v.file.path, lines: slices.Delete(slices.Clone(v.file.lines), i, i+1)}
		if err := f.write(); err != nil {
			return err
		}
		_, err := fmt.Fprintf(s.out, "key %s is removed from %s; running gateways forget it within %v\n", c.Key, f.path, watchEvery)
		return err
	})
}

// removable is nil when nothing hangs on a key but tokens.
func (v vault) removable(ctx context.Context, id string) error {
	switch slices.Index(v.ring.ids(), id) {
	case -1:
		return wrongSetting("key %s: it is not in %s; pulsegate keys list shows those that are", printable(id, longestName), v.file.path)
	case 0:
		return wrongSetting("key %s: it is the current one; replace it first, with pulsegate keys rotate", id)
	}
	required, err := v.Required(ctx)
	if err != nil {
		return err
	}
	found, err := v.Count(ctx, nil)
	if err != nil {
		return err
	}
	if n := found.Secrets[id]; n > 0 || slices.Contains(required, id) {
		return wrongSetting("key %s: %d secrets are sealed with it; seal them anew first, with pulsegate keys rotate", id, n)
	}
	return nil
}
