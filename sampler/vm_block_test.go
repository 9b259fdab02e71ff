package sampler

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"example.org/odometer"
	"golang.org/x/sys/unix"
)

// blockTree is a sysfs with devices, and what else tells of them.
type blockTree struct {
	t     *testing.T
	root  string
	files map[string]unix.Stat_t
	maps  map[string][]mapTarget // by device number
	zfs   string                 // what its command prints
	zfsIs error
}

// add adds a device of so many sectors at a path below sys/devices, with files
// as "name=content", directories as "name/" and devices below as "<name".
func (b *blockTree) add(path, number string, sectors int64, more ...string) {
	b.t.Helper()
	dir := filepath.Join(b.root, "sys/devices", path)
	put := func(name, content string) {
		b.t.Helper()
		file := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(content+"\n"), 0o644)); err != nil {
			b.t.Fatal(err)
		}
	}
	link := func(from, to string) {
		b.t.Helper()
		if err := errors.Join(os.MkdirAll(filepath.Dir(from), 0o755), os.Symlink(to, from)); err != nil {
			b.t.Fatal(err)
		}
	}
	put("size", fmt.Sprint(sectors))
	put("dev", number)
	if err := os.MkdirAll(filepath.Join(dir, "slaves"), 0o755); err != nil {
		b.t.Fatal(err)
	}
	for _, m := range more {
		if name, content, ok := strings.Cut(m, "="); ok {
			put(name, content)
		} else if below, ok := strings.CutPrefix(m, "<"); ok {
			link(filepath.Join(dir, "slaves", filepath.Base(below)), filepath.Join(b.root, "sys/devices", below))
		} else if err := os.MkdirAll(filepath.Join(dir, m), 0o755); err != nil {
			b.t.Fatal(err)
		}
	}
	link(filepath.Join(b.root, "sys/dev/block", number), dir)
}

func (b *blockTree) layers() *blockLayers {
	return &blockLayers{
		root: b.root,
		stat: func(path string, st *unix.Stat_t) error {
			got, ok := b.files[strings.TrimPrefix(path, b.root)]
			if *st = got; !ok {
				return unix.ENOENT
			}
			return nil
		},
		table: func(dev uint64) ([]mapTarget, error) {
			list, ok := b.maps[fmt.Sprintf("%d:%d", unix.Major(dev), unix.Minor(dev))]
			if !ok {
				return nil, unix.ENXIO
			}
			return list, nil
		},
		zvols: newZvols(b.root, func(context.Context) ([]byte, error) { return []byte(b.zfs), b.zfsIs }),
	}
}

