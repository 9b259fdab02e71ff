package odometer

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Scope is something that the holder of a token may do.
type Scope string

const (
	ScopeAdmin       Scope = "admin"        // everything
	ScopeRead        Scope = "read"         // usage, events, instances, status, health, metrics
	ScopeWriteEvents Scope = "events:write" // send events over HTTP
	ScopeAccount     Scope = "account"      // of a user's token: change what the user may, tokens of his own among it
)

// Scopes lists every scope, in the order in which they are shown.
var Scopes = []Scope{ScopeAdmin, ScopeRead, ScopeWriteEvents, ScopeAccount}

// Bound says whose a token is: a user's, or a service's that is bound to an
// organisation. The zero Bound is a service of the operator's.
type Bound struct {
	User UserID
	Org  OrgID
}

// scopes are those that a token of each kind may have.
func (b Bound) scopes() []Scope {
	switch {
	case b.User != "":
		return []Scope{ScopeRead, ScopeAccount}
	case b.Org != "":
		return []Scope{ScopeRead}
	}
	return []Scope{ScopeAdmin, ScopeRead, ScopeWriteEvents}
}

// holder names the kind in a sentence.
func (b Bound) holder() string {
	switch {
	case b.User != "":
		return "a user's token"
	case b.Org != "":
		return "the token of an organisation's service"
	}
	return "the token of a service"
}

