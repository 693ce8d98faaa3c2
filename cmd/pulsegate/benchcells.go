package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// benchCell is one thing that is measured.
type benchCell struct {
	name          string
	kind          string
	registrations int64
	size          int   // of an event, in bytes
	batch         int64 // events of a request to the gateway
	ndjson        bool
	events        int64
	delay         time.Duration // of the bots' answers
	noAppendOnly  bool
}

// The kinds of cells: what the number after the dash means.
const (
	cellClosed  = "closed"  // registrations
	cellArray   = "array"   // registrations
	cellNDJSON  = "ndjson"  // registrations
	cellOpen    = "open"    // registrations
	cellNoFile  = "nofile"  // registrations
	cellSize    = "size"    // bytes of an event
	cellBatch   = "batch"   // events of an array
	cellDelay   = "delay"   // milliseconds
	cellBacklog = "backlog" // none
	cellSlow    = "slow"    // none
	cellLadder  = "ladder"  // registrations
)

// cellNumbers are the numbers of a kind when only its word is given, in the order of the tables; a 0 is no number.
func cellNumbers(kind string) []int64 {
	switch kind {
	case cellClosed:
		return []int64{1, 100, 1000, 10_000}
	case cellArray, cellOpen, cellNoFile:
		return []int64{1, 1000}
	case cellNDJSON, cellLadder:
		return []int64{1000}
	case cellSize:
		return []int64{smallestEvent, 16 << 10}
	case cellBatch:
		return []int64{10, 1000}
	case cellDelay:
		return []int64{20, 200}
	case cellBacklog, cellSlow:
		return []int64{0}
	}
	return nil
}

// takesRegistrations says that the number of a kind is one of registrations.
func takesRegistrations(kind string) bool {
	return slices.Contains([]string{cellClosed, cellArray, cellNDJSON, cellOpen, cellNoFile, cellLadder}, kind)
}

// The numbers that a cell has where its name does not say another.
const (
	mostRegistrations   = 100_000 // that a bench puts
	variedRegistrations = 1000    // of the cells that are named after something else
	batchOfCell         = 100     // events of a request, of the cells array and ndjson
)

// cells are what is to be measured.
func (b benchCommand) cells() ([]benchCell, error) {
	names := slices.Clone(b.Cell)
	switch {
	case len(names) == 0 && len(b.Registrations) > 0:
		names = []string{cellClosed}
	case len(names) == 0:
		names = []string{cellClosed, cellArray, cellNDJSON, cellOpen, cellBacklog, cellSlow}
	}
	if b.Full {
		names = append(names, cellSize, cellNoFile, cellDelay, cellBatch, "ndjson-1")
	}
	if b.SVG != "" && !slices.ContainsFunc(names, func(name string) bool { return strings.HasPrefix(name, cellLadder) }) {
		names = append(names, cellLadder)
	}
	var cells []benchCell
	for _, name := range names {
		named, err := b.cellsNamed(name)
		if err != nil {
			return nil, err
		}
		for _, c := range named {
			if !slices.ContainsFunc(cells, func(other benchCell) bool { return other.name == c.name }) {
				cells = append(cells, c)
			}
		}
	}
	return cells, nil
}

// cellsNamed are one cell, or all of a kind.
func (b benchCommand) cellsNamed(name string) ([]benchCell, error) {
	kind, number, one := strings.Cut(name, "-")
	numbers := cellNumbers(kind)
	if numbers == nil || one && numbers[0] == 0 {
		return nil, wrongSetting("--cell %s: no such cell; there are closed-N, array-N, ndjson-N, open-N, nofile-N and ladder-N for N registrations, "+
			"size-BYTES, batch-EVENTS, delay-MILLISECONDS, backlog and slow", name)
	}
	if len(b.Registrations) > 0 && takesRegistrations(kind) {
		numbers = b.Registrations
	}
	if one {
		n, err := strconv.ParseInt(number, 10, 64)
		if err != nil || n < 1 || n > mostOf(kind) {
			return nil, wrongSetting("--cell %s: write a number from 1 to %d after the dash", name, mostOf(kind))
		}
		numbers = []int64{n}
	}
	var cells []benchCell
	for _, n := range numbers {
		cells = append(cells, b.cellOf(kind, n))
	}
	return cells, nil
}

// mostOf is the biggest number of a kind.
func mostOf(kind string) int64 {
	switch kind {
	case cellSize:
		return largestEvent
	case cellBatch:
		return 1000
	case cellDelay:
		return 4000
	}
	return mostRegistrations
}

// cellOf is a cell of a kind with a number.
func (b benchCommand) cellOf(kind string, n int64) benchCell {
	c := benchCell{name: fmt.Sprintf("%s-%d", kind, n), kind: kind, registrations: variedRegistrations, size: b.Size, batch: 1, events: b.Events}
	if takesRegistrations(kind) {
		c.registrations = n
	}
	switch kind {
	case cellArray:
		c.batch = batchOfCell
	case cellNDJSON:
		c.batch, c.ndjson = batchOfCell, true
	case cellBatch:
		c.batch = n
	case cellNoFile:
		c.noAppendOnly = true
	case cellSize:
		c.size = int(max(n, smallestEvent))
		c.events = max(1, b.Events*int64(min(b.Size, c.size))/int64(c.size)) // no more bytes than usual
	case cellDelay:
		c.delay = time.Duration(n) * time.Millisecond
	case cellBacklog, cellSlow:
		c.name = kind
	}
	return c
}

// warm is how many events come before those that are measured: each registration has had one then, and each connection is open.
func (c benchCell) warm() int64 { return max(1000, c.registrations) }

// closedLoop says that the cell is a row of the table of closed loops.
func (c benchCell) closedLoop() bool {
	return !slices.Contains([]string{cellOpen, cellBacklog, cellSlow, cellLadder}, c.kind)
}
