package odometer

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Identifiers. Each kind has its own type so that one cannot be passed for
// another. All follow the same grammar, checked by [ValidID].
type (
	InstanceID string // a virtual machine, unique in the fleet
	UserID     string // a user account
	OrgID      string // an organisation; "" for none
	AgentID    string // the host or process that measured
	SpoolID    string // one agent's spool on one disk, 32 hex digits
	LedgerID   string // one ledger, 32 hex digits
)

// MaxIDBytes is the longest identifier that is accepted, in bytes of UTF-8.
const MaxIDBytes = 128

// Partitions is the number of partitions of the ledger, fixed for ever: an
// agent's partition decides where its usage is booked.
const Partitions = 64

// notInID are the printable characters that an identifier must not have.
const notInID = `/"\<>`

// ValidID returns nil when s is 1 to 128 bytes of printable UTF-8 without
// spaces, slashes, quotes, backslashes or control characters, and otherwise an
// error wrapping [ErrInvalid] that says what is wrong with it. Kind names the
// identifier in that error.
func ValidID(kind, s string) error {
	ascii := s != "" && len(s) <= MaxIDBytes
	for i := 0; i < len(s) && ascii; i++ {
		ascii = idByte[s[i]]
	}
	switch {
	case ascii:
		return nil
	case s == "":
		return fmt.Errorf("%s is empty: %w", kind, ErrInvalid)
	case len(s) > MaxIDBytes:
		return fmt.Errorf("%s is %d bytes long, at most %d are allowed: %w", kind, len(s), MaxIDBytes, ErrInvalid)
	case !utf8.ValidString(s):
		return fmt.Errorf("%s is not valid UTF-8: %w", kind, ErrInvalid)
	}
	for _, r := range s {
		if !unicode.IsPrint(r) || unicode.IsSpace(r) || strings.ContainsRune(notInID, r) {
			return fmt.Errorf("%s %q has the character %q, which is not allowed: %w", kind, s, r, ErrInvalid)
		}
	}
	return nil
}

// idByte[c] says that byte c may stand in an identifier and is ASCII.
var idByte = func() (t [256]bool) {
	for c := byte('!'); c <= '~'; c++ {
		t[c] = !strings.ContainsRune(notInID, rune(c))
	}
	return t
}()

// Partition returns the partition, 0 to [Partitions]-1, in which everything
// that this agent measured is booked. It never changes for a given id.
func (a AgentID) Partition() int {
	sum := sha256.Sum256([]byte(a))
	return int(sum[0]) % Partitions
}

// Epoch identifies one odometer of one instance at one agent: 128 bits as 32
// lower-case hex digits. See [NewEpoch].
type Epoch string

// NewEpoch derives an epoch from the instance, the agent, what makes the
// agent's state directory unique, and the moment of creation (or the source's
// own name for the epoch). The same arguments give the same epoch.
func NewEpoch(instance InstanceID, agent AgentID, nonce, moment string) Epoch {
	h := sha256.New()
	for _, s := range []string{"odometer epoch", string(instance), string(agent), nonce, moment} {
		fmt.Fprintf(h, "%d:%s,", len(s), s)
	}
	return Epoch(hex.EncodeToString(h.Sum(nil)[:16]))
}

// Valid returns nil when e is 32 lower-case hex digits.
func (e Epoch) Valid() error {
	if len(e) != 32 || strings.Trim(string(e), "0123456789abcdef") != "" {
		return fmt.Errorf("epoch %q is not 32 lower-case hex digits: %w", e, ErrInvalid)
	}
	return nil
}
