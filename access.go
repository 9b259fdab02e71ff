package odometer

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Scope is something that the holder of a token may do.
type Scope string

const (
	ScopeAdmin       Scope = "admin"        // everything
	ScopeRead        Scope = "read"         // usage, events, instances, status, health, metrics
	ScopeWriteEvents Scope = "events:write" // send events over HTTP
)

// Scopes lists every scope, in the order in which they are shown.
var Scopes = []Scope{ScopeAdmin, ScopeRead, ScopeWriteEvents}

// ValidScopes returns nil for one or several scopes that there are, each named
// once.
func ValidScopes(scopes []Scope) error {
	if len(scopes) == 0 {
		return fmt.Errorf("no scope is named; there are %s: %w", JoinScopes(Scopes, ", "), ErrInvalid)
	}
	for i, s := range scopes {
		switch {
		case !slices.Contains(Scopes, s):
			return fmt.Errorf("scope %.40q is none of %s: %w", s, JoinScopes(Scopes, ", "), ErrInvalid)
		case slices.Contains(scopes[:i], s):
			return fmt.Errorf("scope %q is named twice: %w", s, ErrInvalid)
		}
	}
	return nil
}

// JoinScopes writes scopes one after the other.
func JoinScopes(scopes []Scope, separator string) string {
	words := make([]string, len(scopes))
	for i, s := range scopes {
		words[i] = string(s)
	}
	return strings.Join(words, separator)
}

// TokenID names a token in public; it is no secret.
type TokenID string

var tokenID = regexp.MustCompile(`^tok_[a-z2-7]{16}$`)

// ValidTokenID returns nil for what may be the id of a token.
func ValidTokenID(s string) error {
	if !tokenID.MatchString(s) {
		return fmt.Errorf("%.40q is no id of a token, such as tok_abcdefghijklmnop: %w", HideSecrets(s), ErrInvalid)
	}
	return nil
}

// MaxTokenName is how many characters the name of a token may have.
const MaxTokenName = 64

// ValidTokenName returns nil for a name that a person may give to a token: one
// line of printable text that is no secret itself.
func ValidTokenName(s string) error {
	switch {
	case s == "":
		return fmt.Errorf("the name is empty: %w", ErrInvalid)
	case utf8.RuneCountInString(s) > MaxTokenName:
		return fmt.Errorf("the name has %d characters, at most %d are allowed: %w", utf8.RuneCountInString(s), MaxTokenName, ErrInvalid)
	case !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }):
		return fmt.Errorf("the name is not one line of printable text: %w", ErrInvalid)
	case strings.TrimSpace(s) != s:
		return fmt.Errorf("the name begins or ends with a space: %w", ErrInvalid)
	case HideSecrets(s) != s:
		return fmt.Errorf("the name looks like a token, which is a secret: %w", ErrInvalid)
	}
	return nil
}

// Token is what is known of a token, without its secret.
type Token struct {
	ID        TokenID
	Name      string
	Scopes    []Scope
	Created   time.Time
	CreatedBy string
	Expires   time.Time // zero for never
	LastUsed  time.Time // zero for never
	Revoked   time.Time // zero while it is not
}

// Caller is who makes a request. ID is "" for the administrator's own token,
// which lies in a file and is none of those that were created.
type Caller struct {
	ID      TokenID
	Name    string
	Scopes  []Scope
	Expires time.Time // zero for never
}

// May reports whether the caller has a scope. Nobody has one that there is not.
func (c *Caller) May(s Scope) bool {
	return slices.Contains(Scopes, s) && (slices.Contains(c.Scopes, s) || slices.Contains(c.Scopes, ScopeAdmin))
}

// String names the caller where it is recorded who did something. Another's name
// cannot pass for the administrator's, since an id follows it.
func (c *Caller) String() string {
	if c.ID == "" {
		return c.Name
	}
	return fmt.Sprintf("%s (%s)", c.Name, c.ID)
}

// Actor is a caller who changes something, and where the request came from.
type Actor struct {
	Caller
	Remote string // address, without the port
}

// Action is a kind of change that is written to the audit log.
type Action string

const (
	ActionTokenCreate       Action = "token.create"
	ActionTokenRevoke       Action = "token.revoke"
	ActionEntryReverse      Action = "entry.reverse"
	ActionQuarantineRelease Action = "quarantine.release"
)

// AuditRecord is one line of the audit log: who did what, when, from where.
type AuditRecord struct {
	Number int64 // from 1 on, in the order in which they were written
	At     time.Time
	Token  TokenID // "" for the administrator's
	Actor  string  // the token's name then
	Remote string
	Action Action
	Object string // what it was done to
	Detail string
}

// SecretPrefix begins the secret of every token, so that one that leaked is
// recognised by scanners.
const SecretPrefix = "odm_"

var secret = regexp.MustCompile(`(?i)odm_[a-z2-7]{8,}`)

// HideSecrets returns s with what looks like the secret of a token taken out:
// for what is logged or answered and repeats what came from outside.
func HideSecrets(s string) string {
	if !strings.Contains(strings.ToLower(s), SecretPrefix) { // the rule
		return s
	}
	return secret.ReplaceAllLiteralString(s, SecretPrefix+"…")
}
