package main_test

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// module is the path that every room's path begins with.
const module = "github.com/pulsegate/pulsegate/"

// rooms are the folders of the project, each of which may import those after it and none before it.
var rooms = []string{"cmd/faults", "cmd/pulsegate", "gateway", "notify", "delivery", "health", rigRoom}

// rigRoom makes faults: only commands and tests may import it.
const rigRoom = "cmd/rig"

// confined says in which files of which rooms a library may be imported; test files may import anything. A library that is not
// listed here may be imported by cmd/pulsegate only.
var confined = map[string][]string{
	"github.com/redis/go-redis":               {"cmd/pulsegate/*", "cmd/rig/*", "gateway/redis*.go", "delivery/redis*.go", "health/redis*.go", "notify/redis*.go"},
	"github.com/prometheus/client_golang":     {"cmd/pulsegate/*", "*/metrics.go"},
	"github.com/wneessen/go-mail":             {"notify/smtp.go"},
	"github.com/labstack/echo":                {"gateway/*"},
	"github.com/golang-jwt/jwt":               {"gateway/*"},
	"github.com/google/uuid":                  {"gateway/*", "delivery/*"},
	"github.com/go-json-experiment/json":      {"gateway/*", "delivery/*"},
	"golang.org/x/":                           {"gateway/*", "delivery/*", "notify/*"},
	"net/http":                                {"cmd/pulsegate/*", "gateway/*", "notify/*", "delivery/http.go", "delivery/http_plain.go"},
	"github.com/alicebob/miniredis":           {"cmd/pulsegate/embedded.go"},
	"github.com/emersion/go-smtp":             {"cmd/pulsegate/sink.go"},
	"github.com/alecthomas/kong":              {"cmd/pulsegate/*"},
	"github.com/lmittmann/tint":               {"cmd/pulsegate/logs.go"},
	"github.com/mattn/go-isatty":              {"cmd/pulsegate/logs.go"},
	"github.com/stretchr/testify":             nil,
	"pgregory.net/rapid":                      nil,
	"go.uber.org/goleak":                      nil,
	"github.com/getkin/kin-openapi":           nil,
	"github.com/standard-webhooks/":           nil,
	"github.com/HdrHistogram/hdrhistogram-go": {"cmd/pulsegate/*"},
}

// source is one Go file.
type source struct {
	room, path string // path: from the top of the project
	test       bool
	text       []byte
	file       *ast.File
	set        *token.FileSet
}

// sources reads every Go file of every room.
func sources(t testing.TB) []source {
	t.Helper()
	var list []source
	for _, room := range rooms {
		paths, err := filepath.Glob(filepath.Join("..", "..", room, "*.go"))
		require.NoError(t, err)
		for _, path := range paths {
			text, err := os.ReadFile(path)
			require.NoError(t, err)
			set := token.NewFileSet()
			file, err := parser.ParseFile(set, path, text, parser.ParseComments)
			require.NoError(t, err)
			list = append(list, source{
				room: room, path: room + "/" + filepath.Base(path), test: strings.HasSuffix(path, "_test.go"), text: text, file: file, set: set,
			})
		}
	}
	require.NotEmpty(t, list)
	return list
}

// imports are the paths that a file imports.
func (s source) imports(t testing.TB) []string {
	t.Helper()
	var list []string
	for _, spec := range s.file.Imports {
		path, err := strconv.Unquote(spec.Path.Value)
		require.NoError(t, err)
		list = append(list, path)
	}
	return list
}

func TestArchitectureRoomsImportOnlyRoomsToTheirRight(t *testing.T) {
	for _, s := range sources(t) {
		for _, path := range s.imports(t) {
			room, own := strings.CutPrefix(path, module)
			if !own || room == s.room && s.test {
				continue
			}
			require.Contains(t, rooms, room, "%s imports %s, which is no room", s.path, path)
			require.Greater(t, slices.Index(rooms, room), slices.Index(rooms, s.room), "%s imports %s", s.path, path)
			require.False(t, room == rigRoom && !s.test && !strings.HasPrefix(s.path, "cmd/"), "%s imports %s", s.path, path)
		}
	}
}

func TestArchitectureLibrariesStayInTheirFiles(t *testing.T) {
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		for _, path := range s.imports(t) {
			require.True(t, mayImport(s.path, path), "%s may not import %s", s.path, path)
		}
	}
}

// mayImport tells whether the file at path may import a package.
func mayImport(path, imported string) bool {
	for library, places := range confined {
		if imported != library && !strings.HasPrefix(imported, strings.TrimSuffix(library, "/")+"/") {
			continue
		}
		if library == "net/http" && imported != library {
			continue // net/http/httptest and the like are not the network
		}
		return slices.ContainsFunc(places, func(place string) bool {
			ok, err := filepath.Match(place, path)
			return err == nil && ok || strings.HasPrefix(path, strings.TrimSuffix(place, "*")) && strings.HasSuffix(place, "/*")
		})
	}
	outside := strings.Contains(strings.SplitN(imported, "/", 2)[0], ".") && !strings.HasPrefix(imported, module)
	return !outside || strings.HasPrefix(path, "cmd/pulsegate/")
}

func TestArchitectureEveryExportedNameIsDocumented(t *testing.T) {
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		for _, d := range s.file.Decls {
			for _, name := range undocumented(d) {
				t.Errorf("%s: %s has no comment", s.set.Position(d.Pos()), name)
			}
		}
	}
}

