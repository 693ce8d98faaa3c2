// Package gateway is the HTTP face: the routes, who may call them, and how answers and errors look on the wire. It decides nothing:
// what becomes of an event, a registration or a conversation is decided by the Carrier that it is given.
//
// # The smallest program
//
//	tokens, err := gateway.NewTokens(key)                                        // key: 32 secret bytes; more keys: a ring
//	g, err := gateway.New(gateway.Config{Carrier: carrier, Tokens: tokens})
//	public := gateway.Server("127.0.0.1:8080", g.Handler())
//	ops := gateway.Server("127.0.0.1:9090", g.OpsHandler())
//
// The caller starts and stops the servers, calls Drain before it stops them, and registers g, which is a prometheus.Collector.
//
// # A request
//
// Echo finds the route, and from there on everything happens in one place, serve: the request gets an id; its token is verified and
// the token's scope held against the route; query and body are read within their limits; the route's handler is asked, with a
// deadline; its answer or its error is written, with the id in header and body; it is counted. A handler sees neither echo nor a
// ResponseWriter: it gets a call and returns an answer or an error, and is a few lines long.
//
// # Routes
//
// All paths but those written out begin with /bots/v3 and need a bearer token. A token's company is the only one that it can see:
// what belongs to another looks as if it did not exist. A bot's token is good for its own app ID, and 403 is the answer elsewhere.
//
//	POST   events                                            admin, source   one event, an array, or one per line: 202
//	GET    events/{id}                                       admin, source   what became of it, a row per registration
//	GET    registrations                                     admin, bot      all of the company; a bot its own
//	POST   registrations                                     admin, bot      create: 202
//	PUT    registrations                                     admin, bot      create or replace: 202
//	GET    registrations/network/{n}/externalId/{e}          admin, bot      those of one entity; a bot its own
//	GET    …/appId/{a}                                       admin, bot      one
//	DELETE …/appId/{a}                                       admin, bot      204
//	PUT    …/appId/{a}/mode/{mode}                           admin, bot      202
//	GET    health/appId/{a}                                  admin, bot      an element per registration
//	GET    control/network/{n}/externalId/{e}/author/{…}     admin, bot      who owns the conversation
//	PUT    control                                           admin, bot      pass it on: 200 and the object as it came
//	GET    request/{id}                                      admin, bot      one record; its payload is JSON
//	POST   request/{id}/redeliver                            admin, bot      the same delivery once more: 202
//	GET    request/appId/{a}?from=1d&state=ERROR&origin=BOT  admin, bot      records; their payloads are strings
//	PUT    tokens/appId/{a}                                  bot             refresh its token: the old one stays good for 10 minutes
//	DELETE tokens/appId/{a}                                  admin, bot      revoke it
//	GET    handoffs, notices ?appId= &limit=                 admin, bot      newest first
//	GET    audit ?from= &limit= &before= &appId=             admin           who did what, newest first
//	PUT    tag, tag/remove, note, priority, workqueue,       admin, bot      passed on to the platform, not in MAINTENANCE
//	       resolve, authors, authors/attributes
//	POST   respond, form                                     admin, bot      the same, only for a LIVE bot that owns the conversation
//	GET    /openapi.yaml                                     anybody         all of this, as OpenAPI 3.1
//	POST   /api/v2/tokens/khorosapi/ownerId/{a}              by password     make the bot's one token, for 90 days: 409 if there is one
//	GET    the same                                          by password     that token
//	GET    /healthz, /readyz                                 anybody         on both listeners; /metrics on that for operators
//
// # Errors
//
// One table, faults, leads from errors to answers. There are four envelopes, each with the request id, and one of an older API:
//
//	{"error":{"messages":[…]},"requestId":…}     in general
//	{"error":{"message":…},"requestId":…}        404 of registrations
//	{"error":{"message":"Unauthorized","requestId":…}}   401
//	{"status":"fail","message":…}                /api/v2; 400 of a token that is revoked is {}
//	{"errors":[…],"requestId":…}                 400, 409 and 422 of a registration that is written; 500 of a deletion
//
//	400  a body, a path or a query that is not understood     413  a body over 8 MiB, more than 1,000 events
//	401  no good token                                        422  an event or a registration with wrong values; a key used twice
//	403  scope, another bot, mode, ownership                  500  our own fault: constant words, one line in the log
//	404  it does not exist, or is another company's           501  no platform is set
//	405  another method                                       502  the platform did not answer
//	429  more requests than the token is good for, or too many wrong passwords: Retry-After
//	408  the body did not arrive in time                      503  the store is away or full, or too many bytes come in: Retry-After
//	409  it exists; another is LIVE; ten there are; control has changed; a delivery is under way, or its bot in MAINTENANCE
//	410  a delivery whose payload, or whose registration, is there no more
//
// Events of one request fail singly: 202 if any was stored, and a row per event, in order. If none was, the status is the first
// of 503, 500, 400, 422, 404 that any of them has.
//
// # Bodies
//
// JSON is read strictly: no key twice in one object, valid UTF-8, nothing behind the value, at most 100 deep; the fault is named with
// its offset. Events are cut apart and handed on byte for byte. Members that nobody knows are ignored; the empty string and null
// count as absent. A registration's problems, those of types and those of values, are answered all at once.
//
// # Failures and crashes
//
// The gateway itself keeps nothing, and its Access only in Redis: a crash loses requests under way and no more. 202 is written after the carrier has said that the events
// are stored. Calls of bots are recorded after they were made; a crash in between loses the record, not the call.
//
// # Concurrency
//
// A Gateway, its Tokens, its Access and its Issuer are safe for concurrent use. A Gateway starts no goroutine. Whoever makes an Access or
// an Issuer runs it: Access.Run ends when the leases under way have ended, each of which is a goroutine.
//
// # Decisions
//
//   - Keys form a ring: the first signs, all verify. A token names its key in "kid", to the letter or not at all; tokens of before
//     keys had names are held against every key.
//   - Our own tokens are HS512 with a key of the ring, those of another issuer RS256, ES256 or EdDSA with a public key of the one kind
//     that goes with the algorithm: no key serves both, so that no algorithm can be passed off for another.
//   - The keys of another issuer are read in the background: a token that names an unknown key is refused at once, and has them read again, at
//     most every ten seconds. While they cannot be read, those known are good for an hour.
//   - A full listener closes the connection that has waited longest for a whole request: slow senders push out each other.
//   - A certificate that has changed and cannot be read leaves the old one in use: a half-written file is read again a second later.
//   - There is no pprof: what a heap holds is what must not be shown.
//   - Handlers do not see echo: version 4 gets fixes until 2026-12-31, and the step to version 5 is to change router.go.
//   - Signing uses a key derived from the one given (HKDF), so that a token never tells anything of other uses of that secret.
//   - Tokens found good are remembered by their digest until they end: verifying one costs half of what an event costs here. The list of
//     revoked tokens is asked after that, for each request.
//   - The list of revoked tokens lies in Redis, each entry until its token ends; every gateway has a copy and looks for more four times a
//     second. One that cannot read it goes on for a minute, and then answers 503 to every token until it can: most of what a token is good
//     for needs the same store, and nothing can be revoked while that is away. A store that lost the list is told it again by every gateway.
//   - Tokens end by the store's clock. That of the machine counts only until the store has been heard once.
//   - Revoking a bot's token revokes those that were refreshed into it in the last ten minutes, a hundred at most: of more, the oldest end at once.
//   - A body without a declared type whose first line is broken is cut by lines if another line is an object of its own.
//   - Of a request that fits no route, or comes without a good token, no byte of the body is read.
//   - A list has at most 16 MiB of payloads, so that no number of big failures makes it a reply that stalls the store or fills the memory.
//   - A bot's token made here is nowhere kept: what is kept of it, its id, its times and the name of its key, makes the same one again.
//   - PUT of the same token again is answered with the same new one, so that a bot can repeat a call whose answer was lost.
//   - Ten wrong passwords for one name, over all gateways, and then one every six seconds; who guesses locks that administrator out, too, for
//     as long. Passwords are looked at one by one in each gateway. Those of names that nobody has stand in a line of their own, and more than two
//     a second of them are not looked at: a loop over made-up names would take a core otherwise. Whoever asks that often can tell that a name is unknown.
//   - The allowance of a token is kept in Redis; gateways borrow parts of a fiftieth of a second ahead of need, so that a request costs no
//     round trip. Each may be off by one such part. Without the store the limit holds for each gateway by itself.
//   - The request id of a call by a bot is that of its record, so that it can be looked up; of every other call it is a UUID.
//   - 400 and 409 of a written registration use the envelope of its 422: the API documents one shape for all 4xx of that call.
//   - An event over 256 KiB is its own fault (422), since the others of its request may be stored; a body over 8 MiB is 413.
//   - A conversation that nobody owns is answered with the owner type UNDETERMINED, so that owner.type is always there.
//   - A bot reads its own registrations only: another's is 403, and listings leave others out. In the API that it was written for any valid
//     token could list; but tokens are bound to one app ID there as well, no known bot reads another's registration, and these tell
//     callback addresses and the mail addresses of people. An administrator's token lists all.
//   - A listing of all registrations is sent as it is read, and broken off if the store goes away, so that nobody takes a part for the whole.
//     Ours: ?limit (1 to 10,000) and ?after page through it; "next" says where the next page begins.
//   - from=32d is answered like any other wrong text in "from"; the documented bound is 31 days.
//   - The platform's 401 and redirects are between it and the gateway, so the bot reads 502; every other answer of it is passed on.
//   - The bytes of request bodies in memory are bounded over all requests, and who does not fit reads 503 at once: a queue would only
//     hold more of them.
//   - The audit trail has what was done or may have been done, not what was refused: a caller with a bad token could fill it otherwise.
//   - Nothing but failures of our own is logged per request: the rest is counted, and told to the caller.
package gateway
