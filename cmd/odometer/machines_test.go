package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.org/odometer"
	"example.org/odometer/internal/guest"
	"example.org/odometer/internal/qmp"
	"example.org/odometer/sampler"
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

// TestSharedImagesAreRemembered has two machines laid over one image, one of
// which goes, and the agent start again.
func TestSharedImagesAreRemembered(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a", "b", "golden"} {
		if err := os.WriteFile(filepath.Join(dir, name), make([]byte, 8192), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	machine := func(name string) odometer.VM {
		return odometer.VM{Instance: odometer.InstanceID("h:" + name), State: odometer.Stopped, Disks: []odometer.Disk{
			{Name: "vda", Kind: odometer.DiskFile, Path: filepath.Join(dir, name), Backing: []string{filepath.Join(dir, "golden")}}}}
	}
	m := &machines{images: filepath.Join(dir, "none", imagesFile), logger: slog.New(slog.DiscardHandler)}
	start := func() (stop func()) {
		m.vms = sampler.OpenVMs(sampler.VMsOptions{Agent: "h", Shared: m.readImages()})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- m.keepImages(ctx) }()
		return func() {
			cancel()
			if err := errors.Join(<-done, m.vms.Close()); err != nil {
				t.Error(err)
			}
		}
	}
	written := func() (list []sampler.SharedImage) {
		if b, err := os.ReadFile(m.images); err == nil {
			if err := json.Unmarshal(b, &list); err != nil {
				t.Fatal(err)
			}
		}
		return list
	}
	stop := start()
	m.vms.Update([]odometer.VM{machine("a"), machine("b")})
	time.Sleep(2 * processesEvery) // there is no such directory yet
	if err := os.Mkdir(filepath.Dir(m.images), 0o700); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(30 * time.Second); len(written()) == 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it is not noted that an image is shared")
		}
	}
	stop()
	stop = start()
	m.vms.Update([]odometer.VM{machine("a")})
	var got int64
	if err := m.vms.Sample(func(r *odometer.Reading) { got = r.Gauges.Storage }); err != nil || got != 8192 {
		t.Errorf("storage of the one that remains: got %d, %v, want its own 8192", got, err)
	}
	stop()
	if err := os.WriteFile(m.images, []byte("["), 0o600); err != nil {
		t.Fatal(err)
	}
	stop = start() // which begins anew, and mends it
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if b, _ := os.ReadFile(m.images); string(b) == "[]\n" {
			break
		}
		if time.Now().After(end) {
			t.Fatal("a file that is damaged stays so")
		}
	}
	stop()
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
