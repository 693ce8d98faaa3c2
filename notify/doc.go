// Package notify tells people and the platform what has happened: it empties the outbox that package delivery fills in the same
// atomic steps as the outcomes behind it.
//
// # A tour
//
// The smallest program keeps everything and tells nobody; what would have been a mail is a line of the log:
//
//	n, err := notify.New(notify.Config{Outbox: carrier.Outbox(), Log: log})
//	…
//	err = n.Run(ctx) // until ctx ends
//
// With a mail server, people get mails; with a platform, handoffs reach it:
//
//	platform, err := notify.NewPlatform("https://care.example.org", token)
//	…
//	n, err := notify.New(notify.Config{
//		Outbox:    carrier.Outbox(),
//		SMTPURL:   "smtp://gate:secret@mail.example.org:587",
//		MailFrom:  "Pulsegate <pulsegate@example.org>",
//		PublicURL: "https://gate.example.org",
//		Platform:  platform,
//		TagIDs:    map[string]int64{"parent": 11, "standard": 12, "automatic": 13, "maintenance": 14},
//		Log:       log,
//	})
//
// The same [Platform] carries the calls of bots that the gateway passes on ([Platform.Pass]). A [Notifier] is a
// prometheus.Collector.
//
// # Concepts
//
//   - entry: one thing to tell, or one stored job. It is taken under a lease, handled, and its outcome is stored: that store is the
//     commit point.
//   - notice: one mail about one transition. Its Message-ID is made of registration, transition number, states and the store's time,
//     so that every try of every replica sends the same mail.
//   - joining: the first notice to a contact goes at once; those of its other bots within a minute gather for one mail at its end.
//   - digest: notices that a flapping bot's transition holds back gather for one mail an hour to the contact.
//   - thread: all mails of one incident refer to the same id, made of registration and the start of the incident.
//   - lane: the workers of one kind of entry (mails, platform, jobs). Lanes share nothing but the outbox.
//
// # The rule
//
// Which transition sends what is decided where transitions are made (health.Transition.Notice); what it says is decided here:
//
//	transition            subject                what happens next
//	HEALTHY -> DEGRADED   DEGRADED: …            delivery goes on; undeliverable messages hand off
//	any     -> DOWN       DOWN: …                paused until a stated time; then a trial
//	DOWN    -> DOWN       still DOWN: …          the trial failed: paused again until a stated time
//	DOWN    -> DEGRADED   DEGRADED after DOWN: … delivery ramps up; the failures leave the window
//	any     -> HEALTHY    HEALTHY again: …       nothing to do; how long it lasted and what it cost
//	failures of blocked   as above               and that the callback address is a configuration fault
//
// What becomes of an entry:
//
//	entry        answer                                        state
//	transition,  taken by the mail server                      done
//	mail         others are told to the contact with it        joined: what becomes of their mail becomes of it
//	             no notice due, no contact, no registration,   kept
//	             no mail server (and one line of the log)
//	             5xx to sender, recipient or content           refused
//	             anything else                                 pending: 5 s, doubling to 15 min
//	handoff,     2xx                                           done
//	control      no platform                                   kept
//	             4xx but 408, 409, 429                         refused
//	             anything else                                 pending: 1 s, doubling to 10 min, or Retry-After up to that
//	job          a batch, and more to come                     pending, lease renewed
//	             the last batch                                done
//	             the store failed                              pending: 1 s, doubling to 1 min
//	any but job  24 hours after its own time                   givenup
//
// # Failures and crashes
//
// A process that dies between the mail server's yes and the store of the outcome leaves an entry whose lease ends after 90 s; it is
// then handled again: at most one duplicate, with the same Message-ID. Whether a notice goes by itself or gathers is decided in one step of
// the store that lies with the contact, and answered alike for as long as the notice is tried: a process that dies between that step and
// the store of the outcome leaves a notice that is told exactly once. What a gathered mail tells is fixed when it is first taken. Between tag and control the tag is repeated, which changes
// nothing. A job goes on at its last stored cursor. One conversation with the mail server ends within 60 s, one call to the platform
// within 10 s, and nothing is begun without enough of its lease left, so that no two replicas are at one entry together.
//
// A store that is away is asked again after 100 ms, doubling to 1 s, and logged once; an outcome that cannot be stored is tried for
// 10 s. An entry that cannot be read, or that makes its handler panic, is refused and costs the others nothing.
//
// # Concurrency
//
// Run owns one loop, which takes and dispatches, and the workers of three lanes: Config.Workers for mails, as many for the platform,
// two for jobs. Each lane has a bounded queue; what does not fit goes back to the outbox for 1 s to 30 s. A mail server that answers
// slowly therefore delays mails and nothing else. A job yields after 5 s, so that jobs take turns. When its context ends Run begins
// nothing more, gives back what waits, finishes what is under way for up to 15 s, cuts the rest off, and waits for every goroutine.
//
// # Decisions
//
//   - Joining is for many bots of one contact: while one bot alone has something to say, it says it at once, so that DOWN does not wait
//     for the minute that the DEGRADED of the same bot began. Once another's notice waits, everything of that minute joins it.
//   - Contacts of different companies are different contacts, even at one address.
//   - While mail to a contact does not get through, what comes after gathers in one mail for the next try, so that a dead contact costs a
//     conversation each quarter of an hour, not one for each notice. A contact that was refused (5xx at RCPT) is marked for as long.
//   - A digest tells how often each bot changed, and how it was at last; every change is in the list of notices.
//   - A mail tells of at most 500 notices, a digest of 500 bots; what is more goes into another at the same time.
//   - A wrong password (53x), or a server that refuses the conversation as a whole, is not a refusal of a mail: it is the operator's
//     to mend, and mails wait for that.
//   - With a user in the URL nothing is sent before TLS stands; without one TLS is used when the server offers it, and its certificate
//     is then checked all the same.
//   - A mail that the server has taken is sent, even if the connection breaks before the goodbye.
//   - A tag that is refused for good does not keep people from getting the conversation: control is passed on, and the entry then says
//     that the tag was refused.
//   - A redirect of the platform is not followed and counts as a fault that may pass: it is the operator's to mend.
//   - A job is never given up: it is owed to every conversation that it has not reached.
//   - What a mail server says of a fault is kept without the password, and what the platform answers is passed on without its token: both may send
//     back what they were told.
//   - Mails show scheme and host of the callback address only; its path and query may hold secrets.
//   - Text from outside becomes one line without control, invisible or direction-changing characters, of bounded length; a display name
//     beside an address keeps letters, digits and little else.
//   - Each mail has a connection of its own: at the rate of notices that costs little, and no fault of one mail reaches another.
package notify
