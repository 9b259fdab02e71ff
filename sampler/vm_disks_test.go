package sampler

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.org/odometer"
	"golang.org/x/sys/unix"
)

// disks are the machines of a test by what lies behind their disks: "top",
// "top<below<further below"; a "-" before it is read-only.
func disks(dir, id string, chains ...string) odometer.VM {
	v := odometer.VM{Instance: odometer.InstanceID(id), State: odometer.Stopped}
	for _, chain := range chains {
		chain, readOnly := strings.CutPrefix(chain, "-")
		d := odometer.Disk{Kind: odometer.DiskFile, ReadOnly: readOnly, Provisioned: 1 << 30}
		for i, name := range strings.Split(chain, "<") {
			if !filepath.IsAbs(name) {
				name = filepath.Join(dir, name)
			}
			if i == 0 {
				d.Path, d.Name = name, name
			} else {
				d.Backing = append(d.Backing, name)
			}
		}
		v.Disks = append(v.Disks, d)
	}
	return v
}

// TestVMBackingImages is which of the images below a machine's disks count to
// it. Each file occupies another number of pages, so that a sum tells its parts.
func TestVMBackingImages(t *testing.T) {
	dir := t.TempDir()
	const page = 4096
	for i, name := range []string{"a", "b", "base", "snap", "iso", "golden"} {
		if err := os.WriteFile(filepath.Join(dir, name), make([]byte, page<<i), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	const a, b, base, snap, golden = page, 2 * page, 4 * page, 8 * page, 32 * page
	if err := errors.Join(os.Symlink("golden", filepath.Join(dir, "link")), os.Link(filepath.Join(dir, "a"), filepath.Join(dir, "hard"))); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name     string
		machines []odometer.VM
		want     []int64
	}{
		{"a machine's own snapshots count", []odometer.VM{disks(dir, "1", "a<snap<base")}, []int64{a + snap + base}},
		{"what two are laid over counts to neither", []odometer.VM{disks(dir, "1", "a<snap<golden"), disks(dir, "2", "b<golden")}, []int64{a + snap, b}},
		{"under two names too", []odometer.VM{disks(dir, "1", "a<golden"), disks(dir, "2", "b<link")}, []int64{a, b}},
		{"what another has for a disk is that one's", []odometer.VM{disks(dir, "1", "a<base"), disks(dir, "2", "base")}, []int64{a, base}},
		{"two disks of one machine over one image count it once", []odometer.VM{disks(dir, "1", "a<base", "b<base")}, []int64{a + b + base}},
		{"a file counts once, whatever it is called", []odometer.VM{disks(dir, "1", "a", "hard")}, []int64{a}},
		{"a disk that two machines write to is each one's", []odometer.VM{disks(dir, "1", "a"), disks(dir, "2", "a")}, []int64{a, a}},
		{"a disk over an image that is a disk of the same machine", []odometer.VM{disks(dir, "1", "a<base", "base")}, []int64{a + base}},
		{"what is below a read-only disk is not the machine's", []odometer.VM{disks(dir, "1", "a", "-iso<base")}, []int64{a}},
		{"what is known through a process only", []odometer.VM{disks(dir, "1", "a</proc/self/root"+filepath.Join(dir, "base"))}, []int64{a}},
		{"what is gone is unknown, and the rest counts", []odometer.VM{disks(dir, "1", "a<gone"), disks(dir, "2", "nothing")}, []int64{a, odometer.Unknown}},
		{"what the inventory has not looked at has none either", []odometer.VM{{Instance: "1", State: odometer.Stopped,
			Disks: []odometer.Disk{{Kind: odometer.DiskUnknown, Path: filepath.Join(dir, "a")}}}}, []int64{odometer.Unknown}},
		{"what is on the network has no file here", []odometer.VM{disks(dir, "1", "a<"), {Instance: "2", State: odometer.Stopped,
			Disks: []odometer.Disk{{Kind: odometer.DiskFile, Path: filepath.Join(dir, "b"), Backing: []string{"rbd:pool/base"}}}}}, []int64{a, b}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := openVMs(t)
			s.Update(c.machines)
			for i, r := range readings(t, s) {
				if r.Gauges.Storage != c.want[i] {
					t.Errorf("%s: got %d occupied, want %d", r.Instance, r.Gauges.Storage, c.want[i])
				}
			}
		})
	}
}

