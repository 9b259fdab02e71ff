package audit

import (
	"fmt"
	"slices"
)

// Report is what an audit found. Its JSON form is a contract: members are
// only ever added.
type Report struct {
	// OK says that every invariant holds: there is no finding. Events in
	// quarantine or held, conflicts that the ledger refused and declared gaps
	// are facts about the world, not faults of the ledger: they are counted
	// and OK stays true.
	OK bool `json:"ok"`

	Events    int64 `json:"events"`    // distinct events whose usage is in the totals
	Instances int64 `json:"instances"` // that have usage booked
	Epochs    int64 `json:"epochs"`    // that have usage booked

	Duplicated   int64 `json:"duplicated"`   // findings of usage counted more than once
	Lost         int64 `json:"lost"`         // findings of something received that is not accounted for
	Overlaps     int64 `json:"overlaps"`     // findings of spans booked over one another
	Unreconciled int64 `json:"unreconciled"` // findings of sums, tables or contents that differ

	Conflicts   int64 `json:"conflicts"`   // events refused because their identity was recorded with other content
	Quarantined int64 `json:"quarantined"` // events in quarantine now
	GapSeconds  int64 `json:"gap_seconds"` // time declared as measured by nobody, whole seconds

	// Received = Recorded + Covered + Duplicates + Quarantined + Held.
	Received   int64 `json:"received"`
	Recorded   int64 `json:"recorded"`
	Covered    int64 `json:"covered"`
	Duplicates int64 `json:"duplicates"`
	Held       int64 `json:"held"`

	Records     int64 `json:"records"` // of the journal
	Entries     int64 `json:"entries"`
	Recovered   int64 `json:"recovered"`   // entries that book what never arrived
	Corrections int64 `json:"corrections"` // entries that change what was booked before

	Checked       []string         `json:"checked"` // the invariants that were examined
	Findings      []Finding        `json:"findings"`
	FindingsTotal int64            `json:"findings_total"` // of which Findings lists the first of each code
	FindingCounts map[string]int64 `json:"finding_counts"`
	Warnings      []string         `json:"warnings"` // what could not be examined, or will mend by itself
	Topic         Topic            `json:"topic"`
	Pruned        Pruned           `json:"pruned"` // records that are gone, from whose signed heads the audit started
}

// Finding is one thing that does not hold.
type Finding struct {
	Code   string `json:"code"`
	Detail string `json:"detail"` // what, where, and what was expected
}

// findingsPerCode is how many findings of one code are listed: enough to see
// the pattern, and a ledger that is wrong everywhere stays readable.
const findingsPerCode = 20

