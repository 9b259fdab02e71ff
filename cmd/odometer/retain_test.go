package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestKeepJournal(t *testing.T) {
	now := time.Date(2026, 11, 27, 9, 0, 0, 0, time.UTC)
	for text, want := range map[string]string{
		"13mo": "2025-10-27", "400d": "2025-10-23", "2y": "2024-11-27", "1d": "2026-11-26",
	} {
		k, err := parseKeep(text)
		if got := k.before(now).Format(time.DateOnly); err != nil || got != want {
			t.Errorf("%s: got %s, %v, want %s", text, got, err, want)
		}
	}
	if k, err := parseKeep(""); err != nil || k != (keep{}) {
		t.Errorf("without a limit: got %+v, %v, want for ever", k, err)
	}
	for _, text := range []string{"0d", "-1d", "13", "mo", "13m", "1.5y", "13 mo", "99999d", "12h", "3dd", "1ydo"} {
		if k, err := parseKeep(text); err == nil {
			t.Errorf("%q: got %+v, want it refused", text, k)
		}
	}
}

func TestTheLedgersKeyIsMadeOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), keyFile)
	a, err := ledgerKey(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode: got %v, %v, want 0600", info, err)
	}
	if b, err := ledgerKey(path); err != nil || !bytes.Equal(a, b) {
		t.Errorf("read again: got another key, %v", err)
	}
	if err := os.WriteFile(path, []byte("no key\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ledgerKey(path); err == nil {
		t.Error("a file that holds no key was taken")
	}
}