// TestVMBackingImageIsShared has machines come and go that are laid over one
// image, and the file behind a path replaced by another.
func TestVMBackingImageIsShared(t *testing.T) {
	dir := t.TempDir()
	for name, pages := range map[string]int{"a": 1, "b": 2, "golden": 8, "third": 8, "other": 8} {
		if err := os.WriteFile(filepath.Join(dir, name), make([]byte, pages*4096), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s := openVMs(t)
	is := func(what string, want ...int64) {
		t.Helper()
		got := readings(t, s)
		for i, pages := range want {
			if i >= len(got) || got[i].Gauges.Storage != pages*4096 {
				t.Errorf("%s: got %+v, want %v pages", what, got, want)
				return
			}
		}
	}
	one, two := disks(dir, "1", "a<golden"), disks(dir, "2", "b<golden")
	s.Update([]odometer.VM{one})
	is("alone", 9)
	s.Update([]odometer.VM{one, two})
	is("another one comes", 1, 2)
	s.Update([]odometer.VM{one})
	is("the other one goes: the image was several machines' and is not this one's", 1)
	before := s.Shared()
	if len(before) != 1 || before[0].Path != filepath.Join(dir, "golden") {
		t.Fatalf("shared: got %v, want golden", before)
	}
	s = openVMs(t, func(o *VMsOptions) { o.Shared = before })
	s.Update([]odometer.VM{two})
	is("after a restart", 2)

	if err := errors.Join(os.WriteFile(filepath.Join(dir, "new"), make([]byte, 4096), 0o644), os.Rename(filepath.Join(dir, "new"), filepath.Join(dir, "golden"))); err != nil {
		t.Fatal(err)
	}
	s = openVMs(t, func(o *VMsOptions) { o.Shared = before })
	s.Update([]odometer.VM{two})
	is("another file has its name", 3)
	own, clone := disks(dir, "1", "a"), disks(dir, "2", "b<a")
	s.Update([]odometer.VM{own, clone})
	is("a clone of another's disk", 1, 2)
	s.Update([]odometer.VM{disks(dir, "1", "third<a")})
	is("the clone goes, and its owner makes a snapshot: the disk is still its own", 9)

	one, two = disks(dir, "1", "a<third"), disks(dir, "2", "b<other")
	s.Update([]odometer.VM{one, two})
	is("each its own", 9, 10)
	if err := errors.Join(os.Remove(filepath.Join(dir, "other")), os.Link(filepath.Join(dir, "third"), filepath.Join(dir, "other"))); err != nil {
		t.Fatal(err)
	}
	s.images.since = -1 << 40
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		r := readings(t, s)
		if r[0].Gauges.Storage == 4096 && r[1].Gauges.Storage == 2*4096 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the images became one file: got %d and %d occupied", r[0].Gauges.Storage, r[1].Gauges.Storage)
		}
	}
}

// TestVMBackingImageOfOtherHosts has images where other hosts may have them
// too: below a disk they do not count, as a disk they do.
func TestVMBackingImageOfOtherHosts(t *testing.T) {
	s := openVMs(t)
	s.images.init(func(path string, st *unix.Stat_t) error {
		*st = unix.Stat_t{Mode: unix.S_IFREG, Blocks: 8, Ino: uint64(len(path))}
		if path == "/volume" {
			*st = unix.Stat_t{Mode: unix.S_IFBLK, Rdev: unix.Mkdev(8, 1)}
		}
		return nil
	}, blockLayers{root: t.TempDir()})
	b := &blockTree{t: t, root: s.images.layers.root}
	b.add("sda/sda1", "8:1", 1000, "partition=1")
	b.add("sda", "8:0", 2000, "device/")
	// /sys is no filesystem that keeps a disk: it stands for one that is not local.
	for _, c := range []struct {
		chain string
		want  int64
	}{
		{"/a", 4096}, {"/a</bb", 8192}, {"/a</sys/b", 4096}, {"/a</bb</sys/b", 8192}, {"/sys/b", 4096}, {"/sys/b</a", 8192},
		{"/a</volume", 4096}, {"/volume", 512000}, {"/volume</a", 512000 + 4096},
	} {
		s.Update([]odometer.VM{disks("/", "1", c.chain)})
		if got := only(t, s).Gauges.Storage; got != c.want {
			t.Errorf("%s: got %d occupied, want %d", c.chain, got, c.want)
		}
	}
	for _, c := range []struct {
		path string
		want mountPoint
	}{
		{"/x", mountPoint{"/", true}}, {"/srv/x", mountPoint{"/srv", false}}, {"/srv", mountPoint{"/srv", false}},
		{"/srv2/x", mountPoint{"/", true}}, {"/srv/deep/x", mountPoint{"/srv/deep", true}},
	} {
		points := []mountPoint{{"/", false}, {"/srv", false}, {"/", true}, {"/srv/deep", true}}
		if got := mountOf(c.path, points); got != c.want {
			t.Errorf("%s: got %+v, want %+v", c.path, got, c.want)
		}
	}
	if got := mountOf("/x", nil); got != (mountPoint{"/", false}) {
		t.Errorf("no mounts: got %+v", got)
	}
}
