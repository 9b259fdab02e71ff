package main

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"example.org/odometer"
	"example.org/odometer/ledger"
)

// TestTheAccountServiceEndsGrantsToo: what it says and is not recorded yet is told to
// who ends the grants of the owner before, once.
func TestTheAccountServiceEndsGrantsToo(t *testing.T) {
	l, err := ledger.Open(t.Context(), ledger.Options{Path: filepath.Join(t.TempDir(), "ledger.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var told []odometer.Ownership
	f := &fleet{ledger: l, now: time.Now, transferred: func(_ context.Context, o odometer.Ownership) error {
		told = append(told, o)
		return nil
	}}
	own := odometer.Ownership{Instance: "vm-1", Owner: odometer.Owner{User: "u-ada"}, From: time.Now().Add(-time.Hour).UnixMicro()}
	for range 2 {
		if err := f.recordAsSaid(t.Context(), own); err != nil {
			t.Fatal(err)
		}
	}
	own.Until = odometer.Forever
	if len(told) != 1 || told[0] != own {
		t.Errorf("got %+v, want %+v once", told, own)
	}
}
