package sampler

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"strings"

	"example.org/odometer"
	"golang.org/x/sys/unix"
)

// blockLayers tells what block devices occupy, by what lies below them. What
// nobody tells is unknown.
//
//	disks, partitions of them, RAID  their size: nothing else has it
//	device mapper                    by target, see [blockLayers.mapped]
//	loop devices                     the blocks of their file
//	zvols                            "used" of ZFS, at most [zvolsEvery] old
//	RBD, NBD, and what is not known  unknown
//
// No device is opened. Its methods may be called by many goroutines, and wait
// for as long as a layer does not answer.
type blockLayers struct {
	root  string // under which sys and the files of loop devices are
	stat  statFunc
	table func(dev uint64) ([]mapTarget, error) // see [mapTable]
	zvols *zvols
}

func (s *VMs) blockLayers() blockLayers {
	l := blockLayers{root: s.root, stat: statFile, table: func(uint64) ([]mapTarget, error) { return nil, errNotThisHost }}
	if s.host {
		l.table = mapTable
	}
	l.zvols = newZvols(s.root, listZvols)
	return l
}

var (
	errNotThisHost = errors.New("it is asked only on the host itself")
	errSilentLayer = errors.New("what of it is occupied is not told on this host")
)

// maxLayers is how deep devices may lie on each other.
const maxLayers = 16

// occupied returns the bytes that a block device occupies.
func (l *blockLayers) occupied(dev uint64) (int64, error) {
	space, err := l.space(filepath.Join(l.root, "sys/dev/block", fmt.Sprintf("%d:%d", unix.Major(dev), unix.Minor(dev))), 0)
	if err != nil {
		return odometer.Unknown, err
	}
	return space.bytes, nil
}

// blockSpace is what a block device occupies.
type blockSpace struct {
	bytes int64
	// whole says that it occupies all of its size, and so does any part of it.
	whole bool
}

// space looks at the device whose directory in sysfs is dir.
func (l *blockLayers) space(dir string, depth int) (blockSpace, error) {
	if depth > maxLayers {
		return blockSpace{}, fmt.Errorf("more than %d devices lie on each other", maxLayers)
	}
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return blockSpace{}, err
	}
	name := filepath.Base(dir)
	at := func(file string) string { return filepath.Join(dir, file) }
	sectors, ok := number(at("size"))
	if !ok || sectors > math.MaxInt64/sectorBytes {
		return blockSpace{}, fmt.Errorf("the size of %s in sysfs is %q", name, word(at("size")))
	}
	size := int64(sectors) * sectorBytes
	switch {
	case there(at("partition")):
		disk, err := l.space(filepath.Dir(dir), depth+1)
		if err == nil && !disk.whole {
			err = fmt.Errorf("%s is a part of a device that occupies less than its size", name)
		}
		return blockSpace{size, true}, err
	case there(at("dm")):
		return l.mapped(dir, size, depth)
	case there(at("loop")):
		return l.looped(dir, size, depth)
	case isNumbered(name, "zd"):
		n, err := l.zvols.used(name)
		return blockSpace{bytes: n}, err
	case isNumbered(name, "drbd"):
		// It keeps its own notes beside or behind the data; the device below is the disk's.
		return l.onlyBelow(dir, depth)
	case there(at("md")):
		return blockSpace{size, true}, l.allWhole(dir, depth)
	case isNumbered(name, "rbd"), !there(at("device")):
		return blockSpace{}, fmt.Errorf("%s: %w", name, errSilentLayer)
	}
	return blockSpace{size, true}, nil
}

// isNumbered reports whether name is prefix and a number.
func isNumbered(name, prefix string) bool {
	rest, ok := strings.CutPrefix(name, prefix)
	return ok && rest != "" && strings.Trim(rest, "0123456789") == ""
}

// below returns the directories of the devices that a device lies on.
func below(dir string) ([]string, error) {
	list, err := names(filepath.Join(dir, "slaves"))
	for i := range list {
		list[i] = filepath.Join(dir, "slaves", list[i])
	}
	return list, err
}

