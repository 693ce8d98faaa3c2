// Command pulsegate is the gateway as one binary: flags and environment, construction from the bottom up, ordered stop.
//
// Commands are serve (the gateway), token, bot (a sample bot), demo (a bot's life in half a minute), verify (the ledger of a store) and bench (the
// gateway beside a bare relay). `pulsegate --help` and `pulsegate <command> --help` are the reference; every flag has an
// environment variable PULSEGATE_<FLAG>.
//
// # The store
//
// With --redis the gateway works on that Redis. Without it, a redis-server on the PATH is run as a child of the gateway, its
// append-only file in --data; without one on the PATH an in-process store stands in, and says at start that its events do not
// survive.
//
// The child belongs to the gateway that started it, and dies with it: a lock that the child inherits keeps a second child off
// the same files, even while the first one is still on its way out. Another gateway on the same --data joins the child, and
// starts its own when that one has gone. Where the kernel cannot tie a child to its parent (anything but Linux), a child whose
// gateway was killed goes on, and is joined at the next start.
//
// # The keys
//
// The key file holds a secret in each line. Keys are derived from each: one signs tokens, one seals secrets. The first line signs and seals,
// all of them verify and open. A gateway looks at its file every second and takes what it holds, unless a key is missing that secrets in the
// store are sealed with. keys rotate replaces the first line in steps, each of which can be repeated: the new secret lies in FILE.next until all
// is done. It waits twice until every gateway that runs has followed, before the new key seals anything and before everything is sealed anew.
//
// # Exit status
//
//	0  done, or stopped by a first SIGTERM or SIGINT
//	1  something went wrong, or a second signal cut the stop short
//	2  a setting is wrong, contradicts another, or is not known
//
// # Decisions
//
//   - Settings are judged when they are parsed, before anything is opened; a refusal is one sentence.
//   - Keys are followed by looking at the file, not told to gateways by signals: a file is there in every kind of deployment, and what matters is
//     that all have it, which each tells the store itself.
//   - A key is removed by a command that asks first whether anything is sealed with it; what tokens it signed nobody can count, so that is said.
//   - The child is addressed through a unix socket whose path is noted in --data, because paths of sockets are short and paths
//     of data directories are not.
//   - The child is stopped by SIGTERM, on which it writes its append-only file out.
//   - The bench's generator posts by net/http as the relay does. One over bare sockets was tried: it took 11 us of CPU an event
//     instead of 15, and the relay reached 0.40 of the generator posting straight to the bots instead of 0.52.
package main
