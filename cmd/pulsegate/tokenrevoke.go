package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/pulsegate/pulsegate/gateway"
)

// tokenCommands make tokens and end them; without a further word one is made.
type tokenCommands struct {
	Make   tokenCommand       `cmd:"" default:"withargs" help:"Make a token with the key file and print it, alone."`
	Revoke tokenRevokeCommand `cmd:"" help:"Revoke a token, which is read from standard input or named by its id (jti): every gateway refuses it within a second."`
}

// tokenRevokeCommand revokes a token.
type tokenRevokeCommand struct {
	storeFlags
	keyFlags
	Issuer string `help:"Name of the issuer of the token, if it is not one of ours; with --jti." placeholder:"NAME" env:"PULSEGATE_REVOKE_ISSUER"`
	ID     string `help:"Id of the token, its jti. Default: the token is the first line of standard input." name:"jti" placeholder:"ID"`
}

// Validate refuses a Redis that cannot be read, and settings that do not go together.
func (c tokenRevokeCommand) Validate() error {
	if c.Issuer != "" && c.ID == "" {
		return wrongSetting("--issuer: needs --jti")
	}
	return c.check()
}

// unknownEnd is for how long a token is known as revoked of which only the id is known.
const unknownEnd = 10 * 365 * 24 * time.Hour

// Run revokes the token, whoever made it.
func (c tokenRevokeCommand) Run(s streams, log *slog.Logger) error {
	id, until := c.ID, time.Now().Add(unknownEnd)
	if id == "" {
		token, err := firstLine(os.Stdin)
		if err != nil {
			return err
		}
		claims, err := c.claims(strings.TrimSpace(token))
		if err != nil {
			return err
		}
		id, until = claims.ID, claims.Expires
	}
	return c.use(c.Data, s.err, log, func(ctx context.Context, store *gateway.AccessStore) error {
		fresh, err := store.Revoke(ctx, c.Issuer, id, until)
		if err != nil {
			return err
		}
		word := "revoked"
		if !fresh {
			word = "was revoked before:"
		}
		_, err = fmt.Fprintln(s.out, word, printable(id, longestName))
		return err
	})
}

// claims are what a token says that a key of the key file has signed.
func (c tokenRevokeCommand) claims(token string) (gateway.Claims, error) {
	keys, err := openKeys(c.path())
	if err != nil {
		return gateway.Claims{}, err
	}
	tokens, err := gateway.NewTokens(keys.tokens...)
	if err != nil {
		return gateway.Claims{}, err
	}
	claims, err := tokens.Verify(token)
	if err != nil {
		return gateway.Claims{}, fmt.Errorf("revoke token: it has ended, or none of the keys in %s has signed it: nothing needs to be revoked there", c.path())
	}
	return claims, nil
}
