package api

import "time"

// TLSFacts are about the certificate that connections are answered with.
type TLSFacts struct {
	NotBefore, NotAfter time.Time
	Err                 string // why what its files have now is not used, "" where it is
}

// A certificate is to be renewed when so little of its time is left: what is
// renewed by a machine is renewed after two thirds of it.
const (
	certificatePart = 6 // of its time, the last
	certificateSoon = 14 * 24 * time.Hour
)

func judgeTLS(f *TLSFacts, now time.Time) Component {
	v := newVerdict("")
	left := f.NotAfter.Sub(now)
	v.facts["not_after"] = f.NotAfter.UTC().Format(time.RFC3339)
	v.facts["days_left"] = int64(left / (24 * time.Hour))
	switch {
	case left <= 0:
		v.complain(Failed, "the certificate expired at %s: clients refuse it", f.NotAfter.UTC().Format(time.RFC3339))
	case now.Before(f.NotBefore):
		v.complain(Failed, "the certificate is not valid before %s: clients refuse it", f.NotBefore.UTC().Format(time.RFC3339))
	case left < min(certificateSoon, f.NotAfter.Sub(f.NotBefore)/certificatePart):
		v.complain(Degraded, "the certificate expires at %s, in %s", f.NotAfter.UTC().Format(time.RFC3339), left.Round(time.Minute))
	}
	if f.Err != "" {
		v.complain(Degraded, "what its files have now is not used: %s", f.Err)
	}
	return v.component(time.Time{})
}
