package sampler

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"example.org/odometer"
	"golang.org/x/sys/unix"
)

// insideGuest is set where these tests run as root of a machine of their own,
// see TestVMDeviceMapper.
const insideGuest = "ODOMETER_TEST_INSIDE"

// mapCommand gives the device mapper a command of linux/dm-ioctl.h.
func mapCommand(t *testing.T, number uintptr, name string, flags, targets uint32, data []byte) {
	t.Helper()
	fd, err := unix.Open("/dev/mapper/control", unix.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	b := make([]byte, mapHeader, mapHeader+len(data))
	for i, v := range [...]uint32{4, 0, 0, uint32(mapHeader + len(data)), mapHeader, targets, 0, flags} {
		binary.NativeEndian.PutUint32(b[4*i:], v)
	}
	copy(b[48:], name)
	b = append(b, data...)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), 0xc138fd00|number, uintptr(unsafe.Pointer(&b[0]))); errno != 0 {
		t.Fatalf("command %d of the device mapper for %s: %v", number, name, errno)
	}
}

// mapDeviceOf makes the next device, of one target.
func mapDeviceOf(t *testing.T, name, kind string, sectors uint64, parameters string) {
	t.Helper()
	spec := make([]byte, mapSpec)
	binary.NativeEndian.PutUint64(spec[8:], sectors)
	copy(spec[24:], kind)
	spec = append(append(spec, parameters...), make([]byte, 8-len(parameters)%8)...)
	binary.NativeEndian.PutUint32(spec[20:], uint32(len(spec)))
	mapCommand(t, 3, name, 0, 0, nil) // DM_DEV_CREATE
	mapCommand(t, 9, name, 0, 1, spec)
	mapCommand(t, 6, name, 0, 0, nil) // DM_DEV_SUSPEND without its flag resumes
}

// TestInsideMapper is TestVMDeviceMapper's part in its machine: vda takes the
// notes of a thin pool, vdb its data, and of vdc two pieces are volumes.
func TestInsideMapper(t *testing.T) {
	if os.Getenv(insideGuest) == "" {
		t.Skip("TestVMDeviceMapper runs it")
	}
	const mib = 1 << 20
	mapDeviceOf(t, "pool", "thin-pool", 64*mib/512, "/dev/vda /dev/vdb 128 0")
	for id := range 2 {
		mapCommand(t, 14, "pool", 0, 0, append(make([]byte, 8), fmt.Sprintf("create_thin %d\x00", id)...)) // DM_TARGET_MSG, to sector 0
	}
	mapDeviceOf(t, "thin", "thin", 1024*mib/512, "/dev/dm-0 0")
	mapDeviceOf(t, "empty", "thin", 1024*mib/512, "/dev/dm-0 1")
	mapDeviceOf(t, "linear", "linear", 8*mib/512, "/dev/vdc 0")
	mapDeviceOf(t, "store", "linear", 2*mib/512, fmt.Sprintf("/dev/vdc %d", 8*mib/512))
	mapDeviceOf(t, "snapshot", "snapshot", 8*mib/512, "/dev/dm-3 /dev/dm-4 P 8")
	mapDeviceOf(t, "sealed", "crypt", 1023*mib/512, fmt.Sprintf("cipher_null-ecb - 0 /dev/dm-1 %d", mib/512))

	s := openVMs(t)
	var vms []odometer.VM
	for i := range 7 {
		vms = append(vms, odometer.VM{Instance: odometer.InstanceID(fmt.Sprint(i)), State: odometer.Stopped,
			Disks: []odometer.Disk{{Kind: odometer.DiskBlock, Path: fmt.Sprintf("/dev/dm-%d", i), Provisioned: 1}}})
	}
	s.Update(vms)
	device := func(what, path string, want int64) {
		t.Helper()
		got, err := s.images.layers.occupied(deviceNumber(t, path))
		if got != want {
			t.Errorf("%s: got %d occupied, %v; want %d", what, got, err, want)
		}
	}
	is := func(what string, i int, want int64) {
		t.Helper()
		device(what, fmt.Sprintf("/dev/dm-%d", i), want)
	}
	device("a disk", "/dev/vdc", 32*mib)
	device("NBD", "/dev/nbd0", odometer.Unknown)
	is("a pool", 0, odometer.Unknown)
	is("a thin volume to which nothing was written", 2, 0)
	is("a volume", 3, 8*mib)
	is("a snapshot", 5, 2*mib)
	is("an encrypted thin volume to which nothing was written", 6, 0)
	is("a thin volume", 1, 0)
	for i, r := range readings(t, s) {
		if want := []int64{odometer.Unknown, 0, 0, 8 * mib, 2 * mib, 2 * mib, 0}[i]; r.Gauges.Storage != want {
			t.Errorf("machine %d: got %d occupied, want %d", i, r.Gauges.Storage, want)
		}
	}
	disk, err := os.OpenFile("/dev/dm-6", os.O_WRONLY|unix.O_SYNC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	if _, err := disk.WriteAt(make([]byte, 3*mib), 256*mib); err != nil {
		t.Fatal(err)
	}
	is("a thin volume to which 3 MiB were written", 1, 3*mib)
	is("the encrypted volume on it", 6, 3*mib)

	mapCommand(t, 6, "thin", 2, 0, nil) // DM_SUSPEND_FLAG
	is("a thin volume that is suspended", 1, 3*mib)
	mapCommand(t, 6, "thin", 0, 0, nil)
	// Devices of many targets have answers that do not fit at first.
	var pieces []byte
	for i := range 1000 {
		spec := make([]byte, mapSpec)
		binary.NativeEndian.PutUint64(spec, uint64(i))
		binary.NativeEndian.PutUint64(spec[8:], 1)
		copy(spec[24:], "linear")
		spec = append(spec, fmt.Sprintf("/dev/vdc %d\x00", 40000-i)...)
		spec = append(spec, make([]byte, (8-len(spec)%8)%8)...)
		binary.NativeEndian.PutUint32(spec[20:], uint32(len(spec)))
		pieces = append(pieces, spec...)
	}
	mapCommand(t, 3, "pieces", 0, 0, nil)
	mapCommand(t, 9, "pieces", 0, 1000, pieces)
	mapCommand(t, 6, "pieces", 0, 0, nil)
	is("a volume in a thousand pieces", 7, 1000*512)
	mapDeviceOf(t, "striped", "striped", 4096, "2 8 /dev/vdc 30000 /dev/vdc 40000")
	is("a striped volume", 8, 4096*512)
	mapDeviceOf(t, "zeros", "zero", 4096, "")
	is("a device of nothing but zeros", 9, 0)
	mapDeviceOf(t, "part", "linear", 2048, "/dev/dm-1 0")
	is("a part of a thin volume", 10, odometer.Unknown)
}

func deviceNumber(t *testing.T, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(filepath.Clean(path), &st); err != nil {
		t.Fatal(err)
	}
	return st.Rdev
}
