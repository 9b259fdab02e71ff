package odometer

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Level is how far a grant on an instance goes. Every level shows the instance; what
// else each gives is in docs/access.md.
type Level string

const (
	LevelOwner    Level = "owner"
	LevelManager  Level = "manager"
	LevelOperator Level = "operator"
	LevelReadOnly Level = "readonly"
)

// Levels lists every level, the one that gives most first.
var Levels = []Level{LevelOwner, LevelManager, LevelOperator, LevelReadOnly}

// ValidLevel returns nil for one of [Levels].
func ValidLevel(l Level) error {
	if !slices.Contains(Levels, l) {
		words := make([]string, len(Levels))
		for i, level := range Levels {
			words[i] = string(level)
		}
		return fmt.Errorf("level %.40q is none of %s: %w", l, strings.Join(words, ", "), ErrInvalid)
	}
	return nil
}

// Gives reports whether who holds a grant of this level gives, changes and ends those
// of another level on the same instance: owners and managers do, of the levels below
// their own. What is no level gives and is given by nobody.
func (l Level) Gives(other Level) bool {
	mine, others := slices.Index(Levels, l), slices.Index(Levels, other)
	return (l == LevelOwner || l == LevelManager) && others > mine
}

// Grant lets a user see an instance that is not his own, from a moment on.
type Grant struct {
	Instance InstanceID
	User     UserID // who holds it
	Level    Level
	// Of is in whose name it is given: it shows what is charged to that owner, and
	// nothing of what the instance uses for another one. The zero Owner is the
	// operator's: it shows whatever the instance uses.
	Of      Owner
	Since   time.Time // what is used from then on is seen: the beginning of an hour (UTC)
	Expires time.Time // zero for never; from then on nothing is seen any more
	By      UserID    // who gave it or changed it last, "" for the operator
	Version int64     // another one with each change
	Created time.Time
	Updated time.Time
}

// Standing reports whether the grant has not expired, at a moment in microseconds.
func (g *Grant) Standing(now int64) bool { return g.Expires.IsZero() || now < g.Expires.UnixMicro() }

// shows reports whether the grant is about what is an owner's.
func (g *Grant) shows(o Owner) bool { return g.Of == Owner{} || g.Of == o }
