// Package delivery carries an accepted event to its fate.
//
// # The way of an event
//
//	accept ─▶ queue ─▶ claim ─▶ try ─▶ settle ─▶ judge ─▶ outbox
//	(script)  (Redis)  (script) (HTTP) (script)  (Go)     (notify)
//
// Accept reads the envelope, finds the entity's registrations, and stores the event with one script call for each shard: from its
// reply on, the event is safe. The replica that stores an event for an idle registration gets its lease in the same step and works
// on it at once, in a lane: one goroutine for each registration that has work. The lane starts tries (events of one author in order,
// authors in parallel), settles what ended in one script call, and judges the counts that came back.
//
// # Concepts
//
//	registration  a bot on an entity, in a mode, at a version of the entity
//	delivery      one event for one registration; it ends in exactly one fate
//	try           one HTTP request; a delivery has at most two
//	outcome       how a delivery ended; a value, never an error
//	lease         the right to work on a registration, with a fencing token; 6 s, renewed every 2 s
//	lane          this replica's work on a registration that it holds
//	slot          the right to have a try in flight; a lane takes one for each try, and its events wait in the lane until there is one
//	pace          how near to each other a registration's tries may begin (maxPerSecond)
//
// # Which outcome leads to what
//
//	acknowledged (200, 202)             delivered    counted
//	anything else, after the last try   failed       counted; a customer's message is handed off
//	the bot is DOWN and paused          suppressed   counted as failed; handed off
//	the queue is full                   overflow     not counted; handed off
//	its time was up before a try        expired      not counted; handed off
//	the mode became MAINTENANCE         maintenance  not counted; a job hands off
//	the registration was deleted        withdrawn    not counted; a job hands off
//	the public filter does not admit    filtered     not counted; no handoff
//
// # Time
//
// An event is of use until its expiresAt, and waits for at most its registration's timeToLiveMs; where events are held, and that is not
// set, for at most the gateway's --hold-time. One whose time is up before its first try has expired: within a second, whether it lies behind
// a hanging event of its author, beyond what the lane has read, or in the queue of a bot that is DOWN; after a kill, within a second of the
// end of the lease. What is under way is never cut off. What the registration says now holds for all that waits. There is no timer for
// an event: those with a time of their own stand in a sorted set of the registration (x), whose first is noted in its standing (xp);
// the others expire in the order of the queue. A lane looks when the first of them does, and a registration without a lane is due then.
//
// # Events that are held
//
// With whenDown hold what waits stays in the queue while the bot is DOWN, and is no failure. After each pause the head of the queue is the
// trial. It fails: the bot is DOWN again whatever the counts, and the event stays where it is, without a fate and without an outcome. It is
// acknowledged: DOWN is over, and the rest follows in order. Its time is up: it expires, and what comes next is the next trial; when nothing
// is left, DOWN ends with an empty window. A full queue overflows, MAINTENANCE and deletion end what is held at once, as any
// other queue. Becoming DOWN hands the conversations over here too: customers do not wait for a bot that is away, and what is held comes to
// it later with an owner that says AGENT.
//
// # Deliveries made once more
//
// A failed delivery can be made once more from the payload in its record: a new delivery, with a request id of its own, of the same event,
// with its webhook-id. It goes to the end of the queue like any other and obeys all that holds there, but says nothing new of the
// conversation, and the event's expiresAt and the public filter, which were heeded the first time, are not asked again.
//
// # Crashes
//
// A process that dies leaves queued events and leases. The leases end after 6 s; whoever looks next takes them and goes through the
// same claim as always. A try whose outcome was not settled is made again, with the same webhook-id. An outcome enters the window in
// the step that removes its event from the queue, so it enters once. Each script says what a crash right there means.
//
// # Concurrency
//
// All exported methods are safe for concurrent use. Carrier.Run owns every goroutine; lanes own their tries and wait for them.
// Calls that gather while a round trip is under way go together in the next (batcher).
//
// # Decisions
//
//   - The outbox is a sorted set of due times over a hash of entries, not a stream with a consumer group: each entry has its own backoff
//     and its own takeover time, a slow one never blocks another, and there is no group that could be lost. Replicas poll it twice a
//     second with the same call that looks for due work, and signal themselves at once for what they wrote.
//     A transition that nobody is told of never lies in it: it is listed as kept in the step that makes it.
//   - Rules about registrations are checked in Go against one version of the entity, and stored only if it is still that version. So the
//     rules are plain functions, and two replicas cannot break them together.
//   - A lane of another replica hears of new events by a published message; if that is lost, its renewal finds them within 2 s.
//   - A lane keeps its lease for half a second after its last work, if the lane before it gave it back less than that ago: the next event then
//     starts without a claim. Where events are further apart a lane gives the lease back in the step that settles its last. The price is that after a
//     kill a registration that lingers waits for the end of the lease, as a busy one does.
//   - A server with appendfsync everysec answers before it has written while a sync is under way: killed then, 540 events of 4,096 that it had
//     confirmed were gone. So accepts and changes ask it, on the same connection, and wait for the end of the sync.
//   - A server with appendfsync everysec whose disk fills up answers the calls of that moment as if they were written, keeps them in its memory and
//     writes them when there is room; killed before, it forgets them. To know better would take a second round trip for each accept.
//   - A settlement takes each event out of the queue by itself, and believes only what it took: those that are not there were settled before, by a call
//     whose reply was lost, or forgotten by a promoted replica, in any order. One XDEL for all would save 0.8 us of an event's 28 and not tell which.
//   - A gateway starts on a full store, takes leases there, and drains it: nothing that is written at the start is written again.
//   - The totals are read by a script, not in a transaction: a full Redis refuses every command inside one.
//   - Verify holds the sum over all registrations against the ledger of the store. Counters only grow, so that the sum must lie between the ledger before
//     and after, whatever moves meanwhile.
//   - On a single server one script call carries all shards of a batch; on a cluster there is one for each shard.
//   - All ongoing conversations are known by their last message, whoever owns them, so that one that comes back to the bot is ongoing.
//   - Metadata and health of an event are always the gateway's: a source's own metadata becomes {} where the registration has none. The
//     owner is the gateway's on messages; on a control event it is what the event tells, and on others it is passed on as it came.
//   - On an entity with a LIVE bot a message whose owner is another bot becomes the LIVE bot's: the other could never answer.
//   - A second try, and any event that waited, asks the store first: whether the bot is DOWN, whether the registration changed, and, for
//     a first try, who owns the conversation. Only what was heard within 100 ms starts without asking, and only if no change of the
//     registration or of a conversation there was told of since; whoever asks, asks for the 256 events that may start next as well.
//   - A lane never waits past its lease: for its turn to judge it waits a second, renews, and waits again. Should it be waiting for a store that does not
//     answer when the lease ends, a timer ends its tries.
//   - A blocked address gets no second try: no connection was opened, and none would be. A name is blocked if any of its addresses is, so
//     that what becomes of a delivery does not hang on which of them was tried first.
//   - A second try whose first had no answer goes over a new connection: a kept one may be dead without a sign of it (HTTP/2 above all,
//     where all tries share one), and would cost the delivery instead of the try.
//   - A request body can be sent once. net/http repeats requests over HTTP/2 that it can rewind, even some that the bot has read, and the
//     ledger would know of one try where the bot saw several.
//   - Over http without TLS a try writes and reads its connection itself (plain); net/http only parses the answer. http.Transport hands every byte
//     from goroutine to goroutine, which took a fifth of what an event costs. TLS, HTTP/2, large events and second tries stay with it.
//   - A response's status decides; its body is read for half a second and 64 KiB at most, to keep the connection. An HTTP/2 stream's window
//     is as large as that. A bot that keeps sending past its window wastes the bandwidth of its own connection until that is idle for a minute.
//   - Registrations that bring certificates of their own have connections of their own, for up to 256 different sets of certificates.
//   - The ledger of the store is written once for each script call, into that of the first shard that the call touches: only sums over all
//     shards mean anything. So the totals cost the same however many registrations there are, and outlive those that are deleted.
//   - Only entities with traffic are remembered between calls, in two generations of bounded size: an idle registration takes no memory here.
//   - All lanes together hold at most 32 MiB of events that were read, and each may always hold its share. When more than 2,048 registrations
//     have work, they take turns of two seconds.
//   - A new registration starts at full width. One whose address, credentials or mode changed starts with one delivery at a time.
//   - Tries in flight go by how a registration's tries have ended so far: a slow one gets no slot of the half that is kept for the others.
//     A plain bound on all of them, first come, first served, is full as soon as 512 registrations hang.
//   - A pace spaces tries evenly, 2 % below what a registration allows, so that no second sees more, and no burst begins one. A lane keeps
//     the lease until its next try would be allowed, and one that takes over from a dead holder waits that long first: no two holders
//     together make too many.
//   - An event whose expiresAt is past when it comes is accepted, and has expired: its source learns the fate as for any other, the customer
//     goes to an agent, and a batch is not refused for the clock of one machine. A time before 1973 is refused: that is seconds.
//   - A panic at one payload costs its tries, and one in a lane the rest of its lease. The process lives.
//   - A gateway that is started again takes over its former process's leases at once: a locked file in its data directory tells that it is
//     dead (Config.Lineage). A process that is merely paused keeps the lock, and its leases run out as any. It is believed for the first 6 s
//     only, and the fencing token refuses whoever lost its lease. Other gateways still wait for the end of the lease, at most 6 s and a look.
//   - What a draining gateway accepts is not claimed by it: it is due at once, for whoever looks next.
//   - Pulsegate-Try begins at 1 again after a takeover: which events the dead holder had tried is not stored, and storing it would cost a
//     write for each try.
//   - Request and event ids hold the shard and a digest of the registration or entity, so that a record is found without an index: the log
//     is read from the time in the id on.
//   - While a part of the store is known to be away nothing is asked of it but one probe, a write that changes nothing, every 200 ms; all else
//     fails at once. A part is the whole of a single server, or one shard of a cluster. Only the probe finds it well again.
//   - An accept takes two seconds in all: one at most in the queue, where nothing of it has been sent yet, and one for its batch.
//   - On a cluster each master has batches of its own, sent to it directly. The client's own repetitions would store an event without an id twice.
//   - What no replica confirmed is refused, though it may be stored, and is then delivered once; with an id its repetition is answered alike. An
//     event seen before waits for the replica too. Settling does not wait: what a failover forgets of it is delivered again, which at least once allows.
//   - What is as it usually is has scripts of its own (accept_plain, settle_plain): messages for a LIVE bot alone, whose lease this replica holds or
//     takes; acknowledgements of a HEALTHY bot, whose lease is given back in the same step. They look at every fact that makes an event usual before they write
//     anything, and leave the others to the scripts that know all, in a second round trip. They take 30 us of Redis an event where those take 39, and
//     60 us instead of 95 where each event is for another registration.
//   - Acknowledgements that nobody waits for are settled at common moments, 5 ms apart (beat), so that one script call settles those of all lanes.
//     Until then they are in the memory of the process only: what a bot acknowledged in the last 5 ms before a kill is delivered again, like what it
//     was still at. A failure, and whatever another event waits for, is looked at once.
//   - Goroutines that make tries, and those of lanes, are kept (crew): a new one would grow its stack each time.
//   - Groups of one script are isolated inside it (pcall), and not run again alone: a script that failed midway has written, and a second run would
//     store events without an id twice. The LIVE bot's delivery comes first: if it fails the event is refused and its id forgotten; if another's
//     fails that one goes without, is named in the log and counted. An event that has left its queue keeps its fate whatever cannot be written beside it.
//   - Who changed what is noted before it is done, and again when it is done: a note that has no end is listed as unknown, so the audit trail
//     can say too much but never too little. One note behind the change would be lost with the process that was about to write it. It lies in
//     the company's slot, not the entity's, so that a company's trail is one list; that costs a change two round trips.
//   - Of the round trips that lanes and the timer make on their own (transitions, judgements, registrations) eight are under way at once: what
//     thousands of lanes want at one moment takes no connection from the batches, and the timer keeps no look from claiming.
//   - Whether a store has lost something is looked at twice a second, but closely only while somebody has work, or had since, and every 8 s:
//     otherwise two questions about all shards tell enough.
//   - A gateway tells which sealing keys it has by the name of a channel that it listens to: the server forgets that with its connection, and
//     nobody has to write it again and again. pg:key names the keys that every gateway must have; a ring without them is refused, at the start
//     and later. Sealing anew changes no version: what a registration says is the same, and nobody reads it again for it.
//   - An emptied store is not filled again from what a replica remembers, because that may hold registrations that were deleted. It is told of.
//   - The version of an entity is a time in ms, or one more than the last: a bare counter is given twice by a store that was emptied, or has forgotten
//     changes in a failover, and a replica would deliver by what it remembers of the other one.
//   - A job takes the conversations that began before its entry was written, by the store's clock. Its cursor is that of a scan, which only the process
//     of the server that gave it understands: it goes with that process's id, and another begins anew.
//   - Where the width is narrow (a trial, the ramp after it) only tries that began since count: one from before the outage, or a debugged one of ten
//     minutes, keeps nobody from asking whether the bot is back. The registration's limit counts all.
//   - A lane that finds more waiting than it has in hand after reading to the end gives the registration back: a store that has forgotten settlements has
//     their events in its queue again, behind the lane's cursor.
//   - That this process has no file left for a connection says nothing of a bot: the try is made later, and idle connections are closed. An address to which
//     the machine has no way (EADDRNOTAVAIL) is the registration's, as before.
//   - An event for an entity whose only possible LIVE registration cannot be read is refused with 503, like one for an entity of which nothing can be read.
//   - A PUBLIC event that the LIVE registration does not admit changes no owner, whatever its type: there is no exception for CLOSED and control.
//   - What is told as an incident's cost (handed off, undelivered) is counted while it lasts, and with the failure that begins it.
package delivery
