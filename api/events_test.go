package api

import (
	"net/http"
	"strings"
	"testing"

	"example.org/odometer"
)

func TestEntriesWithOnlyTheFieldsThatAreAskedFor(t *testing.T) {
	h := usageOfThree(t)
	const ask = "/api/v1/events?instance=vm-2&limit=1&fields="
	for _, c := range []struct{ says, fields, accept, want string }{
		{"a document", "entry_id,instance_id,kind", string(asDocument), `{"events":[{"instance_id":"vm-2","entry_id":"10-2","kind":"usage"}],`},
		{"what it has not", "lifecycle", string(asDocument), `{"events":[{}],`},
		{"NDJSON", "instance_id,user_id", string(asNDJSON), `{"instance_id":"vm-2","user_id":"bob"}` + "\n"},
		{"CSV", "span,instance_id", string(asCSV), "instance_id,used_from,used_until\r\nvm-2,20"},
		{"CSV of amounts", "usage", string(asCSV), "cpu_us,gpu_us,gpu_busy_us,vcpu_us,"},
	} {
		w := do(h, "GET", ask+c.fields, "Accept", c.accept)
		if w.Code != http.StatusOK || !strings.HasPrefix(w.Body.String(), c.want) {
			t.Errorf("%s: got %d %s, want %s", c.says, w.Code, w.Body, c.want)
		}
	}
	for _, c := range []struct{ says, fields, accept string }{
		{"a field that there is not", "colour", string(asDocument)},
		{"of CloudEvents", "usage", odometer.ContentCloudBatch},
		{"what CSV has no column of", "readings", string(asCSV)},
	} {
		w := do(h, "GET", ask+c.fields, "Accept", c.accept)
		if p := problem(t, w); w.Code != http.StatusBadRequest || len(p.Errors) != 1 || p.Errors[0].Name != "fields" {
			t.Errorf("%s: got %d %+v, want fields refused", c.says, w.Code, p.Errors)
		}
	}
}
