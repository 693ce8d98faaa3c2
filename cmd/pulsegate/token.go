package main

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/pulsegate/pulsegate/gateway"
)

// keyFlags say where the key file is; serve and token share them, so that both find the same one.
type keyFlags struct {
	Data    string `help:"Directory of the key file and of a redis-server child's files." default:"pulsegate-data"`
	KeyFile string `help:"File of the secret that signs tokens and seals secrets; made if absent. Default: pulsegate.key in --data." placeholder:"FILE"`
}

// path is where the key file is.
func (k keyFlags) path() string {
	if k.KeyFile != "" {
		return k.KeyFile
	}
	return filepath.Join(k.Data, "pulsegate.key")
}

// tokenCommand makes a token.
type tokenCommand struct {
	keyFlags
	Scope   string        `help:"What the token is for: admin, source or bot." enum:"admin,source,bot" default:"admin"`
	Company string        `help:"Company key that the token belongs to." required:"" placeholder:"KEY"`
	AppID   string        `help:"App ID of the bot, for --scope bot." name:"app-id" placeholder:"ID"`
	TTL     time.Duration `help:"How long the token is good for." name:"ttl" default:"2160h"`
}

// Validate refuses settings that contradict each other.
func (t tokenCommand) Validate() error {
	switch {
	case t.Scope == "bot" && t.AppID == "":
		return wrongSetting("--scope bot: needs --app-id")
	case t.Scope != "bot" && t.AppID != "":
		return wrongSetting("--app-id: only for --scope bot")
	case t.TTL <= 0:
		return wrongSetting("--ttl %v: must be positive", t.TTL)
	}
	return nil
}

// Run prints the token alone.
func (t tokenCommand) Run(s streams) error {
	keys, err := openKeys(t.path())
	if err != nil {
		return err
	}
	token, err := signToken(keys, gateway.Claims{CompanyKey: t.Company, Scope: gateway.Scope(t.Scope), AppID: t.AppID}, t.TTL)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(s.out, token)
	return err
}

// signToken signs claims with the key of tokens.
func signToken(k keys, claims gateway.Claims, ttl time.Duration) (string, error) {
	tokens, err := gateway.NewTokens(k.tokens...)
	if err != nil {
		return "", err
	}
	return tokens.Sign(claims, ttl)
}
