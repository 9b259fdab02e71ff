package odometer

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/bits"
	"slices"
	"strings"
	"unicode/utf8"
)

// ErrVersion is what the refusal of an event of another major version wraps;
// it wraps [ErrInvalid] itself.
var ErrVersion = fmt.Errorf("version not supported: %w", ErrInvalid)

// eventDecoder reads one event or one entry.
type eventDecoder struct {
	scanner
	e     Event
	entry *Entry // nil while an event is read
	seen  uint32 // the members that were there
	extra names  // those nobody knows
	id    []byte // as it was written

	usedAt int64

	late  [5]lateMember // one for each bit of late11
	lates int
}

// lateMember is a member whose meaning depends on what else there is.
type lateMember struct {
	member   int
	from, to int // its value within the text
	extra    int // how many unknown members came before it
}

// DecodeEvent reads the JSON of one event of any version 1.x, at most
// [MaxEventBytes], and checks all that [Event.Check] does. An event with any
// of epoch, epoch_start_us, sequence, span, usage and readings must have them
// all; one with none is read as version 1.0. Members that are not known are
// kept in Extra. Integers may be written as numbers or as strings of digits.
//
// It refuses with an error wrapping [ErrInvalid] that names every member that
// is wrong and how: beside what Check finds, text that is not UTF-8 or not
// JSON or nested too deep, a member that is missing, stands twice or is
// spelt in another case, and a value of the wrong kind or too large. An event
// of another major version is refused with [ErrVersion].
//
// The event shares no memory with data.
func DecodeEvent(data []byte) (*Event, error) {
	if len(data) > MaxEventBytes {
		return nil, fmt.Errorf("event: %d bytes long, at most %d are allowed: %w", len(data), MaxEventBytes, ErrInvalid)
	}
	d := eventDecoder{scanner: scanner{data: data}}
	if err := d.decode(); err != nil {
		return nil, fmt.Errorf("event: %w", err)
	}
	e := d.e
	if err := checkEvent(&e); err != nil {
		return nil, fmt.Errorf("event: %w", err)
	}
	if err := d.checkID(&e); err != nil {
		return nil, fmt.Errorf("event: %w", err)
	}
	return &e, nil
}

// maxEntryBytes leaves room for what an entry adds to its event.
const maxEntryBytes = 2 * MaxEventBytes

// DecodeEntry reads the JSON of one entry as strictly as [DecodeEvent] reads
// an event, but for this: usage may be negative, is only a part of the
// difference of readings, and readings may be absent.
func DecodeEntry(data []byte) (*Entry, error) {
	if len(data) > maxEntryBytes {
		return nil, fmt.Errorf("entry: %d bytes long, at most %d are allowed: %w", len(data), maxEntryBytes, ErrInvalid)
	}
	entry := new(Entry)
	d := eventDecoder{scanner: scanner{data: data}, entry: entry}
	if err := d.decode(); err != nil {
		return nil, fmt.Errorf("entry: %w", err)
	}
	entry.Event = d.e
	if err := checkEntry(entry); err != nil {
		return nil, fmt.Errorf("entry: %w", err)
	}
	if err := d.checkID(&entry.Event); err != nil {
		return nil, fmt.Errorf("entry: %w", err)
	}
	return entry, nil
}

func (d *eventDecoder) decode() error {
	if !utf8.Valid(d.data) {
		return fmt.Errorf("not valid UTF-8: %w", ErrInvalid)
	}
	if !d.scanner.open('{') {
		if d.err == nil {
			d.unexpected("an object")
		}
		return d.result()
	}
	for first := true; ; {
		name, ok := d.member(&first)
		if !ok {
			break
		}
		m := memberOf(name)
		if m < 0 || m >= mEntryID && d.entry == nil {
			d.unknown(name, d.names())
			continue
		}
		if d.seen>>m&1 != 0 {
			d.note("stands twice")
			d.value()
			continue
		}
		d.seen |= 1 << m
		d.take(m)
	}
	d.end()
	if d.err != nil {
		return d.result()
	}
	d.name = nil
	if err := d.version(); err != nil {
		return err
	}
	d.finish()
	return d.result()
}

