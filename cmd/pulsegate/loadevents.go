package main

import (
	"strconv"
	"strings"
)

// appendRequest writes the request of a shot: an event alone, an array, or lines.
func (g *generator) appendRequest(to []byte, s shot) []byte {
	due := int64(0)
	if !s.due.IsZero() {
		due = s.due.UnixNano()
	}
	if g.NDJSON {
		for i := range s.events {
			to = append(g.appendEvent(to, s.number+i, due), '\n')
		}
		return to
	}
	if s.events == 1 {
		return g.appendEvent(to, s.number, due)
	}
	separator := byte('[')
	for i := range s.events {
		to = append(to, separator)
		to = g.appendEvent(to, s.number+i, due)
		separator = ','
	}
	return append(to, ']')
}

// shortEvent is the size, in bytes, below which an event leaves out what it need not have.
const shortEvent = 512

// appendEvent writes the event with a number, of about g.Size bytes; due is when, in Unix nanoseconds, or 0.
func (g *generator) appendEvent(to []byte, number, due int64) []byte {
	start := len(to)
	entity := g.Entity + number%g.Registrations
	author := strconv.FormatInt(number/g.Registrations%g.Authors, 10)
	to = append(to, `{"type":"message",`...)
	to = append(to, sequenceMark...)
	to = strconv.AppendInt(to, number, 10)
	if due > 0 {
		to = append(to, ","+dueMark...)
		to = strconv.AppendInt(to, due, 10)
	}
	if g.OwnIDs {
		to = append(to, `,"id":"`+g.run+"-"...)
		to = strconv.AppendInt(to, number, 10)
		to = append(to, '"')
	}
	to = append(to, `,"coordinate":{"companyKey":"`+benchCompany+`","networkKey":"bench","externalId":"e`...)
	to = strconv.AppendInt(to, entity, 10)
	if g.Size < shortEvent {
		to = append(to, `"},"author":{"id":"a`+author+`"},"text":"`...)
	} else {
		to = append(to, `","normalizedAuthorId":"a`+author+`","messageId":"m`...)
		to = strconv.AppendInt(to, number, 10)
		to = append(to, `","scope":"PRIVATE"},"author":{"id":"a`+author+`","fullName":"Ann Other","properties":{}},"publishedTS":1700000000123,"receivedTS":1700000000456,"text":"`...)
	}
	if fill := g.Size - (len(to) - start) - 2; fill > 0 {
		to = append(to, strings.Repeat("x", fill)...)
	}
	return append(to, `"}`...)
}
