package main

import (
	"context"
	"fmt"
	"io"
	"net"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
)

// embeddedStore returns a store that lives in this process and is lost with it, and says so on banner.
func embeddedStore(banner io.Writer) *store {
	server := miniredis.NewMiniRedis()
	server.ClockTTL(true) // keys expire as real time passes
	options := baseOptions()
	options.Addrs = []string{"in-process:0"} // a name for messages; no port is open
	options.Dialer = func(context.Context, string, string) (net.Conn, error) {
		conn, err := server.Dial()
		if err != nil {
			return nil, err
		}
		return newRoomyPipe(conn), nil
	}
	client := redis.NewUniversalClient(options)
	_, _ = fmt.Fprint(banner, `
  ****************************************************************************
  *  No redis-server on the PATH: events live in this process only.          *
  *  THEY DO NOT SURVIVE ITS END. Good for trying things out, nothing else.  *
  *  Install redis-server 6.2 or newer, or name one with --redis.            *
  ****************************************************************************

`)
	return &store{
		client: client,
		name:   "in-process store",
		tier:   tierMemory,
		inside: true,
		stop: func(context.Context) error {
			err := client.Close()
			server.Close()
			return err
		},
	}
}
