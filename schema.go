package odometer

import (
	_ "embed"
	"slices"
)

//go:embed schema/event-1.1.json
var eventSchema []byte

//go:embed schema/entry-1.1.json
var entrySchema []byte

// EventSchema returns the JSON Schema (draft 2020-12) of events, versions 1.0
// and 1.1. It refuses nothing that [DecodeEvent] takes; what DecodeEvent
// refuses beyond it, the schema's description names.
func EventSchema() []byte { return slices.Clone(eventSchema) }

// EntrySchema returns the JSON Schema of ledger entries, which refers to that
// of events by the name event-1.1.json beside it.
func EntrySchema() []byte { return slices.Clone(entrySchema) }