// TestVMBlockDevices is on fixtures of devices that not every host has. Loop
// devices and the device mapper are tested on the real ones too, see
// TestVMOnALoopDevice and TestVMDeviceMapper.
func TestVMBlockDevices(t *testing.T) {
	b := &blockTree{t: t, root: t.TempDir(), files: map[string]unix.Stat_t{}, maps: map[string][]mapTarget{}}
	const sda = "pci0/host0/block/sda"
	b.add(sda, "8:0", 1<<20, "device/")
	b.add(sda+"/sda1", "8:1", 1000, "partition=1")
	b.add("virtual/block/md0", "9:0", 2000, "md/", "<"+sda)
	b.add("virtual/block/nbd0", "43:0", 2000)
	b.add("rbd0/block/rbd0", "252:0", 2000, "device/") // a device by sysfs, and none by what it is
	b.add("rbd0/block/rbd0/rbd0p1", "252:1", 500, "partition=1")
	b.add("virtual/block/zram0", "254:0", 2000)
	b.add("virtual/block/odd", "254:1", 0, "size=many")

	linear := func(length uint64) mapTarget { return mapTarget{length: length, kind: "linear"} }
	mapped := func(n int, sectors int64, below string, targets ...mapTarget) {
		number := fmt.Sprintf("253:%d", n)
		more := []string{"dm/"}
		if below != "" {
			more = append(more, "<"+below)
		}
		b.add(fmt.Sprintf("virtual/block/dm-%d", n), number, sectors, more...)
		b.maps[number] = targets
	}
	mapped(0, 3000, sda, linear(1000), linear(2000))
	mapped(1, 1<<20, "", mapTarget{length: 1 << 20, kind: "thin", status: "40960 1048575"})
	mapped(2, 1<<20, "", mapTarget{length: 1 << 20, kind: "thin", status: "Fail"})
	mapped(3, 1<<20, "", mapTarget{length: 1 << 20, kind: "thin", status: "9999999999999999999 1"})
	mapped(4, 1<<20, "", mapTarget{length: 1 << 20, kind: "snapshot", status: "16/2048 16"})
	mapped(5, 1<<20, "", mapTarget{length: 1 << 20, kind: "snapshot", status: "Invalid"})
	mapped(6, 1<<20, "virtual/block/dm-1", mapTarget{length: 1<<20 - 4096, kind: "crypt"})
	mapped(7, 1000, "virtual/block/dm-1", linear(1000))
	mapped(8, 1000, "", mapTarget{length: 1000, kind: "vdo", status: "/dev/dm-1 normal - online online 1 2"})
	mapped(9, 3000, sda, linear(1000), mapTarget{length: 2000, kind: "zero"})
	mapped(10, 1000, "virtual/block/dm-0", mapTarget{length: 1000, kind: "snapshot-origin"})
	mapped(11, 1000, "", linear(1<<63))
	mapped(13, 1000, "virtual/block/dm-13", linear(1000)) // on itself
	b.add("virtual/block/dm-12", "253:12", 1000, "dm/")
	b.add("virtual/block/dm-14", "253:14", 1000, "dm/", "dev=none")

	loop := func(n int, sectors int64, file, offset, limit string) {
		b.add(fmt.Sprintf("virtual/block/loop%d", n), fmt.Sprintf("7:%d", n), sectors,
			"loop/backing_file="+file, "loop/offset="+offset, "loop/sizelimit="+limit)
	}
	b.files["/srv/a.img"] = unix.Stat_t{Mode: unix.S_IFREG, Size: 2000*512 + 7, Blocks: 24}
	b.files["/dev/sda1"] = unix.Stat_t{Mode: unix.S_IFBLK, Rdev: unix.Mkdev(8, 1)}
	b.files["/dev/null"] = unix.Stat_t{Mode: unix.S_IFCHR}
	b.files["/srv/odd"] = unix.Stat_t{Mode: unix.S_IFREG, Size: 2000 * 512, Blocks: 1 << 60}
	loop(0, 2000, "/srv/a.img", "0", "0")
	loop(1, 1000, "/srv/a.img", "512000", "0")
	loop(2, 1000, "/srv/a.img", "0", "512000")
	loop(3, 1999, "/srv/a.img", "0", "0")
	loop(4, 2000, "/srv/gone.img (deleted)", "0", "0")
	loop(5, 1000, "/dev/sda1", "0", "0")
	loop(6, 1000, "/dev/null", "0", "0")
	loop(7, 2000, "/srv/odd", "0", "0")
	b.add("virtual/block/loop0/loop0p1", "259:0", 500, "partition=1")

	b.add("virtual/block/zd0", "230:0", 4000)
	b.add("virtual/block/zd16", "230:16", 4000)
	b.zfs = "tank/vm-1\t123456\ntank/gone\t5\nnonsense\ntank/vm-2\t-\n"
	if err := errors.Join(os.MkdirAll(filepath.Join(b.root, "dev/zvol/tank"), 0o755),
		os.Symlink("../../zd0", filepath.Join(b.root, "dev/zvol/tank/vm-1")),
		os.Symlink("../../zd16", filepath.Join(b.root, "dev/zvol/tank/vm-2"))); err != nil {
		t.Fatal(err)
	}
	b.add("virtual/block/drbd0", "147:0", 3990, "<virtual/block/zd0")
	b.add("virtual/block/drbd1", "147:1", 3990)
	b.add("virtual/block/md1", "9:1", 2000, "md/", "<virtual/block/loop0")

	l := b.layers()
	for _, c := range []struct {
		name, number string
		want         int64
		problem      string
	}{
		{"a whole disk", "8:0", 512 << 20, ""},
		{"a partition", "8:1", 512000, ""},
		{"a RAID", "9:0", 1024000, ""},
		{"a RAID of loop devices", "9:1", 0, "md1 lies on loop0, which occupies less than its size"},
		{"NBD", "43:0", 0, errSilentLayer.Error()},
		{"RBD", "252:0", 0, errSilentLayer.Error()},
		{"a partition of RBD", "252:1", 0, errSilentLayer.Error()},
		{"memory", "254:0", 0, errSilentLayer.Error()},
		{"a size that is none", "254:1", 0, `the size of odd in sysfs is "many"`},
		{"a device that sysfs does not have", "1:1", 0, "no such file"},
		{"LVM, in two pieces", "253:0", 3000 * 512, ""},
		{"LVM-thin: what is mapped", "253:1", 40960 * 512, ""},
		{"LVM-thin that has failed", "253:2", 0, `the status of its target thin is "Fail"`},
		{"LVM-thin of more than there can be", "253:3", 0, `the status of its target thin is "9999999999999999999 1"`},
		{"an LVM snapshot: its store", "253:4", 2048 * 512, ""},
		{"an LVM snapshot that has overflown", "253:5", 0, `the status of its target snapshot is "Invalid"`},
		{"LUKS on LVM-thin", "253:6", 40960 * 512, ""},
		{"a part of LVM-thin", "253:7", 0, "dm-7 lies on dm-1, which occupies less than its size"},
		{"VDO", "253:8", 0, "dm-8: its target vdo: " + errSilentLayer.Error()},
		{"half of it reads as zeros", "253:9", 1000 * 512, ""},
		{"the origin of LVM snapshots", "253:10", 1000 * 512, ""},
		{"a target that is too long", "253:11", 0, "the status of its target linear"},
		{"the device mapper does not know it", "253:12", 0, "ask the device mapper about dm-12: "},
		{"devices in a circle", "253:13", 0, "more than 16 devices lie on each other"},
		{"a number that is none", "253:14", 0, "the number of dm-14 in sysfs"},
		{"a loop device", "7:0", 24 * 512, ""},
		{"a loop device that begins later", "7:1", 0, errSilentLayer.Error()},
		{"a loop device that ends earlier", "7:2", 0, errSilentLayer.Error()},
		{"a file that has another size", "7:3", 0, "loop3 has 1023488 bytes and "},
		{"a file that was deleted", "7:4", 0, "see the file of loop4"},
		{"a loop device of a partition", "7:5", 512000, ""},
		{"a loop device of neither", "7:6", 0, "is no file"},
		{"a loop device of a file of too many blocks", "7:7", 0, "that cannot be"},
		{"a partition of a loop device", "259:0", 0, "loop0p1 is a part of a device that occupies less than its size"},
		{"a zvol", "230:0", 123456, ""},
		{"a zvol of which ZFS tells nothing", "230:16", 0, "no volume of ZFS is linked to zd16"},
		{"DRBD on a zvol", "147:0", 123456, ""},
		{"DRBD without a disk here", "147:1", 0, "drbd1 lies on 0 devices"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var major, minor uint32
			if _, err := fmt.Sscanf(c.number, "%d:%d", &major, &minor); err != nil {
				t.Fatal(err)
			}
			got, err := l.occupied(unix.Mkdev(major, minor))
			if c.problem != "" {
				if err == nil || !strings.Contains(err.Error(), c.problem) || got != odometer.Unknown {
					t.Errorf("got %d, %v; want it unknown: %q", got, err, c.problem)
				}
				return
			}
			if err != nil || got != c.want {
				t.Errorf("got %d, %v; want %d", got, err, c.want)
			}
		})
	}
	b.zfsIs = errors.New("no pools available")
	if n, err := b.layers().occupied(unix.Mkdev(230, 0)); n != odometer.Unknown || err == nil || !strings.Contains(err.Error(), "ask ZFS about zd0: no pools available") {
		t.Errorf("ZFS that fails: got %d, %v", n, err)
	}
	elsewhere := (&VMs{root: b.root}).blockLayers()
	if n, err := elsewhere.occupied(unix.Mkdev(253, 1)); n != odometer.Unknown || !errors.Is(err, errNotThisHost) {
		t.Errorf("another host's device mapper: got %d, %v", n, err)
	}
}

