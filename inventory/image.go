package inventory

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"example.org/odometer"
	"golang.org/x/sys/unix"
)

// view is how a process sees the files of the host.
type view struct {
	root int    // its root directory, open
	cwd  string // its working directory, as it sees it itself; "" where that is not known
	host string // path on the host of its root
	pid  int
	sys  string // where the host's sysfs is
	base string // the directory that paths on the host are under, "/" but for fixtures
}

// image is what looking at a disk's file told.
type image struct {
	kind    odometer.DiskKind
	path    string // on the host
	format  string
	size    int64
	backing []string
	problem error // why size, or the chain, is not known to its end
}

// inspect looks at the file or block device that lies at name in the view.
// format is what the hypervisor was told, "" that it looks for itself. chase
// says to follow the images below.
//
// It opens regular files only, for reading, and no device; a filesystem that
// hangs hangs it.
func (v view) inspect(name, format string, chase bool) image {
	if !path.IsAbs(name) {
		if v.cwd == "" {
			return image{kind: odometer.DiskUnknown, path: name, format: format, size: odometer.Unknown,
				problem: fmt.Errorf("look at %s: the directory that it is relative to is not known", name)}
		}
		name = path.Join(v.cwd, name)
	}
	im, below, err := v.one(name, format)
	if err != nil {
		im.problem = err
		return im
	}
	dir := path.Dir(name)
	for depth := 0; chase && below.name != ""; depth++ {
		place, local := location(below.name)
		if !local {
			// On the network, or described in JSON: this far and no further.
			im.backing = append(im.backing, place)
			break
		}
		if !path.IsAbs(place) {
			place = path.Join(dir, place)
		}
		if depth == maxDepth {
			im.problem = fmt.Errorf("%s is laid over more than %d images", name, maxDepth)
			break
		}
		next, further, err := v.one(place, below.format)
		if next.path != "" {
			im.backing = append(im.backing, next.path)
		}
		if err != nil {
			im.problem = fmt.Errorf("the image below it: %w", err)
			break
		}
		dir, below = path.Dir(place), further
	}
	return im
}

// backing is what the header of an image says that it is laid over.
type backing struct{ name, format string }

func (v view) one(name, format string) (im image, below backing, err error) {
	im = image{kind: odometer.DiskUnknown, path: name, format: format, size: odometer.Unknown}
	fd, err := v.open(name)
	if err != nil {
		return im, below, fmt.Errorf("look at %s: %w", name, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return im, below, fmt.Errorf("look at %s: %w", name, err)
	}
	im.path = v.onHost(name, &st)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFBLK:
		im.kind = odometer.DiskBlock
		im.size, err = v.blockSize(st.Rdev)
		if err != nil {
			return im, below, fmt.Errorf("look at %s: %w", name, err)
		}
		if format != "raw" && format != "" {
			// The layout on it has a size of its own, which only reading the
			// device would tell.
			im.size = odometer.Unknown
			return im, below, fmt.Errorf("%s has the format %s on a block device, whose header is not read", name, format)
		}
	case unix.S_IFREG:
		im.kind = odometer.DiskFile
		if format == "raw" {
			im.size = st.Size
			break
		}
		f, err := os.Open("/proc/self/fd/" + strconv.Itoa(fd))
		if err != nil {
			return im, below, fmt.Errorf("read the header of %s: %w", name, errors.Unwrap(err))
		}
		defer f.Close()
		b, err := head(f, headerBytes)
		if err != nil {
			return im, below, fmt.Errorf("read the header of %s: %w", name, err)
		}
		h, err := parseHeader(b, format, st.Size)
		im.format, im.size, below = h.format, h.size, h.backing
		if err != nil {
			return im, below, fmt.Errorf("read the header of %s: %w", name, err)
		}
	default:
		return im, below, fmt.Errorf("%s is neither a file nor a block device", name)
	}
	return im, below, nil
}

// open opens a path as the process resolves it, without any effect on what it
// names.
func (v view) open(name string) (int, error) {
	fd, err := unix.Openat2(v.root, name, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT})
	if err == unix.ENOSYS {
		// Before Linux 5.6 links within the process's root lead out of it.
		return unix.Openat(v.root, strings.TrimLeft(name, "/"), unix.O_PATH|unix.O_CLOEXEC, 0)
	}
	return fd, err
}

func (v view) under(name string) string { return filepath.Join(v.base, name) }

