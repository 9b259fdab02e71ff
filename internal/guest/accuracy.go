package guest

import (
	"fmt"
	"strings"
	"testing"
	"text/tabwriter"
)

// Accuracy is a table of what was measured beside its truth, for the log.
type Accuracy struct {
	text strings.Builder
	w    *tabwriter.Writer
}

// NewAccuracy returns a table without rows.
func NewAccuracy() *Accuracy {
	a := &Accuracy{}
	a.w = tabwriter.NewWriter(&a.text, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(a.w, "truth\tvalue\terror\t%\t ")
	return a
}

// Row adds a value.
func (a *Accuracy) Row(what string, truth, value int64) {
	percent := "-"
	if truth != 0 {
		percent = fmt.Sprintf("%+.3f", float64(value-truth)/float64(truth)*100)
	}
	fmt.Fprintf(a.w, "%d\t%d\t%+d\t%s\t  %s\n", truth, value, value-truth, percent, what)
}

// Near adds a value and fails the test where it is further than within from the
// truth.
func (a *Accuracy) Near(t testing.TB, what string, truth, value, within int64) {
	t.Helper()
	a.Between(t, what, truth, value, within, within)
}

// Between adds a value and fails the test where it lies by more than below
// under the truth, or by more than above over it.
func (a *Accuracy) Between(t testing.TB, what string, truth, value, below, above int64) {
	t.Helper()
	a.Row(what, truth, value)
	if d := value - truth; d < -below || d > above {
		t.Errorf("%s: truth %d, value %d, want it from %d to %d", what, truth, value, truth-below, truth+above)
	}
}

// Log prints the table.
func (a *Accuracy) Log(t testing.TB) {
	t.Helper()
	a.w.Flush()
	t.Logf("accuracy:\n%s", a.text.String())
}