// TestVMZFSHangs has ZFS answer once and then never again: what it said stands
// for a while, and nobody waits.
func TestVMZFSHangs(t *testing.T) {
	root := t.TempDir()
	if err := errors.Join(os.MkdirAll(filepath.Join(root, "dev/zvol/tank"), 0o755), os.Symlink("../../zd0", filepath.Join(root, "dev/zvol/tank/a"))); err != nil {
		t.Fatal(err)
	}
	var hang atomic.Bool
	asked := make(chan struct{}, 8)
	z := newZvols(root, func(ctx context.Context) ([]byte, error) {
		asked <- struct{}{}
		if hang.Load() {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return []byte("tank/a\t4096\n"), nil
	})
	defer z.close()
	if n, err := z.used("zd0"); n != 4096 || err != nil {
		t.Fatalf("got %d, %v", n, err)
	}
	<-asked
	hang.Store(true)
	z.begun = time.Now().Add(-zvolsEvery)
	if n, err := z.used("zd0"); n != 4096 || err != nil {
		t.Errorf("while it hangs: got %d, %v", n, err)
	}
	<-asked
	z.mu.Lock()
	z.ended = time.Now().Add(-zvolsHeld)
	asking := z.asking
	z.mu.Unlock()
	if n, err := z.used("zd0"); n != odometer.Unknown || err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("for too long: got %d, %v", n, err)
	}
	z.close()
	<-asking
	if n, err := z.used("zd0"); n != odometer.Unknown || !errors.Is(err, context.Canceled) {
		t.Errorf("given up: got %d, %v", n, err)
	}
}

