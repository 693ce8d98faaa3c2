package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"time"
)

// What the processes of a bench tell each other: one JSON object a line, from the child's stdout to the parent. A child starts
// with ready, works, answers each line on its stdin with a report, and ends when its stdin ends.

// benchReady is the first line of a child that listens.
type benchReady struct {
	Address string `json:"address"`
}

// botsReport is what the bots have got so far.
type botsReport struct {
	At       int64          `json:"at"`       // when this was written; Unix nanoseconds
	Distinct int64          `json:"distinct"` // events, by the number in their body
	Doubled  int64          `json:"doubled"`  // requests for an event that had come before
	Strange  int64          `json:"strange"`  // requests without a number
	Answered int64          `json:"answered"`
	Most     int64          `json:"most"`  // requests under way at once, at most
	Last     int64          `json:"last"`  // when the last new event came; Unix nanoseconds
	After    latencySummary `json:"after"` // from when an event was due to its first arrival, where it says when that was
}

// loadReport is how far the generator is; the last one of a load says so.
type loadReport struct {
	Done     bool           `json:"done"`
	Sent     int64          `json:"sent"`             // events that were answered in any way
	Accepted int64          `json:"accepted"`         // answered 200 or 202, and queued
	Retried  int64          `json:"retried"`          // answers 503, after which the same was sent again
	Refused  int64          `json:"refused"`          // any other answer
	Sample   string         `json:"sample,omitempty"` // the first refusal, in short
	Began    int64          `json:"began"`            // first byte; Unix nanoseconds
	Ended    int64          `json:"ended"`            // last answer; Unix nanoseconds
	Answer   latencySummary `json:"answer"`           // from when a request was due to its answer
	Late     latencySummary `json:"late"`             // from when it was due to its first byte: what the generator itself costs
	P50      float64        `json:"p50Ms"`            // of Answer
	P99      float64        `json:"p99Ms"`
}

// writeLine writes one object as a line.
func writeLine(w io.Writer, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write line: %w", err)
	}
	_, err = w.Write(append(text, '\n'))
	return err
}

// readLine reads one object from a line.
func readLine(r *bufio.Reader, v any) error {
	text, err := r.ReadBytes('\n')
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, v); err != nil {
		return fmt.Errorf("read line %.80q: %w", text, err)
	}
	return nil
}

// sequenceMark stands before the number of an event in its body.
const sequenceMark = `"sequence":`

// dueMark stands before the time at which an event was due, in Unix nanoseconds: generator and bots share the machine's clock.
const dueMark = `"due":`

// benchCompany is the company of all that a bench registers.
const benchCompany = "bench"

// benchPatience is how long nothing may move before a bench gives up on what is missing.
const benchPatience = 15 * time.Second