// The codes of findings, by the number of the report that they raise.
var raises = map[string]func(*Report) *int64{
	// Usage counted twice.
	"booked_twice": duplicated, // an event or a sequence number has two bookings
	"after_final":  duplicated, // something is booked after its epoch had ended

	// Something received is not accounted for.
	"journal_position":    lost, // positions of a partition are not dense
	"journal_entries":     lost, // entry numbers of a partition are not dense
	"journal_runs":        lost, // outcomes do not cover the records of a frame
	"journal_frame":       lost, // a record of the journal takes other positions of a spool than it has
	"receipt":             lost, // a receipt lies beyond what the journal holds, or before it
	"spool_hole":          lost, // positions of a spool were skipped
	"sequence_hole":       lost, // an epoch's bookings skip a sequence number
	"tiling":              lost, // an epoch's bookings leave out a time
	"unbooked":            lost, // an event is called recorded and has no booking
	"duplicate_unfounded": lost, // called a duplicate, and nothing like it was received before
	"covered_unfounded":   lost, // called covered, and lies beyond the watermark
	"held_lost":           lost, // held in the journal and not in the table
	"quarantine_lost":     lost, // quarantined in the journal and not in the table

	// Spans booked over one another.
	"overlap":    overlaps,
	"superseded": overlaps, // an epoch goes on beyond where another goes on from it

	// Things that must be equal and are not.
	"journal_chain":    unreconciled, // the hash does not follow from the record and its predecessor
	"journal_checksum": unreconciled, // the checksum is not that of the record
	"journal_body":     unreconciled, // what was received cannot be read
	"journal_result":   unreconciled, // what was decided cannot be read
	"journal_span":     unreconciled, // min_us, max_us are not the span of the entries
	"partition":        unreconciled, // something lies in a partition where it does not belong
	"released":         unreconciled, // an outcome changed that was not held or quarantined
	"entry":            unreconciled, // a booking contradicts the event that it books
	"handovers":        unreconciled, // an agent was told another end of an epoch than it has, or the table says something else
	"lifecycle":        unreconciled, // the log of what happened is not what the events tell
	"reversal":         unreconciled, // a correction is not the negation of an entry that somebody decided to reverse
	"ownership":        unreconciled, // who owned what is not what was decided, or usage was moved otherwise than that
	"attribution":      unreconciled, // somebody has usage of an instance that was another's
	"close":            unreconciled, // a month was closed twice, by nobody, or not everywhere, or the table says otherwise
	"statement":        unreconciled, // a statement is not what was booked of its month before that was closed
	"statement_table":  unreconciled, // a statement is not what was decided, or has another hash
	"adjustments":      unreconciled, // the table says otherwise than the entries what they have of closed months
	"reversal_table":   unreconciled, // the table says otherwise than the journal what was reversed
	"elapsed":          unreconciled, // measured, estimated and gap time are not the span
	"conservation":     unreconciled, // usage is not the difference of the readings
	"counts":           unreconciled, // received is not the sum of the outcomes, or a count is off
	"hours":            unreconciled, // an owner's hour is not what the entries say
	"months":           unreconciled, // a day of a month is not the sum of its hours
	"owner_days":       unreconciled, // an owner's hour is not the sum over the epochs
	"owner_months":     unreconciled, // an owner's day is not the sum over the epochs
	"open_from":        unreconciled, // an open hour that questions do not look at
	"owner_epochs":     unreconciled, // usage of an owner that questions about it do not find
	"epochs":           unreconciled, // a watermark is not where the entries end
	"digests":          unreconciled, // the memory of what was recorded is wrong
	"held_table":       unreconciled, // a row of held that the journal does not know
	"quarantine_table": unreconciled, // a row of quarantine that the journal does not know
	"coverage":         unreconciled, // the covered periods are not those booked
	"checkpoints":      unreconciled, // a checkpoint's place is wrong
	"table":            unreconciled, // a row cannot be read
	"storage":          unreconciled, // the database contradicts itself: an index says something else than its table
	"head":             unreconciled, // what is kept of a pruned journal is not what was signed
	"generation":       unreconciled, // the table of generations is not what the journal says
	"feed_cursor":      unreconciled, // the feed claims to have published what is not booked
	"topic_missing":    unreconciled, // an entry was published and is not in the topic
	"topic_differs":    unreconciled, // a message is not the entry that it names
	"topic_repeated":   unreconciled, // the topic has an entry twice
	"topic_sum":        unreconciled, // an owner's sum differs
}

func duplicated(r *Report) *int64   { return &r.Duplicated }
func lost(r *Report) *int64         { return &r.Lost }
func overlaps(r *Report) *int64     { return &r.Overlaps }
func unreconciled(r *Report) *int64 { return &r.Unreconciled }

func newReport() *Report {
	return &Report{Checked: []string{}, Findings: []Finding{}, FindingCounts: map[string]int64{}, Warnings: []string{}}
}

// find adds a finding.
func (r *Report) find(code, format string, args ...any) { r.findMany(code, 1, format, args...) }

// findMany adds one finding about n things of its kind, such as n positions
// that are missing in one place.
func (r *Report) findMany(code string, n int64, format string, args ...any) {
	raise := raises[code]
	if raise == nil {
		panic("audit: no such finding: " + code)
	}
	*raise(r) += max(n, 1)
	r.FindingsTotal++
	r.FindingCounts[code]++
	if r.FindingCounts[code] <= findingsPerCode {
		r.Findings = append(r.Findings, Finding{code, fmt.Sprintf(format, args...)})
	}
}

func (r *Report) warn(format string, args ...any) {
	r.Warnings = append(r.Warnings, fmt.Sprintf(format, args...))
}

func (r *Report) checked(names ...string) {
	for _, n := range names {
		if !slices.Contains(r.Checked, n) {
			r.Checked = append(r.Checked, n)
		}
	}
}
