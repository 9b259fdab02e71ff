package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"testing"

	"example.org/odometer"
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