// ValidScopes returns nil for one or several scopes, each named once, that a token
// may have which is bound as b says.
func ValidScopes(b Bound, scopes []Scope) error {
	if b.User != "" && b.Org != "" {
		return fmt.Errorf("a token is a user's or an organisation's, not both: %w", ErrInvalid)
	}
	if len(scopes) == 0 {
		return fmt.Errorf("no scope is named; there are %s: %w", JoinScopes(Scopes, ", "), ErrInvalid)
	}
	for i, s := range scopes {
		switch {
		case !slices.Contains(Scopes, s):
			return fmt.Errorf("scope %.40q is none of %s: %w", s, JoinScopes(Scopes, ", "), ErrInvalid)
		case slices.Contains(scopes[:i], s):
			return fmt.Errorf("scope %q is named twice: %w", s, ErrInvalid)
		case !slices.Contains(b.scopes(), s):
			return fmt.Errorf("%s cannot have the scope %s, only %s: %w", b.holder(), s, JoinScopes(b.scopes(), ", "), ErrInvalid)
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
func ValidTokenName(s string) error { return validLine(s, MaxTokenName) }

// Token is what is known of a token, without its secret.
type Token struct {
	ID        TokenID
	Name      string
	Bound     // whose it is
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
	Bound   // whose token it is; only narrowed by its scopes
	Scopes  []Scope
	Expires time.Time // zero for never
	// Memberships are the user's when the request came. They are shared, and
	// replaced as a whole when one changes.
	Memberships []Membership
	// Grants are those that the user holds, in order of their instances; shared as
	// well.
	Grants []Grant
}

// May reports whether the caller has a scope. Nobody has one that there is not,
// nor one that does not go with whose the token is, whatever the token says.
func (c *Caller) May(s Scope) bool {
	if c.Bound == (Bound{}) && slices.Contains(c.Scopes, ScopeAdmin) {
		return slices.Contains(Scopes, s)
	}
	return slices.Contains(c.scopes(), s) && slices.Contains(c.Scopes, s)
}

// RoleIn returns what the caller is in an organisation, "" for nothing.
func (c *Caller) RoleIn(org OrgID) Role {
	for i := range c.Memberships {
		if c.Memberships[i].Org == org {
			return c.Memberships[i].Role
		}
	}
	return ""
}

// MayManage reports whether the caller may make, change and delete thresholds and
// channels of a holder: the administrator those of all, a user his own and those of
// organisations in which his role gives it.
func (c *Caller) MayManage(h Bound) bool {
	switch {
	case !c.May(ScopeAccount):
		return false
	case c.May(ScopeAdmin):
		return true
	case h.Org != "":
		return h.User == "" && c.RoleIn(h.Org).Gives(ManageThresholds)
	}
	return h.User != "" && h.User == c.User
}

// MaySee reports whether the caller sees thresholds and channels of a holder: who
// sees all of what is the holder's usage does.
func (c *Caller) MaySee(h Bound) bool {
	v := c.View()
	return v.Sees(Owner(h)) && (h.User == "" || h.Org == "" || v.All())
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
	ActionOrgCreate         Action = "organization.create"
	ActionOrgUpdate         Action = "organization.update"
	ActionOrgDelete         Action = "organization.delete"
	ActionUserCreate        Action = "user.create"
	ActionUserUpdate        Action = "user.update"
	ActionUserDelete        Action = "user.delete"
	ActionMemberAdd         Action = "member.add"
	ActionMemberUpdate      Action = "member.update"
	ActionMemberRemove      Action = "member.remove"
	ActionEntryReverse      Action = "entry.reverse"
	ActionQuarantineRelease Action = "quarantine.release"
	ActionInstanceAssign    Action = "instance.assign"
	ActionInstanceCreate    Action = "instance.create"
	ActionInstanceUpdate    Action = "instance.update"
	ActionInstanceDelete    Action = "instance.delete"
	ActionChangeRefused     Action = "change.refused" // to whoever asked for it
	ActionLoginRefused      Action = "login.refused"  // a token that is not known
	ActionGrantAdd          Action = "grant.add"
	ActionGrantUpdate       Action = "grant.update"
	ActionGrantEnd          Action = "grant.end"
	ActionIdentityAdd       Action = "identity.add"
	ActionIdentityRemove    Action = "identity.remove"
	ActionMonthClose        Action = "month.close"
	ActionChannelCreate     Action = "channel.create"
	ActionChannelUpdate     Action = "channel.update"
	ActionChannelDelete     Action = "channel.delete"
	ActionChannelTest       Action = "channel.test"
	ActionChannelRetry      Action = "channel.retry"
)

// AuditQuery selects lines of the audit log, the newest first. Fields that are zero
// select all.
type AuditQuery struct {
	Before int64 // the number of a line: those that were written before it
	Limit  int
	Actor  string // name or id of a token, or the id of its user
	Action Action // or what stands before its dot: all that are done with that
	Object string
	From   int64 // microseconds, inclusive
	To     int64 // exclusive
}

// AuditRecord is one line of the audit log: who did what, when, from where.
type AuditRecord struct {
	Number int64 // from 1 on, in the order in which they were written
	At     time.Time
	Token  TokenID // "" for the administrator's
	User   UserID  // whose token it is, "" for a service's
	Actor  string  // the token's name then
	Remote string
	Action Action
	Object string // what it was done to
	Detail string
}

// SecretPrefix begins the secret of every token, so that one that leaked is
// recognised by scanners.
const SecretPrefix = "odm_"

var (
	secret = regexp.MustCompile(`(?i)odm_[a-z2-7]{8,}`)
	seed   = regexp.MustCompile(`(?i)S[ACNOUX][a-z2-7]{56}`) // of a key pair, as NATS writes it
)

// signed is a token that an issuer signed, or a part of one: JSON in base64, which
// begins with {"
var signed = regexp.MustCompile(`eyJ[A-Za-z0-9_-]{8,}(\.[A-Za-z0-9_-]*)*`)

// HideSecrets returns s with what looks like the secret of a token, the seed of a
// key or a signed token taken out: for what is logged or answered and repeats what
// came from outside.
func HideSecrets(s string) string {
	if strings.Contains(s, "eyJ") {
		s = signed.ReplaceAllLiteralString(s, "eyJ…")
	}
	if strings.Contains(strings.ToLower(s), SecretPrefix) { // seldom
		s = secret.ReplaceAllLiteralString(s, SecretPrefix+"…")
	}
	if len(s) >= seedChars {
		s = seed.ReplaceAllLiteralString(s, "S…")
	}
	return s
}

// seedChars is how long the text of a seed is.
const seedChars = 58