// onHost returns under which path the host knows what the process calls name:
// that path where it is the same file, and otherwise the way through /proc.
func (v view) onHost(name string, st *unix.Stat_t) string {
	var same unix.Stat_t
	host := path.Join(v.host, name)
	if err := unix.Stat(v.under(host), &same); err == nil && same.Mode&unix.S_IFMT == st.Mode&unix.S_IFMT {
		// A process may have device nodes of its own for the same device.
		if same.Dev == st.Dev && same.Ino == st.Ino || st.Mode&unix.S_IFMT == unix.S_IFBLK && same.Rdev == st.Rdev {
			return host
		}
	}
	return path.Join("/proc", strconv.Itoa(v.pid), "root", name)
}

// sectorBytes is the unit of the size in sysfs, whatever the disk's own is.
const sectorBytes = 512

// blockSize returns the size in bytes of a block device.
func (v view) blockSize(dev uint64) (int64, error) {
	s, err := word(filepath.Join(v.sys, "dev/block", fmt.Sprintf("%d:%d", unix.Major(dev), unix.Minor(dev)), "size"))
	if err != nil {
		return odometer.Unknown, err
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64/sectorBytes {
		return odometer.Unknown, fmt.Errorf("its size in sysfs is %q", s)
	}
	return n * sectorBytes, nil
}

// headerBytes holds the header of a qcow2 image with the name that it is laid
// over: a few hundred bytes, and names of at most 1023.
const headerBytes = 4 << 10

// header is what the first bytes of an image say.
type header struct {
	format  string
	size    int64
	backing backing
}

// magics of the formats that are not read any further.
var magics = []struct {
	at     int
	magic  string
	format string
}{
	{0, "QED\x00", "qed"}, {0, "KDMV", "vmdk"}, {0, "COWD", "vmdk"}, {0, "# Disk DescriptorFile", "vmdk"},
	{0x40, "\x7f\x10\xda\xbe", "vdi"}, {0, "vhdxfile", "vhdx"}, {0, "conectix", "vpc"}, {0, "LUKS\xba\xbe", "luks"},
	{0, "WithoutFreeSpace", "parallels"}, {0, "WithouFreSpacExt", "parallels"},
}

var errHeader = errors.New("malformed qcow2 header")

// parseHeader reads the first bytes of an image file of length bytes. The
// layout of qcow2 is described in QEMU's docs/interop/qcow2.txt; its numbers
// are big endian. Where format is "" the magic tells it, as for QEMU; what has
// none is raw.
func parseHeader(b []byte, format string, length int64) (header, error) {
	unknown := header{format: format, size: odometer.Unknown}
	if format != "" && format != "qcow2" {
		return unknown, fmt.Errorf("the size of a %s image is not read", format)
	}
	if !strings.HasPrefix(string(b), "QFI\xfb") {
		if format == "qcow2" {
			return unknown, errHeader
		}
		for _, m := range magics {
			if len(b) >= m.at && strings.HasPrefix(string(b[m.at:]), m.magic) {
				unknown.format = m.format
				return unknown, fmt.Errorf("the size of a %s image is not read", m.format)
			}
		}
		return header{format: "raw", size: length}, nil
	}
	if len(b) < 72 {
		return unknown, errHeader
	}
	version := binary.BigEndian.Uint32(b[4:])
	if version == 1 {
		unknown.format = "qcow"
		return unknown, errors.New("the size of a qcow image is not read")
	}
	size := binary.BigEndian.Uint64(b[24:])
	if version > 3 || version == 0 || size > math.MaxInt64 {
		return unknown, errHeader
	}
	h := header{format: "qcow2", size: int64(size)}
	extensions := 72
	var incompatible uint64
	if version == 3 {
		if len(b) < 104 {
			return unknown, errHeader
		}
		incompatible = binary.BigEndian.Uint64(b[72:])
		extensions = int(min(binary.BigEndian.Uint32(b[100:]), headerBytes))
	}
	at, n := binary.BigEndian.Uint64(b[8:]), uint64(binary.BigEndian.Uint32(b[16:]))
	if at != 0 && n != 0 {
		if n > 1023 || at > uint64(len(b)) || at+n > uint64(len(b)) {
			return h, errors.New("the name of the image that it is laid over lies outside its header")
		}
		h.backing.name = string(b[at : at+n])
	}
	const backingFormat = 0xe2792aca
	for extensions+8 <= len(b) {
		kind, n := binary.BigEndian.Uint32(b[extensions:]), int(binary.BigEndian.Uint32(b[extensions+4:]))
		extensions += 8
		if kind == 0 || n < 0 || n > len(b)-extensions {
			break
		}
		if kind == backingFormat {
			h.backing.format = string(b[extensions : extensions+n])
		}
		extensions += (n + 7) &^ 7
	}
	if incompatible&(1<<2) != 0 {
		return h, errors.New("its data lies in another file, which is not looked at")
	}
	return h, nil
}
