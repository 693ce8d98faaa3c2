package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/pulsegate/pulsegate/gateway"
)

// adminCommands manage who may make the tokens of bots.
type adminCommands struct {
	Add    adminAddCommand    `cmd:"" help:"Add an administrator, or give one another password; it is read from standard input or a file."`
	List   adminListCommand   `cmd:"" help:"List the administrators."`
	Remove adminRemoveCommand `cmd:"" help:"Remove an administrator."`
}

// adminFlags say where the administrators are kept.
type adminFlags struct {
	storeFlags
	Data string `help:"Directory of a redis-server child's files." default:"pulsegate-data"`
}

// Validate refuses a Redis that cannot be read.
func (f adminFlags) Validate() error { return f.check() }

// adminAddCommand adds an administrator.
type adminAddCommand struct {
	adminFlags
	Name         string `arg:"" help:"Name that the administrator gives."`
	Company      string `help:"Company key whose bots' tokens the administrator makes." required:"" placeholder:"KEY"`
	PasswordFile string `help:"File whose first line is the password. Default: the first line of standard input." placeholder:"FILE"`
}

// Run reads the password and keeps its hash.
func (c adminAddCommand) Run(s streams, log *slog.Logger) error {
	password, err := c.password()
	if err != nil {
		return err
	}
	return c.use(c.Data, s.err, log, func(ctx context.Context, store *gateway.AccessStore) error {
		if err := store.AddAdministrator(ctx, c.Name, c.Company, password); err != nil {
			return fmt.Errorf("add administrator: %w", err)
		}
		_, err := fmt.Fprintf(s.out, "added %s of %s\n", printable(c.Name, longestName), printable(c.Company, longestName))
		return err
	})
}

// password is the first line of the file, or of standard input.
func (c adminAddCommand) password() (string, error) {
	from := os.Stdin
	if c.PasswordFile != "" {
		file, err := os.Open(c.PasswordFile)
		if err != nil {
			return "", wrongSetting("--password-file: %v", err)
		}
		defer func() { _ = file.Close() }()
		from = file
	}
	return firstLine(from)
}

// firstLine reads the first line of a short text.
func firstLine(from io.Reader) (string, error) {
	text, err := io.ReadAll(io.LimitReader(from, 64<<10))
	if err != nil {
		return "", fmt.Errorf("read secret: %w", err)
	}
	line, _, _ := strings.Cut(string(text), "\n")
	line = strings.TrimSuffix(line, "\r")
	if line == "" {
		return "", errors.New("read secret: the first line is empty")
	}
	return line, nil
}

// adminListCommand lists them.
type adminListCommand struct{ adminFlags }

// Run prints a table.
func (c adminListCommand) Run(s streams, log *slog.Logger) error {
	return c.use(c.Data, s.err, log, func(ctx context.Context, store *gateway.AccessStore) error {
		all, err := store.Administrators(ctx)
		if err != nil {
			return err
		}
		slices.SortFunc(all, func(a, b gateway.Administrator) int { return strings.Compare(a.Name, b.Name) })
		table := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
		for _, a := range all {
			_, _ = fmt.Fprintf(table, "%s\t%s\t%s\n", printable(a.Name, longestName), printable(a.Company, longestName), a.Since.Format(time.RFC3339))
		}
		return table.Flush()
	})
}

// adminRemoveCommand removes one.
type adminRemoveCommand struct {
	adminFlags
	Name string `arg:"" help:"Name of the administrator."`
}

// Run removes it; none of that name is a failure.
func (c adminRemoveCommand) Run(s streams, log *slog.Logger) error {
	return c.use(c.Data, s.err, log, func(ctx context.Context, store *gateway.AccessStore) error {
		there, err := store.RemoveAdministrator(ctx, c.Name)
		switch {
		case err != nil:
			return err
		case !there:
			return fmt.Errorf("there is no administrator %s", printable(c.Name, longestName))
		}
		_, err = fmt.Fprintf(s.out, "removed %s\n", printable(c.Name, longestName))
		return err
	})
}
