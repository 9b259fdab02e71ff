// Package odometer is the vocabulary of the metering system: the words that
// every stage speaks and no stage owns.
//
// A source of readings (package sampler) produces a [Reading] of an instance:
// cumulative counters and gauges at one moment. The meter folds readings into
// the instance's odometer, a [Vector] of running totals that only grows, and
// cuts it into events: an [Event] is the difference of two odometer values
// over a [Span] of time. Events travel as [Record]s in a [Frame] and are freed
// by a [Receipt]; the ledger books each as an [Entry] and never twice.
//
// Everything here is a value: integers in fixed units, typed identifiers,
// their validation, and their encodings. Nothing here reads a clock, a file
// or a network. Quantities are integers throughout; the floating-point fields
// of the wire format are derived when an event is written and never read back
// for an event that carries integers.
package odometer

import "errors"

// The kinds of failure. Stages wrap one of these where a caller must be able
// to tell them apart; package api maps each to one HTTP status.
var (
	ErrNotFound    = errors.New("not found")
	ErrInvalid     = errors.New("invalid")
	ErrConflict    = errors.New("conflict")
	ErrForbidden   = errors.New("forbidden")
	ErrUnavailable = errors.New("unavailable")
)

// Reserved names for usage whose owner nobody has named.
const (
	Unassigned UserID = "unassigned"
)

// Owner is who an instance belongs to at some moment.
// The zero Owner means that nobody was named; see [Owner.OrUnassigned].
type Owner struct {
	User UserID
	Org  OrgID // "" for no organisation
}

// OrUnassigned returns o, or the unassigned owner where o names no user.
func (o Owner) OrUnassigned() Owner {
	if o.User == "" {
		return Owner{User: Unassigned, Org: o.Org}
	}
	return o
}

// State is what a virtual machine was doing; it decides which integrals
// advance until the next reading (see the table in package meter).
type State string

const (
	Running State = "running"
	Paused  State = "paused"
	Stopped State = "stopped"
)

// Valid reports whether s is one of the three states.
func (s State) Valid() bool { return s == Running || s == Paused || s == Stopped }

// Quality says how the usage of an event came to be known.
type Quality string

const (
	// Measured usage lies between two readings taken on schedule.
	Measured Quality = "measured"
	// Estimated usage is exact in its counters, but nobody watched its
	// gauges meanwhile (the agent was down): they were held at their last
	// value.
	Estimated Quality = "estimated"
	// Gap marks a time nobody measured: counters were replaced meanwhile, so
	// what was used is unknown and nothing is charged.
	Gap Quality = "gap"
)

// Valid reports whether q is one of the three qualities.
func (q Quality) Valid() bool { return q == Measured || q == Estimated || q == Gap }