// names returns those of eventNames that belong to what is read.
func (d *eventDecoder) names() []string {
	if d.entry == nil {
		return eventNames[:mEntryID]
	}
	return eventNames[:]
}

// take reads the value of member m.
func (d *eventDecoder) take(m int) {
	e := &d.e
	switch m {
	case mType:
		if t, ok := d.string(); ok && string(t) != EventType {
			d.note("%q where %q is due", clip(string(t)), EventType)
		}
	case mVersion:
		if v, ok := d.string(); ok {
			switch string(v) {
			case Version10:
				e.Version = Version10
			case Version11:
				e.Version = Version11
			default:
				e.Version = string(v)
			}
		}
	case mID, mAgent, mQuality, mFinal, mLifecycle:
		d.peek()
		from := d.pos
		d.value()
		d.late[d.lates] = lateMember{m, from, d.pos, len(e.Extra)}
		d.lates++
	case mTimestamp:
		e.Timestamp = d.int()
	case mInstance:
		e.Instance = InstanceID(d.idText())
	case mUser:
		e.Owner.User = UserID(d.idText())
	case mOrg:
		if d.peek() == 'n' {
			d.value()
		} else {
			e.Owner.Org = OrgID(d.idText())
		}
	case mMetrics:
		d.metrics()
	case mPeriod:
		d.period()
	case mEpoch:
		t, ok := d.string()
		if e.Epoch = Epoch(t); ok && e.Epoch == "" {
			d.note("is empty")
		}
	case mEpochStart:
		e.EpochStart = d.int()
	case mSequence:
		e.Sequence = d.uint()
	case mFirst:
		e.FirstSequence = d.uint()
	case mSpan:
		d.span()
	case mUsage:
		e.Usage = d.usage(inUsage)
	case mReadings:
		d.readings()
	default:
		d.entryMember(m)
	}
}

func (d *eventDecoder) entryMember(m int) {
	switch m {
	case mEntryID:
		t, ok := d.string()
		if !ok {
			return
		}
		id, err := ParseEntryID(string(t))
		if err != nil {
			d.note("%q is not of the form partition-number", clip(string(t)))
		}
		d.entry.ID = id
	case mSource:
		t, ok := d.string()
		if d.entry.SourceEventID = string(t); ok && len(t) == 0 {
			d.note("is empty")
		}
	case mKind:
		t, _ := d.string()
		d.entry.Kind = Kind(t)
	case mUsedAt:
		// It repeats the end of the span, which may come later in the text.
		d.usedAt = d.int()
	case mBookedAt:
		d.entry.BookedAt = d.int()
	case mCause:
		t, _ := d.string()
		d.entry.Cause = string(t)
	case mAdjusts:
		d.adjusts()
	}
}

// adjusts reads the months that an entry adjusts.
func (d *eventDecoder) adjusts() {
	if d.peek() != '[' {
		d.wrong("an array")
		return
	}
	if !d.scanner.open('[') {
		return
	}
	for first := true; d.element(&first); {
		t, ok := d.string()
		if !ok {
			return
		}
		m, err := ParseMonth(string(t))
		if err != nil {
			d.note("%q is no month", clip(string(t)))
		}
		d.entry.Adjusts = append(d.entry.Adjusts, m)
	}
}

// version refuses another major version before anything else is said about
// the event: what else looks wrong may be right there.
func (d *eventDecoder) version() error {
	if d.e.Version != "" && !supported(d.e.Version) {
		return errVersion(d.e.Version)
	}
	return nil
}

