package delivery

import "time"

// Contact is somebody who gets notices of one company's bots.
type Contact struct {
	Company string `json:"-"`
	Address string `json:"address"` // as it goes into an envelope
	Name    string `json:"name,omitempty"`
}

// Mail is the Data of an EntryMail: one mail that tells a contact of several notices.
type Mail struct {
	To     Contact `json:"to"`
	Digest bool    `json:"digest,omitempty"` // of bots that flap: their last notice each, and how many it stands for
}

// Gathering says for what a notice may wait.
type Gathering struct {
	Digest bool          // for the contact's digest; otherwise only while the contact has just had a mail
	Within time.Duration // how long the digest gathers, or for how long after a mail further notices do
}

// Gathered is a notice that a mail tells of. In a digest it is the last of several of one registration.
type Gathered struct {
	Entry       Entry
	Degraded    int64 // digest: how many notices of DEGRADED it stands for, itself counted
	Healthy     int64 // digest: how many of HEALTHY
	First       int64 // digest: when the first of them was, epoch ms
	Undelivered int64 // digest: events, over the incidents that ended in it
	HandedOff   int64 // digest: conversations, likewise
}
