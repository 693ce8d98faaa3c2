package main

import (
	"io"

	"github.com/alecthomas/kong"
)

// commandLine is every command and every flag; --help prints it.
type commandLine struct {
	Serve  serveCommand  `cmd:"" help:"Run the gateway."`
	Token  tokenCommands `cmd:"" help:"Make tokens with the key file, and revoke them."`
	Admin  adminCommands `cmd:"" help:"Manage who may make the tokens of bots by name and password."`
	Bot    botCommand    `cmd:"" help:"Run a sample bot that prints what it gets."`
	Demo   demoCommand   `cmd:"" help:"Watch three bots, one of them dying, in half a minute; ends by itself."`
	Bench  benchCommands `cmd:"" help:"Measure the gateway on this machine; ends by itself."`
	Keys   keysCommands  `cmd:"" help:"List, replace and remove the keys that sign tokens and seal secrets."`
	Verify verifyCommand `cmd:"" help:"Check that every accepted event has its fate or is queued; exits with 1 and what is wrong, if something is."`

	BenchRelay benchRelayCommand `cmd:"" hidden:"" help:"Run the bare relay of a bench."`
	BenchBots  benchBotsCommand  `cmd:"" hidden:"" help:"Run the bots of a bench."`
	BenchLoad  benchLoadCommand  `cmd:"" hidden:"" help:"Run the load generator of a bench."`

	LogLevel string `help:"Least severity that is logged: debug, info, warn or error." enum:"debug,info,warn,error" default:"info"`
}

// benchCommands are what can be measured; without a further word it is the relay.
type benchCommands struct {
	Relay benchCommand `cmd:"" default:"withargs" help:"Measure the gateway beside a bare relay."`
	Scale scaleCommand `cmd:"" help:"Measure what many idle registrations cost, and how big backlogs are borne."`
}

// streams are where a command writes: what it was asked for to out, everything about itself to err.
type streams struct{ out, err io.Writer }

// runner is a parsed command line that can be run once.
type runner struct {
	context *kong.Context
	level   string
}

// Run does what the command line asks for.
func (r runner) Run(s streams) error {
	log, err := newLog(s.err, r.level)
	if err != nil {
		return err
	}
	return r.context.Run(s, log)
}

// parse reads arguments and environment; a wrong one is a *kong.ParseError or a *settingError.
func parse(args []string, stdout, stderr io.Writer) (runner, error) {
	line := new(commandLine)
	parser, err := kong.New(line,
		kong.Name("pulsegate"),
		kong.Description("A webhook gateway between a messaging platform and bots: it delivers events, judges the bots' health, and hands conversations to people when a bot cannot be reached."),
		kong.DefaultEnvars("PULSEGATE"),
		kong.Writers(stdout, stderr),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
	)
	if err != nil {
		return runner{}, err
	}
	context, err := parser.Parse(args)
	if err != nil {
		return runner{}, err
	}
	return runner{context: context, level: line.LogLevel}, nil
}