// finish reads the late members, now that the shape is known, and says what
// is missing.
func (d *eventDecoder) finish() {
	e := &d.e
	required := uint32(required10)
	switch {
	case d.entry != nil:
		required |= requiredEntry
		if d.seen&(integral11|1<<mFirst)&^requiredEntry != 0 {
			required |= required11 &^ (1 << mReadings)
		}
	case d.seen&(integral11|1<<mFirst) != 0:
		required = required11
	}
	end := d.pos
	if required&(1<<mID) != 0 {
		for _, l := range d.late[:d.lates] {
			d.pos, d.name = l.from, []byte(eventNames[l.member])
			d.lateMember(l.member)
		}
	} else {
		e.Quality = Measured
		for _, l := range slices.Backward(d.late[:d.lates]) {
			e.Extra = slices.Insert(e.Extra, l.extra, Member{
				Name: eventNames[l.member], Value: bytes.Clone(d.data[l.from:l.to]),
			})
		}
	}
	d.pos, d.name = end, nil
	if d.seen>>mFirst&1 == 0 {
		e.FirstSequence = e.Sequence
	}
	for missing := required &^ d.seen; missing != 0; missing &= missing - 1 {
		d.note("%s is missing", eventNames[bits.TrailingZeros32(missing)])
	}
	if d.entry != nil && d.seen>>mUsedAt&1 != 0 && d.usedAt != e.Span.End {
		d.note("used_at: %d is not the end of the span, %d", d.usedAt, e.Span.End)
	}
}

func (d *eventDecoder) lateMember(m int) {
	switch m {
	case mID:
		d.id, _ = d.string()
	case mAgent:
		d.e.Agent = AgentID(d.idText())
	case mQuality:
		t, _ := d.string()
		switch Quality(t) {
		case Measured:
			d.e.Quality = Measured
		case Estimated:
			d.e.Quality = Estimated
		default:
			d.e.Quality = Quality(t)
		}
	case mFinal:
		switch d.peek() {
		case 't':
			d.e.Final = true
		case 'f':
		default:
			d.wrong("true or false")
		}
	case mLifecycle:
		d.lifecycle()
	}
}

// checkID compares the id as it was written with the one that follows from
// the rest.
func (d *eventDecoder) checkID(e *Event) error {
	if d.seen>>mID&1 == 0 || d.id == nil {
		return nil
	}
	var buf [256]byte
	if want := e.appendID(buf[:0]); !bytes.Equal(d.id, want) {
		return fmt.Errorf("id: %q where %q is due: %w", clip(string(d.id)), want, ErrInvalid)
	}
	return nil
}

func (d *eventDecoder) metrics() {
	if !d.enter(inMetrics) {
		return
	}
	m := &d.e.Metrics
	var seen uint32
	for first := true; ; {
		name, ok := d.member(&first)
		if !ok {
			break
		}
		i := -1
		for k, n := range metricNames {
			if n == string(name) {
				i = k
				break
			}
		}
		if !d.once(&seen, i, name, metricNames) {
			continue
		}
		switch i {
		case 0:
			m.CPUSeconds = d.uint()
		case 1:
			m.CPUPercentAvg = d.float()
		case 2:
			m.MemoryGB = d.float()
		case 3:
			m.MemoryPercent = d.float()
		case 4:
			m.StorageGB = d.float()
		case 5:
			m.NetworkEgressMB = d.float()
		case 6:
			m.NetworkIngressMB = d.float()
		case 7:
			m.GPUSeconds = d.uint()
		}
	}
	d.leave(seen, 1<<len(metricNames)-1, metricNames)
}

func (d *eventDecoder) period() {
	if !d.enter(inPeriod) {
		return
	}
	var seen uint32
	for first := true; ; {
		name, ok := d.member(&first)
		if !ok {
			break
		}
		i := slices.Index(periodNames, string(name))
		if !d.once(&seen, i, name, periodNames) {
			continue
		}
		if i == 0 {
			d.e.Period.Start = d.int()
		} else {
			d.e.Period.End = d.int()
		}
	}
	d.leave(seen, 0b11, periodNames)
}

func (d *eventDecoder) span() {
	if !d.enter(inSpan) {
		return
	}
	var seen uint32
	for first := true; ; {
		name, ok := d.member(&first)
		if !ok {
			break
		}
		i := slices.Index(spanNames, string(name))
		if !d.once(&seen, i, name, spanNames) {
			continue
		}
		switch i {
		case 0:
			d.e.Span.Start = d.int()
		case 1:
			d.e.Span.End = d.int()
		case 2:
			d.e.Span.Step = d.int()
		}
	}
	d.leave(seen, 0b11, spanNames)
}