// undocumented lists the exported names that a declaration introduces without a comment. A comment on a group of constants or
// variables is one for all of them; fields and methods of interfaces count as parts of their type.
func undocumented(d ast.Decl) []string {
	switch d := d.(type) {
	case *ast.FuncDecl:
		if d.Name.IsExported() && d.Doc.Text() == "" && exportedReceiver(d) {
			return []string{d.Name.Name}
		}
	case *ast.GenDecl:
		var list []string
		for _, spec := range d.Specs {
			switch spec := spec.(type) {
			case *ast.TypeSpec:
				if spec.Name.IsExported() && d.Doc.Text() == "" && spec.Doc.Text() == "" {
					list = append(list, spec.Name.Name)
				}
			case *ast.ValueSpec:
				for _, name := range spec.Names {
					if name.IsExported() && d.Doc.Text() == "" && spec.Doc.Text() == "" && spec.Comment.Text() == "" {
						list = append(list, name.Name)
					}
				}
			}
		}
		return list
	}
	return nil
}

// exportedReceiver tells whether a function is one that other packages can name: not a method of a type of the package's own.
func exportedReceiver(d *ast.FuncDecl) bool {
	if d.Recv == nil {
		return true
	}
	kind := d.Recv.List[0].Type
	if pointer, ok := kind.(*ast.StarExpr); ok {
		kind = pointer.X
	}
	name, ok := kind.(*ast.Ident)
	return !ok || name.IsExported()
}

func TestArchitectureEveryRoomHasAGuide(t *testing.T) {
	for _, room := range rooms {
		text, err := os.ReadFile(filepath.Join("..", "..", room, "doc.go"))
		require.NoError(t, err)
		require.Contains(t, string(text), "# Decisions", room)
	}
}

// forbidden are words that may stand in no file but this one, and in no test: each is a trap that was fallen into somewhere.
var forbidden = []struct{ pattern, because string }{
	{`http\.DefaultClient|http\.(Get|Post|Head|PostForm)\(`, "it has no time limit and follows redirects"},
	{`InsecureSkipVerify`, "it trusts anybody"},
	{`ProxyFromEnvironment`, "behind a proxy the guard sees the proxy's address only"},
	{`(Set|Add)\("(X-)?Idempotency-Key"`, "net/http repeats requests that carry it"},
	{`XTrim|MinID:|"XTRIM"`, "trimming takes entries that are under way"},
	{`func init\(`, "nothing happens before main"},
	{`context\.TODO\(`, "somebody owns every context"},
}

func TestG05ArchitectureForbiddenWordsAreAbsent(t *testing.T) {
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		for _, word := range forbidden {
			if at := regexp.MustCompile(word.pattern).FindIndex(s.text); at != nil {
				line := 1 + bytes.Count(s.text[:at[0]], []byte("\n"))
				t.Errorf("%s:%d holds %q: %s", s.path, line, s.text[at[0]:at[1]], word.because)
			}
		}
	}
	t.Attr("measured", strconv.Itoa(len(forbidden))+" kinds of words that must not be there: none is")
}

func TestG05ArchitectureOnlyRequestRecordsAreTrimmed(t *testing.T) {
	trim := regexp.MustCompile(`(?i)\b(xtrim|maxlen|minid)\b`)
	function := regexp.MustCompile(`function\s+(\w+)`)
	for _, s := range sources(t) {
		if !s.test && s.path != "delivery/redis_record.go" {
			require.NotRegexp(t, `MaxLen:|MAXLEN`, string(s.text), "%s bounds a stream", s.path)
		}
	}
	scripts, err := filepath.Glob(filepath.Join("..", "..", "*", "*.lua"))
	require.NoError(t, err)
	for _, path := range scripts {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		within := ""
		for number, line := range strings.Split(string(text), "\n") {
			code, _, _ := strings.Cut(line, "--")
			if name := function.FindStringSubmatch(code); name != nil {
				within = name[1]
			}
			if trim.MatchString(code) {
				require.Equal(t, "log", within, "%s:%d bounds a stream elsewhere than in the function that writes request records", path, number+1)
			}
		}
	}
}

func TestArchitectureFunctionsAndFilesFitAScreen(t *testing.T) {
	for _, s := range sources(t) {
		if lines := strings.Count(string(s.text), "\n"); !s.test && lines > 400 {
			t.Errorf("%s has %d lines, more than 400", s.path, lines)
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			if err := fits(s, n); err != nil && !s.test {
				t.Error(err)
			}
			return true
		})
	}
}

// fits is nil when a function, if it is one, has at most 60 lines and 5 parameters.
func fits(s source, n ast.Node) error {
	function, ok := n.(*ast.FuncDecl)
	if !ok {
		return nil
	}
	if lines := s.set.Position(n.End()).Line - s.set.Position(n.Pos()).Line + 1; lines > 60 {
		return fmt.Errorf("%s: %s has %d lines, more than 60", s.set.Position(n.Pos()), function.Name.Name, lines)
	}
	if count := function.Type.Params.NumFields(); count > 5 {
		return fmt.Errorf("%s: %s has %d parameters, more than 5", s.set.Position(n.Pos()), function.Name.Name, count)
	}
	return nil
}
