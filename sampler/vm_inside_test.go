package sampler_test

import (
	"strings"
	"testing"
	"time"

	"example.org/odometer"
	"example.org/odometer/internal/guest"
	"example.org/odometer/sampler"
)

// TestVMDeviceMapper has a kernel with the device mapper, which is that of a
// machine started for it, tell what volumes occupy.
func TestVMDeviceMapper(t *testing.T) {
	const mib = 1 << 20
	inside(t, "TestInsideMapper", guest.Options{
		Modules: []string{"dm_thin_pool", "dm_snapshot", "dm_crypt", "crypto_null", "dm_zero", "nbd"},
		Disks:   []guest.Disk{{Path: guest.Image(t, "raw", 8*mib)}, {Path: guest.Image(t, "raw", 64*mib)}, {Path: guest.Image(t, "raw", 32*mib)}},
	})
}

// TestVMOpenVSwitch has a kernel with Open vSwitch, likewise, count for a port.
func TestVMOpenVSwitch(t *testing.T) {
	inside(t, "TestInsideOpenVSwitch", guest.Options{Modules: []string{"tun", "openvswitch"}})
}

// inside runs a test of this package as root of a machine of its own.
func inside(t *testing.T, test string, o guest.Options) {
	t.Helper()
	if testing.Short() {
		t.Skip("it boots a machine")
	}
	guest.Need(t)
	t.Parallel()
	o.Memory = 256 << 20
	o.Files = map[string]string{"/tests/sampler.test": guest.TestBinary(t, "example.org/odometer/sampler")}
	g := guest.Start(t, o)
	out, status := g.RunFor("ODOMETER_TEST_INSIDE=1 /tests/sampler.test -test.v -test.run '^"+test+"$'", 2*time.Minute)
	if status != 0 || !strings.Contains(out, "--- PASS: "+test) {
		t.Errorf("exit status %d\n%s", status, out)
	}
}

// TestVMOnALoopDevice has a machine write to a disk that is a loop device: what
// it occupies are the blocks of the file behind it.
func TestVMOnALoopDevice(t *testing.T) {
	if testing.Short() {
		t.Skip("it boots a machine")
	}
	guest.Need(t)
	t.Parallel()
	const size, wrote = 256 << 20, 16 << 20
	const filesystem = 1 << 20 // what it needs itself, where it takes that for the file's
	device := guest.LoopDevice(t, guest.Image(t, "raw", size))
	g := guest.Start(t, guest.Options{Disks: []guest.Disk{{Path: device}}})
	s := sampler.OpenVMs(sampler.VMsOptions{Agent: "host-1"})
	defer s.Close()
	list := func(read bool) {
		s.Update([]odometer.VM{{
			Instance: odometer.InstanceID(g.UUID), State: odometer.Running, PID: g.PID(), Run: "1", VCPUs: 1, Memory: 128 << 20,
			Disks: []odometer.Disk{{Name: "vda", Kind: odometer.DiskBlock, Path: device, Provisioned: size, ReadOnly: read}},
		}})
	}
	occupied := func() odometer.Gauges {
		t.Helper()
		var got odometer.Gauges
		if err := s.Sample(func(r *odometer.Reading) { got = r.Gauges }); err != nil {
			t.Fatal(err)
		}
		return got
	}
	list(false)
	before := occupied()
	if before.Storage < 0 || before.Storage > filesystem || before.StorageProvisioned != size {
		t.Fatalf("got %+v; want the blocks of its file, and %d provisioned; %+v", before, size, s.Sources())
	}
	g.Write(wrote)
	g.Run("sync")
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		list(true) // the list changes, so that its disks are looked at again
		list(false)
		got := occupied().Storage
		if got >= wrote && got <= wrote+filesystem {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("got %d occupied, want the %d that were written", got, wrote)
		}
	}
}
