package main

import (
	"fmt"
	"io"
	"time"

	"github.com/pulsegate/pulsegate/gateway"
)

// tryCompany is the company of the lines that --try prints.
const tryCompany = "demo"

// printTry prints an admin token and three lines that can be pasted as they are.
func (c serveCommand) printTry(out io.Writer, i *instance) {
	token, err := signToken(i.keys, gateway.Claims{CompanyKey: tryCompany, Scope: gateway.ScopeAdmin}, 24*time.Hour)
	if err != nil {
		_, _ = fmt.Fprintln(out, "no token:", err)
		return
	}
	_, _ = fmt.Fprintf(out, `
An admin token of the company %[1]q, good for a day:

TOKEN=%[2]s

In another terminal, a bot to talk to:  pulsegate bot   (or: go run ./cmd/pulsegate bot)
Then set TOKEN as above, and register the bot, send it an event, read its health:

curl -sS -X PUT %[4]s://%[3]s/bots/v3/registrations -H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json' -d '{"platform":"LITHIUM","companyKey":"%[1]s","networkKey":"chat","externalId":"page-1","appId":"my-bot","name":"My bot","callbackUrl":"http://127.0.0.1:8081/","credentials":{"type":"BASIC_AUTH","identity":"me","secret":"s3cret"},"mode":"LIVE"}'
curl -sS -X POST %[4]s://%[3]s/bots/v3/events -H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json' -d '{"type":"message","text":"hello","coordinate":{"companyKey":"%[1]s","networkKey":"chat","externalId":"page-1","messageId":"m-1","scope":"PRIVATE"},"author":{"id":"ann"}}'
curl -sS %[4]s://%[3]s/bots/v3/health/appId/my-bot -H "Authorization: Bearer $TOKEN"

`, tryCompany, token, i.api.Addr(), i.scheme())
}
