package odometer

import (
	"fmt"
	"time"
)

// Month is a calendar month in UTC: its first moment, in microseconds of the Unix
// epoch. Hours, days and months of the ledger are UTC's, so that no edge of a month
// cuts an hour.
type Month int64

// MonthOf returns the month in which a moment lies.
func MonthOf(us int64) Month {
	t := time.UnixMicro(us).UTC()
	return Month(time.Date(t.Year(), t.Month(), 1, 0, 0, 0, 0, time.UTC).UnixMicro())
}

// ParseMonth reads what [Month.String] writes, of the years 1970 to 9999. The error
// wraps [ErrInvalid].
func ParseMonth(text string) (Month, error) {
	t, err := time.Parse("2006-01", text)
	if err != nil || t.Year() < 1970 || t.Year() > 9999 {
		return 0, fmt.Errorf("month %q is not written like 2026-11: %w", clip(text), ErrInvalid)
	}
	return Month(t.UnixMicro()), nil
}

// Start returns the month's first moment, in microseconds.
func (m Month) Start() int64 { return int64(m) }

// End returns the first moment after the month, in microseconds.
func (m Month) End() int64 { return int64(m.Next()) }

// Next returns the month that follows.
func (m Month) Next() Month { return MonthOf(int64(m) + 31*DayMicros) }

// String returns the month as 2026-11.
func (m Month) String() string { return time.UnixMicro(int64(m)).UTC().Format("2006-01") }

// MarshalText returns what String does.
func (m Month) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (m *Month) UnmarshalText(text []byte) (err error) {
	*m, err = ParseMonth(string(text))
	return err
}