// TestVMZFSCommand runs a command of the name as the real one would be run.
func TestVMZFSCommand(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	if _, err := listZvols(t.Context()); err == nil {
		t.Error("there is no zfs, and no error")
	}
	put := func(script string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "zfs"), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	put(`[ "$*" = "list -H -p -t volume -o name,used" ] && [ "$LC_ALL" = C ] && printf 'tank/a\t7\n'`)
	if out, err := listZvols(t.Context()); err != nil || string(out) != "tank/a\t7\n" {
		t.Errorf("got %q, %v", out, err)
	}
	put("echo 'The ZFS modules cannot be auto-loaded.' >&2\necho more >&2\nexit 1\n")
	if _, err := listZvols(t.Context()); err == nil || err.Error() != "exit status 1: The ZFS modules cannot be auto-loaded." {
		t.Errorf("got %v", err)
	}
	put("exec /bin/sleep 1000\n")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := listZvols(ctx); err == nil {
		t.Error("it hangs, and no error")
	}
}

// mapAnswer is what the kernel answers to DM_TABLE_STATUS.
func mapAnswer(targets ...mapTarget) []byte {
	b := make([]byte, mapHeader)
	binary.NativeEndian.PutUint32(b[16:], mapHeader)
	binary.NativeEndian.PutUint32(b[20:], uint32(len(targets)))
	for _, t := range targets {
		spec := make([]byte, mapSpec, mapSpec+len(t.status)+8)
		binary.NativeEndian.PutUint64(spec, t.start)
		binary.NativeEndian.PutUint64(spec[8:], t.length)
		copy(spec[24:mapSpec], t.kind)
		spec = append(append(spec, t.status...), 0)
		for len(spec)%8 != 0 {
			spec = append(spec, 0)
		}
		binary.NativeEndian.PutUint32(spec[20:], uint32(len(b)-mapHeader+len(spec)))
		b = append(b, spec...)
	}
	return b
}

func TestParseMapTable(t *testing.T) {
	want := []mapTarget{{0, 100, "linear", ""}, {100, 200, "a-kind-of-15-ch", "16/2048 16"}, {300, 1, "zero", ""}}
	b := mapAnswer(want...)
	got, err := parseMapTable(append(b, make([]byte, 512)...))
	if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	if got, err := parseMapTable(mapAnswer()); err != nil || len(got) != 0 {
		t.Errorf("no target: got %+v, %v", got, err)
	}
	for n := range b {
		if got, err := parseMapTable(b[:n]); err == nil {
			t.Errorf("cut to %d bytes: got %+v", n, got)
		}
	}
}

func FuzzParseMapTable(f *testing.F) {
	f.Add(mapAnswer(mapTarget{0, 100, "thin", "8 7"}, mapTarget{100, 1, "linear", ""}))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := parseMapTable(b)
		if err == nil && len(list)*mapSpec > len(b) {
			t.Errorf("%d targets in %d bytes", len(list), len(b))
		}
		for _, target := range list {
			if n, _, err := target.occupied(); err == nil && n < 0 {
				t.Errorf("%+v occupies %d", target, n)
			}
		}
	})
}
