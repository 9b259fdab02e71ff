package guest

import (
	"bytes"
	_ "embed" // init.sh
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
)

//go:embed init.sh
var initScript []byte

// wantedModules are the drivers of what a guest is given.
var wantedModules = []string{"virtio_pci", "virtio_blk", "virtio_net", "virtio_balloon"}

// initramfs returns the file system that a guest runs on: busybox, the kernel
// modules in the order of their names, the init script, and the files of the
// options.
func initramfs(p parts, o Options) ([]byte, error) {
	var a archive
	for _, dir := range []string{"bin", "dev", "mem", "modules", "proc", "sys", "tmp"} {
		a.dir(dir)
	}
	a.file("init", initScript)
	if err := a.copy("bin/busybox", p.busybox); err != nil {
		return nil, err
	}
	order, err := p.modules.inOrder(slices.Concat(wantedModules, o.Modules)...)
	if err != nil {
		return nil, err
	}
	for i, from := range order {
		if err := a.copy(fmt.Sprintf("modules/%02d-%s", i, filepath.Base(from)), from); err != nil {
			return nil, err
		}
	}
	for _, to := range slices.Sorted(maps.Keys(o.Files)) {
		if err := a.copy(path.Clean("/" + to)[1:], o.Files[to]); err != nil {
			return nil, err
		}
	}
	return a.end(), nil
}

// archive is a cpio archive in the "newc" format, as the kernel unpacks it
// (Documentation/driver-api/early-userspace/buffer-format.rst): a header of
// fixed width in hexadecimal, the name, the data, each padded to four bytes.
type archive struct {
	bytes.Buffer
	inode int
	dirs  map[string]bool
}

const (
	modeDir  = 0o040755
	modeFile = 0o100755
)

func (a *archive) entry(name string, mode int, data []byte) {
	a.inode++
	fmt.Fprintf(a, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		a.inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0, name)
	a.pad()
	a.Write(data)
	a.pad()
}

func (a *archive) pad() {
	for a.Len()%4 != 0 {
		a.WriteByte(0)
	}
}

// dir adds a directory and those above it, once.
func (a *archive) dir(name string) {
	if name == "." || a.dirs[name] {
		return
	}
	a.dir(path.Dir(name))
	if a.dirs == nil {
		a.dirs = map[string]bool{}
	}
	a.dirs[name] = true
	a.entry(name, modeDir, nil)
}

func (a *archive) file(name string, data []byte) {
	a.dir(path.Dir(name))
	a.entry(name, modeFile, data)
}

func (a *archive) copy(name, from string) error {
	b, err := os.ReadFile(from)
	if err == nil {
		a.file(name, b)
	}
	return err
}

func (a *archive) end() []byte {
	a.entry("TRAILER!!!", 0, nil)
	return a.Bytes()
}
