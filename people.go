package odometer

import (
	"crypto/sha256"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Organisation is a customer who is charged. Its id is what events and entries
// name as [Owner].Org; everything else about it can be erased.
type Organisation struct {
	ID      OrgID
	Name    string // "" once it is deleted
	Version int64  // from 1 on; another one with each change
	Created time.Time
	Updated time.Time
	Deleted time.Time // zero while it is not
}

// User is a person or what stands for one. Its id is what events and entries name
// as [Owner].User; everything else about it can be erased.
type User struct {
	ID      UserID
	Name    string // "" once it is deleted
	Email   string // "" for none
	Version int64  // from 1 on; another one with each change
	Created time.Time
	Updated time.Time
	Deleted time.Time // zero while it is not
}

// Membership makes a user a member of an organisation.
type Membership struct {
	Org     OrgID
	User    UserID
	Role    Role
	Version int64 // from 1 on; another one with each change
	Created time.Time
	Updated time.Time
}

// Role is what a user is in an organisation.
type Role string

const (
	RoleOwner   Role = "owner"
	RoleAdmin   Role = "admin"
	RoleBilling Role = "billing"
	RoleMember  Role = "member"
)

// Roles lists every role, the one that may most first.
var Roles = []Role{RoleOwner, RoleAdmin, RoleBilling, RoleMember}

// Right is something that a role gives in its organisation.
type Right string

const (
	SeeOrganisation    Right = "see the organisation"
	SeeUsage           Right = "see the usage of all" // its entries, its instances and what is open, too
	SeeMembers         Right = "see all members"      // everybody sees himself
	ChangeOrganisation Right = "change its name"
	ManageMembers      Right = "add and remove members" // but owners
	ManageOwners       Right = "add and remove owners"  // and delete the organisation
	ManageGrants       Right = "give grants on its instances"
	ManageThresholds   Right = "keep its thresholds and channels"
)

// Rights lists every right.
var Rights = []Right{SeeOrganisation, SeeUsage, SeeMembers, ChangeOrganisation, ManageMembers, ManageOwners, ManageGrants, ManageThresholds}

// rights is the table of docs/access.md. What is the user's own he sees without any.
var rights = map[Role][]Right{
	RoleOwner:   {SeeOrganisation, SeeUsage, SeeMembers, ChangeOrganisation, ManageMembers, ManageOwners, ManageGrants, ManageThresholds},
	RoleAdmin:   {SeeOrganisation, SeeUsage, SeeMembers, ChangeOrganisation, ManageMembers, ManageGrants, ManageThresholds},
	RoleBilling: {SeeOrganisation, SeeUsage},
	RoleMember:  {SeeOrganisation},
}

// Gives reports whether a role has a right. What is no role has none.
func (r Role) Gives(right Right) bool { return slices.Contains(rights[r], right) }

// ValidRole returns nil for one of [Roles].
func ValidRole(r Role) error {
	if !slices.Contains(Roles, r) {
		words := make([]string, len(Roles))
		for i, role := range Roles {
			words[i] = string(role)
		}
		return fmt.Errorf("role %.40q is none of %s: %w", r, strings.Join(words, ", "), ErrInvalid)
	}
	return nil
}

// ValidUserID returns nil for the id of a user that there may be. [Unassigned]
// is none: who had it would own what nobody was named for.
func ValidUserID(id UserID) error {
	if id == Unassigned {
		return fmt.Errorf("the user id %q stands for nobody: %w", id, ErrInvalid)
	}
	return validPathID("user id", string(id))
}

// ValidOrgID returns nil for the id of an organisation that there may be.
func ValidOrgID(id OrgID) error { return validPathID("organisation id", string(id)) }

// validPathID is [ValidID] for what stands in an address, where . and .. lead
// elsewhere.
func validPathID(kind, s string) error {
	if s == "." || s == ".." {
		return fmt.Errorf("%s %q has a meaning in addresses: %w", kind, s, ErrInvalid)
	}
	return ValidID(kind, s)
}

// MaxName is how many characters the name of a user or an organisation may have.
const MaxName = 128

// ValidName returns nil for the name of a user or an organisation: one line of
// printable text that is no secret.
func ValidName(s string) error { return validLine(s, MaxName) }

// validLine returns nil for one line of printable text that is no secret itself.
func validLine(s string, most int) error {
	switch {
	case s == "":
		return fmt.Errorf("the name is empty: %w", ErrInvalid)
	case utf8.RuneCountInString(s) > most:
		return fmt.Errorf("the name has %d characters, at most %d are allowed: %w", utf8.RuneCountInString(s), most, ErrInvalid)
	case !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }):
		return fmt.Errorf("the name is not one line of printable text: %w", ErrInvalid)
	case strings.TrimSpace(s) != s:
		return fmt.Errorf("the name begins or ends with a space: %w", ErrInvalid)
	case HideSecrets(s) != s:
		return fmt.Errorf("the name looks like a token, which is a secret: %w", ErrInvalid)
	}
	return nil
}

// maxEmail is what RFC 5321 leaves for an address, in bytes.
const maxEmail = 254

var email = regexp.MustCompile(`^[^@]+@[^@]+$`)

// ValidEmail returns nil for "" and for what may be an e-mail address. Whether it
// is one only a mail to it tells.
func ValidEmail(s string) error {
	switch {
	case s == "":
		return nil
	case len(s) > maxEmail:
		return fmt.Errorf("the e-mail address has %d bytes, at most %d are allowed: %w", len(s), maxEmail, ErrInvalid)
	case !utf8.ValidString(s) || !email.MatchString(s) || HideSecrets(s) != s ||
		strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) || unicode.IsSpace(r) }):
		return fmt.Errorf("%.40q is no e-mail address: %w", HideSecrets(s), ErrInvalid)
	}
	return nil
}

// AnyVersion is the version to name where a change shall be made to whatever
// there is.
const AnyVersion int64 = 0

// Once names a change so that, asked for again, it is answered as the first time
// and not made again. The zero Once names none.
type Once struct {
	Key     string            // chosen by who asks; at most MaxOnceKey bytes
	Request [sha256.Size]byte // of all that was asked for
}

// MaxOnceKey bounds the key of a [Once], in bytes.
const MaxOnceKey = 128

// Why a change is refused, each an [ErrConflict].
var (
	// ErrStale says that what is to be changed is no longer of the version that
	// was named.
	ErrStale = fmt.Errorf("%w: it was changed meanwhile", ErrConflict)
	// ErrReused says that the key of a [Once] names another change.
	ErrReused = fmt.Errorf("%w: the key was used for another request", ErrConflict)
)
