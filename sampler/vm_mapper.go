package sampler

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mapTarget is a part of a device of the device mapper, with its status.
type mapTarget struct {
	start, length uint64 // in sectors of 512 bytes
	kind          string // "linear", "thin", …
	status        string
}

// given are the targets whose sectors belong to whoever has the device, all of
// them from the start.
var given = map[string]bool{
	"linear": true, "striped": true, "mirror": true, "raid": true, "multipath": true, "crypt": true, "integrity": true,
	"cache": true, "writecache": true, "era": true, "delay": true, "flakey": true, "snapshot-origin": true, "snapshot-merge": true,
}

// occupied returns the bytes that a target occupies, and whether they are the
// sectors of the devices below that it was given.
//
// The statuses are those of the kernel's Documentation/admin-guide/device-mapper:
// of "thin" the mapped sectors come first; of "snapshot" the sectors that its
// store has allocated and has, "16/2048 16". The store was given to it whole.
func (t mapTarget) occupied() (n int64, isGiven bool, err error) {
	fail := func() (int64, bool, error) {
		return 0, false, fmt.Errorf("the status of its target %s is %q", t.kind, t.status)
	}
	sectors := t.length
	switch t.kind {
	case "zero", "error":
		return 0, false, nil
	case "thin":
		mapped, rest, ok := cutUint([]byte(t.status))
		if !ok || len(rest) > 0 && rest[0] != ' ' {
			return fail() // "Fail", or "-" while it cannot tell
		}
		sectors = mapped
	case "snapshot":
		_, rest, ok := strings.Cut(t.status, "/")
		store, rest2, ok2 := cutUint([]byte(rest))
		if !ok || !ok2 || len(rest2) > 0 && rest2[0] != ' ' {
			return fail() // "Invalid", "Overflow"
		}
		sectors = store
	default:
		if !given[t.kind] {
			return 0, false, fmt.Errorf("its target %s: %w", t.kind, errSilentLayer)
		}
		isGiven = true
	}
	if sectors > math.MaxInt64/sectorBytes {
		return fail()
	}
	return int64(sectors) * sectorBytes, isGiven, nil
}

// The parts of linux/dm-ioctl.h that [mapTable] needs: struct dm_ioctl, after
// which come the answers, each a struct dm_target_spec and its status.
const (
	mapHeader     = 312
	mapSpec       = 40
	mapDevice     = 40         // where the header has the device's number
	tableStatus   = 0xc138fd0c // DM_TABLE_STATUS
	mapBufferFull = 1 << 8     // DM_BUFFER_FULL_FLAG
	mapNoFlush    = 1 << 11    // DM_NOFLUSH_FLAG: the pool need not write its notes down first
	mostMapBytes  = 1 << 20
)

var errMapAnswer = errors.New("an answer that is cut short or malformed")

// mapTable asks the device mapper for the targets of a device. It needs
// CAP_SYS_ADMIN and opens nothing but /dev/mapper/control.
func mapTable(dev uint64) ([]mapTarget, error) {
	fd, err := unix.Open("/dev/mapper/control", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/mapper/control: %w", err)
	}
	defer unix.Close(fd)
	for size := 4 << 10; ; size *= 4 {
		b := make([]byte, size)
		for i, v := range [...]uint32{4, 0, 0, uint32(size), mapHeader, 0, 0, mapNoFlush} { // version, sizes, counts, flags
			binary.NativeEndian.PutUint32(b[4*i:], v)
		}
		binary.NativeEndian.PutUint64(b[mapDevice:], dev)
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), tableStatus, uintptr(unsafe.Pointer(&b[0]))); errno != 0 {
			return nil, errno
		}
		if flags := binary.NativeEndian.Uint32(b[28:]); flags&mapBufferFull == 0 {
			return parseMapTable(b)
		}
		if size >= mostMapBytes {
			return nil, fmt.Errorf("the answer has more than %d bytes", mostMapBytes)
		}
	}
}

// parseMapTable reads the answer to DM_TABLE_STATUS.
func parseMapTable(b []byte) ([]mapTarget, error) {
	if len(b) < mapHeader {
		return nil, errMapAnswer
	}
	from, count := binary.NativeEndian.Uint32(b[16:]), binary.NativeEndian.Uint32(b[20:])
	if from < mapHeader || uint64(from) > uint64(len(b)) || uint64(count)*mapSpec > uint64(len(b)) {
		return nil, errMapAnswer
	}
	b = b[from:]
	list := make([]mapTarget, 0, count)
	for at := uint32(0); count > 0; count-- {
		if uint64(at)+mapSpec > uint64(len(b)) {
			return nil, errMapAnswer
		}
		spec := b[at:]
		next := binary.NativeEndian.Uint32(spec[20:]) // from the first one on
		if next < at+mapSpec || uint64(next) > uint64(len(b)) {
			return nil, errMapAnswer
		}
		list = append(list, mapTarget{
			start: binary.NativeEndian.Uint64(spec), length: binary.NativeEndian.Uint64(spec[8:]),
			kind: textTo0(spec[24:mapSpec]), status: strings.TrimSpace(textTo0(b[at+mapSpec : next])),
		})
		at = next
	}
	return list, nil
}

// textTo0 is the text up to the first byte 0.
func textTo0(b []byte) string {
	text, _, _ := bytes.Cut(b, []byte{0})
	return string(text)
}
