package ledger

import (
	"encoding/binary"
	"fmt"
	"time"

	"example.org/odometer"
)

// Sealed usage lies in four tables, which all say the same at two levels of
// time and two of detail:
//
//	days        the hours of a day    of one owner's use of one epoch
//	months      the days of a month   of the same
//	owner_days    the hours of a day    of everything an owner used
//	owner_months  the days of a month   of the same
//
// A row holds its hours or days packed, so that a question about a month reads
// one row of each epoch or owner and not 720. A piece of an hour is added to
// all four in one transaction (compact.go): whatever is asked, and however the
// time is put together from months, days and hours, the answer is the same.

// slots are how many parts a packed row has at most: 24 hours or 31 days.
const slots = 31

// part is what was used in one hour or on one day.
type part struct {
	sums      odometer.Usage
	recovered int64 // of the measured and estimated time, what was recovered
}

func (p *part) empty() bool { return p.sums == (odometer.Usage{}) }

// add adds q to p.
func (p *part) add(q *part) error {
	if !p.sums.Add(q.sums) {
		return fmt.Errorf("a sum overflows: %w", odometer.ErrInvalid)
	}
	p.recovered += q.recovered
	return nil
}

// parts are the hours of a day or the days of a month, by number from 0.
type parts [slots]part

// appendParts encodes p: for each part that has anything its number, its sums
// in their binary form and the recovered time as a varint.
func appendParts(b []byte, p *parts) []byte {
	for n := range p {
		if p[n].empty() {
			continue
		}
		b = append(b, byte(n))
		b = p[n].sums.AppendBinary(b)
		b = binary.AppendVarint(b, p[n].recovered)
	}
	return b
}

// cutParts decodes what appendParts wrote and calls each for every part in it.
func cutParts(b []byte, each func(n int, p *part) error) error {
	var p part
	for len(b) > 0 {
		n := int(b[0])
		rest := b[1:]
		var err error
		if p.sums, rest, err = odometer.CutUsage(rest); err != nil || n >= slots {
			return fmt.Errorf("parts of a day or month: %w", odometer.ErrInvalid)
		}
		recovered, size := binary.Varint(rest)
		if size <= 0 {
			return fmt.Errorf("parts of a day or month: %w", odometer.ErrInvalid)
		}
		p.recovered, b = recovered, rest[size:]
		if err := each(n, &p); err != nil {
			return err
		}
	}
	return nil
}

// amount is usage summed over epochs, which 64 bits need not hold.
type amount struct {
	totals    [odometer.Quantities]odometer.Sum
	known     odometer.Known
	recovered odometer.Sum
}

func (a *amount) empty() bool { return *a == amount{} }

func (a *amount) add(sums *odometer.Usage, recovered int64) {
	for q, n := range sums.Vector {
		a.totals[q].Add(n)
	}
	a.known |= sums.Known
	a.recovered.Add(recovered)
}

func (a *amount) addAmount(b *amount) {
	for q := range b.totals {
		a.totals[q].AddSum(b.totals[q])
	}
	a.known |= b.known
	a.recovered.AddSum(b.recovered)
}

// amounts are the hours of a day or the days of a month of an owner.
type amounts [slots]amount

// appendAmounts encodes a: for each amount that has anything its number, the
// set of what is known as an unsigned varint, the sums and the recovered time.
func appendAmounts(b []byte, a *amounts) []byte {
	for n := range a {
		if a[n].empty() {
			continue
		}
		b = append(b, byte(n))
		b = binary.AppendUvarint(b, uint64(a[n].known))
		for q := range a[n].totals {
			b = a[n].totals[q].AppendBinary(b)
		}
		b = a[n].recovered.AppendBinary(b)
	}
	return b
}

// cutAmounts decodes what appendAmounts wrote and calls each for every amount
// in it.
func cutAmounts(b []byte, each func(n int, a *amount) error) error {
	bad := fmt.Errorf("amounts of an owner: %w", odometer.ErrInvalid)
	var a amount
	for len(b) > 0 {
		n := int(b[0])
		known, size := binary.Uvarint(b[1:])
		if size <= 0 || n >= slots || known > uint64(odometer.AllKnown) {
			return bad
		}
		a.known, b = odometer.Known(known), b[1+size:]
		var err error
		for q := range a.totals {
			if a.totals[q], b, err = odometer.CutSum(b); err != nil {
				return bad
			}
		}
		if a.recovered, b, err = odometer.CutSum(b); err != nil {
			return bad
		}
		if err := each(n, &a); err != nil {
			return err
		}
	}
	return nil
}

// dayOf returns the start of the UTC day that contains an hour.
func dayOf(hour int64) int64 {
	d := hour - hour%odometer.DayMicros
	if hour < 0 && d != hour {
		d -= odometer.DayMicros
	}
	return d
}

// monthOf returns the start of the UTC month that contains a day, and the
// day's number in it from 0.
func monthOf(day int64) (month int64, number int) {
	number = time.UnixMicro(day).UTC().Day() - 1
	return dayOf(day) - int64(number)*odometer.DayMicros, number
}

// monthAfter returns the start of the month after the one that starts at month.
func monthAfter(month int64) int64 {
	next, _ := monthOf(month + 31*odometer.DayMicros)
	return next
}
