package audit

import (
	"math/big"

	"example.org/odometer"
)

// share returns the part of u, used over span, that falls in [from, to): for
// each quantity the difference of floor(total × elapsed ÷ length) at both
// ends, in integers of any size. A negative total is shared like its positive.
// This is DESIGN's rule written a second time, on purpose.
func share(u *odometer.Usage, span odometer.Span, from, to int64) odometer.Usage {
	part := odometer.Usage{Known: u.Known}
	from, to = max(from, span.Start), min(to, span.End)
	if from >= to {
		return part
	}
	length := big.NewInt(span.End - span.Start)
	upTo := func(total, at int64) int64 {
		n := new(big.Int).Mul(big.NewInt(total), big.NewInt(at-span.Start))
		return n.Quo(n, length).Int64() // truncates towards 0
	}
	for q, total := range u.Vector {
		if total != 0 {
			part.Vector[q] = upTo(total, to) - upTo(total, from)
		}
	}
	return part
}

// hourOf returns the start of the UTC hour that contains t, in microseconds.
func hourOf(t int64) int64 {
	const hour = 3_600_000_000
	h := t / hour
	if t%hour < 0 {
		h--
	}
	return h * hour
}

// dayOf returns the start of the UTC day that contains t, in microseconds.
func dayOf(t int64) int64 {
	const day = 86_400_000_000
	d := t / day
	if t%day < 0 {
		d--
	}
	return d * day
}
