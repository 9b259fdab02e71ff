package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.org/odometer"
	"example.org/odometer/internal/guest"
	"example.org/odometer/internal/qmp"
)

// Times of different boots do not compare: where anything was read in this one,
// nothing of before counts.
func TestWhatWasReadBefore(t *testing.T) {
	type readings = map[odometer.InstanceID]int64
	checkpoint := func(id, boot string, at int64) json.RawMessage {
		return fmt.Appendf(nil, `{"instance":%q,"boot_id":%q,"boot_us":%d}`, id, boot, at)
	}
	tests := []struct {
		name        string
		checkpoints []json.RawMessage
		boot        string
		want        readings
	}{
		{"nothing was read", nil, "", readings{}},
		{"all of it in this boot, the newest last", []json.RawMessage{checkpoint("a", "now", 5), checkpoint("b", "now", 6), checkpoint("a", "now", 7)}, "now", readings{"a": 7, "b": 6}},
		{"all of it in another", []json.RawMessage{checkpoint("a", "then", 5), checkpoint("b", "then", 6)}, "then", readings{"a": 5, "b": 6}},
		{"some of it in another", []json.RawMessage{checkpoint("a", "then", 500), checkpoint("b", "now", 6), checkpoint("c", "then", 700)}, "now", readings{"b": 6}},
		{"what is no checkpoint", []json.RawMessage{[]byte(`{"boot_id":"now"}`), []byte(`[]`)}, "", readings{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := previous(lastReadings(tt.checkpoints), "now")
			if got.BootID != tt.boot || !maps.Equal(got.Readings, tt.want) {
				t.Errorf("got boot %q, %v, want %q, %v", got.BootID, got.Readings, tt.boot, tt.want)
			}
		})
	}
}

// TestDoctorAsksHypervisors has one machine answer, one whose monitor another
// client holds, and one that hangs.
func TestDoctorAsksHypervisors(t *testing.T) {
	spare := func() []string { // others on this host may hold one
		dir := t.TempDir()
		return []string{"-qmp", "unix:" + dir + "/a,server=on,wait=off", "-qmp", "unix:" + dir + "/b,server=on,wait=off"}
	}
	answers, held := guest.Start(t, guest.Options{Paused: true, Args: spare()}), guest.Start(t, guest.Options{Paused: true})
	hangs := guest.Start(t, guest.Options{Paused: true, Args: spare()})
	c, err := qmp.Dial(t.Context(), held.Monitor(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	hangs.Signal(syscall.SIGSTOP)
	told := func() (asks, finds finding) {
		for _, f := range checkMachines(t.Context()) {
			switch f.Check {
			case "asks hypervisors":
				asks = f
			case "finds by processes":
				finds = f
			}
		}
		return asks, finds
	}
	// One that answers late on a busy host does the next time; others may run there.
	asks, finds := told()
	for end := time.Now().Add(time.Minute); strings.Contains(finds.Detail, answers.Monitor()) && time.Now().Before(end); {
		asks, finds = told()
	}
	if asks.Status != checkWarn || !strings.Contains(asks.Detail, "answer at their control sockets") || !strings.Contains(asks.Detail, "another client's") {
		t.Errorf("got %+v", asks)
	}
	if want := fmt.Sprintf("process %d (%s): its monitor %s", hangs.PID(), hangs.Name, hangs.Monitor()); !strings.Contains(finds.Detail, want) {
		t.Errorf("got %+v, want %q", finds, want)
	}
	for _, g := range []*guest.Guest{answers, held} {
		if strings.Contains(finds.Detail, g.Monitor()) {
			t.Errorf("got %+v of a monitor that is as it should be", finds)
		}
	}
	if err := c.Err(); err != nil {
		t.Errorf("the client that held it was thrown out: %v", err)
	}
}
