package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// table is the report in Markdown, in the order of the checklist.
func (r *report) table() string {
	list := slices.Clone(r.entries)
	for _, row := range r.missing() {
		list = append(list, &entry{row: row, result: "no test"})
	}
	slices.SortStableFunc(list, func(a, b *entry) int {
		return cmp.Or(cmp.Compare(strings.IndexByte(areas, a.row[0]), strings.IndexByte(areas, b.row[0])), strings.Compare(a.row, b.row))
	})
	var b strings.Builder
	b.WriteString("| row | what was done | result | measured |\n|---|---|---|---|\n")
	for _, t := range list {
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", t.row, t.done(), t.result, cell(strings.Join(t.measured, "; ")))
	}
	return b.String()
}

// cell keeps a text within its cell.
func cell(text string) string {
	return strings.NewReplacer("|", `\|`, "\n", " ").Replace(text)
}

// done says what a test does: the words of its name. Words that are all capitals stay so.
func (t *entry) done() string {
	if t.name == "" {
		return "–"
	}
	words := split(t.name[len("Test")+len(t.row):])
	for i, word := range words {
		if i > 0 && word != strings.ToUpper(word) || i == 0 && len(words) == 1 {
			words[i] = strings.ToLower(word)
		}
	}
	return strings.Join(words, " ")
}

// split takes a name apart at its capitals and digits; letters that are all capitals stay together.
func split(name string) []string {
	var words []string
	letters := []rune(name)
	begin := 0
	for i := 1; i <= len(letters); i++ {
		if i == len(letters) || starts(letters, i) {
			words = append(words, string(letters[begin:i]))
			begin = i
		}
	}
	return words
}

// starts tells whether a word begins at letter i.
func starts(letters []rune, i int) bool {
	before, here := letters[i-1], letters[i]
	switch {
	case unicode.IsDigit(here):
		return !unicode.IsDigit(before) && !unicode.IsUpper(before)
	case !unicode.IsUpper(here):
		return false
	case !unicode.IsUpper(before):
		return true
	}
	return i+1 < len(letters) && unicode.IsLower(letters[i+1])
}
