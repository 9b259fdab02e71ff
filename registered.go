package odometer

import (
	"fmt"
	"time"
	"unicode"
	"unicode/utf8"
)

// Registered is what people keep of an instance, beside what agents tell and what is
// booked: a name and labels of their own. It is known in accounts, enters no ledger and
// can be erased.
type Registered struct {
	Instance InstanceID
	Name     string            // "" for none
	Labels   map[string]string // nil for none
	Of       Owner             // in whose name; the zero Owner for the operator's
	Version  int64             // from 1, another one with each change
	Created  time.Time
	Updated  time.Time
	Deleted  time.Time // zero while it is not; name and labels are erased then
}

// Shown reports whether what is kept is shown to v of an instance that has an owner now:
// what somebody called it to whom it belonged before is not the next one's to know.
func (r *Registered) Shown(v View, owner Owner) bool {
	return v.All() || r.Of == Owner{} || r.Of == owner
}

// MaxLabels is how many labels an instance may have; key and value have at most
// [MaxDescribedText] bytes each.
const MaxLabels = 64

// ValidRegisteredName returns nil for "" and for one line of printable text that is no
// secret.
func ValidRegisteredName(s string) error {
	if s == "" {
		return nil
	}
	return ValidName(s)
}

// ValidLabels returns nil for at most [MaxLabels] labels of printable text that is no
// secret, whose keys are not empty and have no colon, by which a key is told from its
// value.
func ValidLabels(labels map[string]string) error {
	if len(labels) > MaxLabels {
		return fmt.Errorf("there are %d, at most %d are allowed: %w", len(labels), MaxLabels, ErrInvalid)
	}
	for key, value := range labels {
		if key == "" {
			return fmt.Errorf("one has no key: %w", ErrInvalid)
		}
		for i, s := range [...]string{key, value} {
			switch {
			case len(s) > MaxDescribedText:
				return fmt.Errorf("%.40q has %d bytes, at most %d are allowed: %w", HideSecrets(s), len(s), MaxDescribedText, ErrInvalid)
			case HideSecrets(s) != s:
				return fmt.Errorf("one looks like a token, which is a secret: %w", ErrInvalid)
			}
			for _, r := range s {
				if r == utf8.RuneError || !unicode.IsPrint(r) || i == 0 && (r == ':' || unicode.IsSpace(r)) {
					return fmt.Errorf("%.40q has the character %q, which is not allowed: %w", s, r, ErrInvalid)
				}
			}
		}
	}
	return nil
}
