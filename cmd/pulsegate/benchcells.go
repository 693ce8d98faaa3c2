package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// benchCell is one line of what is measured.
type benchCell struct {
	name          string
	kind          string
	registrations int64
	size          int
	batch         int64
	ndjson        bool
	events        int64
	delay         time.Duration // of the bots' answers
	noAppendOnly  bool
}

// The kinds of cells. Those with a number of registrations are named KIND-N.
const (
	cellClosed = "closed"
	cellArray  = "array"
	cellNDJSON = "ndjson"
)

// mostRegistrations is how many a bench puts at most.
const mostRegistrations = 100_000

// batchOfCell is how many events a request of the cells array and ndjson holds.
const batchOfCell = 100

// cells are what is to be measured, in the order of the tables.
func (b benchCommand) cells() ([]benchCell, error) {
	names := b.Cell
	switch {
	case len(names) == 0 && len(b.Registrations) > 0:
		names = []string{cellClosed}
	case len(names) == 0:
		names = []string{cellClosed, cellArray, cellNDJSON}
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
	numbers := map[string][]int64{cellClosed: {1, 100, 1000, 10_000}, cellArray: {1, 1000}, cellNDJSON: {1000}}[kind]
	if numbers == nil {
		return nil, wrongSetting("--cell %s: no such cell; there are closed-N, array-N and ndjson-N", name)
	}
	if len(b.Registrations) > 0 {
		numbers = b.Registrations
	}
	if one {
		n, err := strconv.ParseInt(number, 10, 64)
		if err != nil || n < 1 || n > mostRegistrations {
			return nil, wrongSetting("--cell %s: write a number from 1 to %d after the dash", name, mostRegistrations)
		}
		numbers = []int64{n}
	}
	var cells []benchCell
	for _, n := range numbers {
		cells = append(cells, b.cellOf(kind, n))
	}
	return cells, nil
}

// cellOf is a cell with a number of registrations.
func (b benchCommand) cellOf(kind string, registrations int64) benchCell {
	c := benchCell{name: fmt.Sprintf("%s-%d", kind, registrations), kind: kind, registrations: registrations, size: b.Size, batch: 1, events: b.Events}
	if kind != cellClosed {
		c.batch, c.ndjson = batchOfCell, kind == cellNDJSON
	}
	return c
}

// warm is how many events come before those that are measured: each registration has had one then, and each connection is open.
func (c benchCell) warm() int64 { return max(1000, c.registrations) }
