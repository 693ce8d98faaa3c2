package gateway

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"
)

// What a password costs: 19 MiB and two passes, which is some 30 ms of one core.
const (
	argonMemory = 19 << 10 // KiB
	argonPasses = 2
	argonLanes  = 1
	argonSalt   = 16 // bytes
	argonHash   = 32 // bytes
)

const (
	passwordLeast  = 12  // characters
	passwordMost   = 256 // bytes
	adminNameMost  = 128 // bytes
	hashingWaiters = 16  // requests that wait until a password is looked at, one after the other
)

// adminRate is how often a password of one name may be wrong, over all gateways: ten times, then every six seconds.
var adminRate = Rate{PerSecond: 1.0 / 6, Burst: 10}

// strangerRate is how often passwords of names that nobody has are looked at, all names together and over all gateways. Past it whoever asks can tell that
// a name is unknown; before it, that would be a core for anybody who asks.
var strangerRate = Rate{PerSecond: 2, Burst: 10}

// hashPassword is the text that is kept of a password.
func hashPassword(password string) string {
	salt := make([]byte, argonSalt)
	_, _ = rand.Read(salt) // never fails
	return hashWith(password, salt)
}

func hashWith(password string, salt []byte) string {
	sum := argon2.IDKey([]byte(password), salt, argonPasses, argonMemory, argonLanes, argonHash)
	b64 := base64.RawStdEncoding.EncodeToString
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, argonMemory, argonPasses, argonLanes, b64(salt), b64(sum))
}

// matchesHash says whether a password is the one of a hash, at the same cost whatever they are.
func matchesHash(password, hash string) bool {
	salt := make([]byte, argonSalt)
	if parts := strings.Split(hash, "$"); len(parts) == 6 {
		if kept, err := base64.RawStdEncoding.DecodeString(parts[4]); err == nil {
			salt = kept
		}
	}
	return subtle.ConstantTimeCompare([]byte(hashWith(password, salt)), []byte(hash)) == 1
}

// AddAdministrator makes an administrator of a company, or gives one another password and company. The error says what is wrong with
// the name, the company or the password.
func (s *AccessStore) AddAdministrator(ctx context.Context, name, company, password string) error {
	switch {
	case name == "" || len(name) > adminNameMost || strings.ContainsRune(name, ':') || !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl):
		return fmt.Errorf("the name must have 1 to %d bytes, and no colon or control character in it", adminNameMost)
	case company == "" || !utf8.ValidString(company):
		return errors.New("the company may not be empty")
	case utf8.RuneCountInString(password) < passwordLeast || len(password) > passwordMost:
		return fmt.Errorf("the password must have at least %d characters and at most %d bytes", passwordLeast, passwordMost)
	}
	return s.writeAdministrator(ctx, Administrator{Name: name, Company: company, Hash: hashPassword(password), Since: time.Now().UTC().Truncate(time.Second)})
}

// administrators checks passwords. It looks at one at a time, so that guessing costs no more than that of the machine, and makes
// whoever guesses at one name wait. Names that nobody has stand in a line of their own. Safe for concurrent use.
type administrators struct {
	store            *AccessStore
	known, strangers hashing
}

// hashing is a line of passwords that are looked at one by one.
type hashing struct {
	turn    chan struct{} // holds the one whose turn it is
	waiting chan struct{} // holds all who stand in the line
}

func newAdministrators(store *AccessStore) *administrators {
	line := func() hashing { return hashing{make(chan struct{}, 1), make(chan struct{}, hashingWaiters)} }
	return &administrators{store: store, known: line(), strangers: line()}
}

// company returns the company of an administrator, or errUnauthorized when name and password do not go together, or an error that says
// in how long to try again. An unknown name costs what a wrong password does.
func (a *administrators) company(ctx context.Context, name, password string) (string, error) {
	if name == "" || len(name) > adminNameMost || len(password) > passwordMost || !utf8.ValidString(name) {
		return "", errUnauthorized
	}
	// A place in the allowance is taken before the password is looked at, else many at once would all be looked at, and given back when it is right.
	key := arrivalKey("admin", nameToken("administrator", name))
	if err := a.take(ctx, key, adminRate); err != nil {
		return "", err
	}
	known, ok, err := a.store.administrator(ctx, name)
	if err != nil {
		return "", err
	}
	line := a.known
	if !ok {
		line = a.strangers
		if err := a.take(ctx, arrivalKey("admin", nameToken("strangers", "")), strangerRate); err != nil {
			return "", err
		}
	}
	good, err := line.matches(ctx, password, known.Hash)
	if err != nil {
		return "", err
	}
	if !ok || !good {
		return "", errUnauthorized
	}
	if _, _, err := a.store.lease(ctx, key, adminRate, -1, 0); err != nil {
		return "", err
	}
	return known.Company, nil
}

// take takes one place in an allowance, or says in how long to try again.
func (a *administrators) take(ctx context.Context, key string, rate Rate) error {
	lent, wait, err := a.store.lease(ctx, key, rate, 0, 1)
	if err == nil && lent == 0 {
		err = &limited{wait: wait}
	}
	return err
}

// matches looks at a password, when it is its turn.
func (h hashing) matches(ctx context.Context, password, hash string) (bool, error) {
	select {
	case h.waiting <- struct{}{}:
		defer func() { <-h.waiting }()
	default:
		return false, &limited{wait: time.Second}
	}
	select {
	case h.turn <- struct{}{}:
		defer func() { <-h.turn }()
	case <-ctx.Done():
		return false, ctx.Err()
	}
	return matchesHash(password, hash), nil
}
