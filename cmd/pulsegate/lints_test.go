package main_test

import (
	"go/ast"
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

// texts are the literal texts in a file, but those of imports and tags.
func (s source) texts(use func(at token.Pos, text string)) {
	ast.Inspect(s.file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.ImportSpec:
			return false
		case *ast.BasicLit:
			if text, err := strconv.Unquote(n.Value); err == nil && n.Kind == token.STRING {
				use(n.Pos(), text)
			}
		}
		return true
	})
}

// keyTexts are the texts of Redis keys and channels that stand outside the makers of keys, and where: none of them takes an id of a
// customer's, an app's or an entity's.
var keyTexts = map[string][]string{
	"delivery/redis.go":             {"pg:shards", "pg:key"},
	"delivery/redis_config.go":      {"pg:wake:"}, // a channel; behind it the name of a process
	"delivery/reseal.go":            {"pg:ring:"}, // the same
	"delivery/redis_keep.go":        {"pg:losses"},
	"delivery/redis_reseal.go":      {"pg:key"},
	"delivery/redis_reach.go":       {"pg:{"}, // read, not made
	"delivery/redis_verify.go":      {"pg:shards", "pg:wake:*"},
	"delivery/redis_verify_scan.go": {"pg:*", "pg:app:", "pg:company:"},
	"delivery/redis_verify_sums.go": {"pg:{*}:led"},
	"delivery/keys.go":              {"pg:app:", "pg:company:", "pg:deleted:"},
	"health/keys.go":                {"pg:{"},
}

func TestG05ArchitectureEveryRedisKeyComesFromOneBuilder(t *testing.T) {
	checked := 0
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		s.texts(func(at token.Pos, text string) {
			if strings.HasPrefix(text, "pg:") {
				require.Contains(t, keyTexts[s.path], text, "%s makes a Redis key of its own", s.set.Position(at))
				checked++
			}
		})
	}
	scripts, err := filepath.Glob(filepath.Join("..", "..", "*", "*.lua"))
	require.NoError(t, err)
	literal := regexp.MustCompile(`redis\.(?:p?call)\(\s*'(\w+)'\s*,\s*'([^']*)'`)
	for _, path := range scripts {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		for _, call := range literal.FindAllStringSubmatch(string(text), -1) {
			require.Contains(t, []string{"PUBLISH", "INFO", "CONFIG", "TIME"}, call[1], "%s names the key %s itself: keys come in KEYS", path, call[2])
		}
		checked++
	}
	t.Attr("measured", strconv.Itoa(checked)+" texts and scripts: every key from one builder")
}

// TestG05ArchitectureOurCallsCarryNoIdempotencyKey looks at the rooms that call bots and platforms: net/http repeats calls with that header.
func TestG05ArchitectureOurCallsCarryNoIdempotencyKey(t *testing.T) {
	rooms := 0
	for _, s := range sources(t) {
		if s.test || !slices.Contains([]string{"delivery", "notify", "health"}, s.room) {
			continue
		}
		rooms++
		s.texts(func(at token.Pos, text string) {
			require.False(t, strings.HasSuffix(strings.ToLower(text), "idempotency-key"), "%s names the header", s.set.Position(at))
		})
	}
	require.NotZero(t, rooms)
}

// functions are the names of the functions of all test files of a room.
func functions(t testing.TB, room string) (names []string) {
	for _, s := range sources(t) {
		for _, d := range s.file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && s.test && s.room == room {
				names = append(names, f.Name.Name)
			}
		}
	}
	return names
}

func TestG02ArchitectureEveryRoomsTestsEndWithoutAGoroutine(t *testing.T) {
	for _, room := range rooms {
		require.Contains(t, functions(t, room), "TestMain", room)
		found := false
		for _, s := range sources(t) {
			found = found || s.test && s.room == room && slices.Contains(s.imports(t), "go.uber.org/goleak")
		}
		require.True(t, found, "the tests of %s look for goroutines that outlive them", room)
	}
	t.Attr("measured", strconv.Itoa(len(rooms))+" rooms: goleak behind the tests of each")
}

// TestG03ArchitectureEveryParserIsFuzzed names what reads texts of others, and the target that feeds it.
func TestG03ArchitectureEveryParserIsFuzzed(t *testing.T) {
	targets := 0
	for room, names := range map[string][]string{
		"delivery":      {"FuzzEvent", "FuzzCallbackURL", "FuzzAddress", "FuzzRetryAfter", "FuzzIDs", "FuzzMailAddress", "FuzzCertificates"},
		"gateway":       {"FuzzEventSplit", "FuzzTokenVerify"},
		"health":        {"FuzzKey"},
		"cmd/pulsegate": {"FuzzConfig", "FuzzKeyFile"},
	} {
		require.Subset(t, functions(t, room), names, room)
		targets += len(names)
	}
	text, err := os.ReadFile(filepath.Join("..", "..", ".ci", "fuzz"))
	require.NoError(t, err)
	require.Contains(t, string(text), "-fuzztime", "make fuzz runs each target that it finds")
	t.Attr("measured", strconv.Itoa(targets)+" fuzz targets with their seeds, run by make fuzz for a number of inputs each")
}

// TestG04ArchitectureToolsArePinned holds that a check says today what it will say tomorrow.
func TestG04ArchitectureToolsArePinned(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "Makefile"))
	require.NoError(t, err)
	for _, tool := range []string{"GOFUMPT", "STATICCHECK", "DEADCODE", "GOVULNCHECK"} {
		require.Regexp(t, `(?m)^`+tool+` = \S+@v\d+\.\d+\.\d+$`, string(text))
		require.Contains(t, string(text), "$("+tool+")")
	}
	require.Regexp(t, `(?m)^check:.* vet .*staticcheck .*vulnerabilities`, string(text))
	t.Attr("measured", "vet, staticcheck and govulncheck in make check, all tools pinned")
}

// TestG06ArchitectureContractsHoldOnEveryStore counts the contracts that run on the store in the process, on a redis-server and on a cluster.
func TestG06ArchitectureContractsHoldOnEveryStore(t *testing.T) {
	contracts := 0
	for _, s := range sources(t) {
		if s.test && s.room == "delivery" {
			contracts += strings.Count(string(s.text), "onBothStores(t, func(")
		}
	}
	require.Greater(t, contracts, 20)
	t.Attr("measured", strconv.Itoa(contracts)+" contract tests, each on miniredis, a redis-server and a cluster of three")
}