func (d *eventDecoder) readings() {
	if !d.enter(inReadings) {
		return
	}
	var seen uint32
	for first := true; ; {
		name, ok := d.member(&first)
		if !ok {
			break
		}
		i := slices.Index(readingsNames, string(name))
		if !d.once(&seen, i, name, readingsNames) {
			continue
		}
		if i == 0 {
			d.e.Readings.Start = d.usage(inReadingsStart)
		} else {
			d.e.Readings.End = d.usage(inReadingsEnd)
		}
		d.in = inReadings
	}
	d.leave(seen, 0b11, readingsNames)
}

// usage reads an object of quantities. They are guessed to come in order.
func (d *eventDecoder) usage(in string) (u Usage) {
	if !d.enter(in) {
		return u
	}
	next := 0
	for first := true; ; {
		name, ok := d.member(&first)
		if !ok {
			break
		}
		for next < Quantities && quantityNames[next] != string(name) {
			next++
		}
		q := Quantity(next)
		if next == Quantities {
			if q, ok = QuantityOf(string(name)); !ok {
				d.unknown(name, quantityNames[:])
				next = 0
				continue
			}
		}
		next = int(q) + 1
		if u.Known.Has(q) {
			d.note("stands twice")
			d.value()
			continue
		}
		u.Known = u.Known.With(q)
		u.Vector[q] = d.int()
	}
	d.in = inEvent
	return u
}

// enter goes into an object that is the value of a known member.
func (d *eventDecoder) enter(in string) bool {
	if d.peek() != '{' {
		d.wrong("an object")
		return false
	}
	if !d.scanner.open('{') {
		return false
	}
	d.in, d.name = in, nil
	return true
}

func (d *eventDecoder) leave(seen, required uint32, known []string) {
	if d.err == nil {
		for missing := required &^ seen; missing != 0; missing &= missing - 1 {
			d.note("%s is missing", known[bits.TrailingZeros32(missing)])
		}
	}
	d.in = inEvent
}

// once reports whether member i of the known ones is to be read now. It deals
// with one that is unknown (i < 0) or was there before.
func (d *eventDecoder) once(seen *uint32, i int, name []byte, known []string) bool {
	if i < 0 {
		d.unknown(name, known)
		return false
	}
	if *seen>>i&1 != 0 {
		d.note("stands twice")
		d.value()
		return false
	}
	*seen |= 1 << i
	return true
}

// unknown keeps a member that this version does not know.
func (d *eventDecoder) unknown(name []byte, known []string) {
	for _, n := range known {
		if strings.EqualFold(n, string(name)) {
			d.note("is spelt %q", n)
		}
	}
	if !d.extra.add(append([]byte(d.in+"\x00"), name...)) {
		d.note("stands twice")
	}
	m := Member{In: d.in, Name: string(name)}
	m.Value = json.RawMessage(bytes.Clone(d.raw()))
	d.e.Extra = append(d.e.Extra, m)
}

// ParseEntryID reads the form that [EntryID.String] writes.
func ParseEntryID(text string) (EntryID, error) {
	partition, number, _ := strings.Cut(text, "-")
	p, ok1 := parseDigits(partition)
	n, ok2 := parseDigits(number)
	if !ok1 || !ok2 || p >= Partitions || n == 0 {
		return EntryID{}, fmt.Errorf("entry id %q is not of the form partition-number: %w", clip(text), ErrInvalid)
	}
	return EntryID{Partition: int(p), Number: n}, nil
}

// UnmarshalJSON reads an event as [DecodeEvent] does.
func (e *Event) UnmarshalJSON(data []byte) error {
	d, err := DecodeEvent(data)
	if err == nil {
		*e = *d
	}
	return err
}

// UnmarshalJSON reads an object of quantities by their wire names. Names that
// are not known are passed over.
func (u *Usage) UnmarshalJSON(data []byte) error {
	d := eventDecoder{scanner: scanner{data: data}}
	got := d.usage(inUsage)
	d.end()
	if err := d.result(); err != nil {
		return fmt.Errorf("usage: %w", err)
	}
	*u = got
	return nil
}