// allWhole returns an error unless all that a device lies on is taken whole.
func (l *blockLayers) allWhole(dir string, depth int) error {
	list, err := below(dir)
	if err != nil {
		return err
	}
	for _, b := range list {
		space, err := l.space(b, depth+1)
		if err != nil {
			return err
		}
		if !space.whole {
			return fmt.Errorf("%s lies on %s, which occupies less than its size", filepath.Base(dir), filepath.Base(b))
		}
	}
	return nil
}

// onlyBelow is the space of the only device that a device lies on.
func (l *blockLayers) onlyBelow(dir string, depth int) (blockSpace, error) {
	list, err := below(dir)
	if err != nil {
		return blockSpace{}, err
	}
	if len(list) != 1 {
		return blockSpace{}, fmt.Errorf("%s lies on %d devices: %w", filepath.Base(dir), len(list), errSilentLayer)
	}
	return l.space(list[0], depth+1)
}

// looped is the space of a loop device: the blocks of its file where it is all
// of it. The path is the kernel's, which may lead elsewhere here: a file of
// another size is another file.
func (l *blockLayers) looped(dir string, size int64, depth int) (blockSpace, error) {
	name := filepath.Base(dir)
	path := word(filepath.Join(dir, "loop/backing_file"))
	if word(filepath.Join(dir, "loop/offset")) != "0" || word(filepath.Join(dir, "loop/sizelimit")) != "0" {
		return blockSpace{}, fmt.Errorf("%s is a part of %s: %w", name, path, errSilentLayer)
	}
	path = filepath.Join(l.root, path)
	var st unix.Stat_t
	if err := l.stat(path, &st); err != nil {
		return blockSpace{}, fmt.Errorf("see the file of %s: stat %s: %w", name, path, err)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFBLK:
		return l.space(filepath.Join(l.root, "sys/dev/block", fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))), depth+1)
	case unix.S_IFREG:
		if st.Size/sectorBytes*sectorBytes != size {
			return blockSpace{}, fmt.Errorf("%s has %d bytes and %s %d: %w", name, size, path, st.Size, errSilentLayer)
		}
		n, err := blocksOf(&st, path)
		return blockSpace{bytes: n}, err
	}
	return blockSpace{}, fmt.Errorf("%s is no file: %w", path, errSilentLayer)
}

// mapped is the space of a device of the device mapper. What a target is given
// when it is made it occupies; of a thin device that is what its pool has
// mapped for it, blocks that it shares with snapshots included.
func (l *blockLayers) mapped(dir string, size int64, depth int) (blockSpace, error) {
	name := filepath.Base(dir)
	major, minor, _ := strings.Cut(word(filepath.Join(dir, "dev")), ":")
	ma, _, maOK := cutUint([]byte(major))
	mi, _, miOK := cutUint([]byte(minor))
	if !maOK || !miOK {
		return blockSpace{}, fmt.Errorf("the number of %s in sysfs is %q", name, major+":"+minor)
	}
	targets, err := l.table(unix.Mkdev(uint32(ma), uint32(mi)))
	if err != nil {
		return blockSpace{}, fmt.Errorf("ask the device mapper about %s: %w", name, err)
	}
	if len(targets) == 1 && targets[0].kind == "crypt" {
		return l.onlyBelow(dir, depth) // which is its own but for a header
	}
	var sum int64
	whole, lies := true, false
	for _, t := range targets {
		n, isGiven, err := t.occupied()
		if err != nil {
			return blockSpace{}, fmt.Errorf("%s: %w", name, err)
		}
		if sum += n; n < 0 || sum < 0 {
			return blockSpace{}, fmt.Errorf("%s: a target of %d bytes: that cannot be", name, n)
		}
		whole, lies = whole && isGiven, lies || isGiven
	}
	if lies {
		if err := l.allWhole(dir, depth); err != nil {
			return blockSpace{}, err
		}
	}
	return blockSpace{sum, whole && sum == size}, nil
}
