package inventory

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"example.org/odometer"
	"github.com/rogpeppe/go-internal/txtar"
	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "write the golden files anew")

// hostTree is a host on disk: a small copy of its /proc and /sys, and of the
// files that the machines on it have.
type hostTree struct {
	t    testing.TB
	root string
	boot atomic.Int64 // microseconds
}

// newHost unpacks testdata/hosts/NAME.txtar. The arguments of a command line
// stand one on a line. "links" has a symbolic link a line, "images" format,
// name, size in bytes and what the image is laid over, "nodes" block devices.
func newHost(t testing.TB, name string) *hostTree {
	t.Helper()
	h := &hostTree{t: t, root: t.TempDir()}
	h.boot.Store(60_000 * odometer.SecondMicros)
	a, err := txtar.ParseFile(filepath.Join("testdata", "hosts", name+".txtar"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range a.Files {
		for line := range strings.Lines(string(f.Data)) {
			words := strings.Fields(line)
			switch f.Name {
			case "links":
				h.link(words[0], words[2])
			case "images":
				h.image(words)
			case "nodes":
				var major, minor uint32
				fmt.Sscan(words[1]+" "+words[2], &major, &minor)
				h.dir(path.Dir(words[0]))
				if err := unix.Mknod(h.path(words[0]), unix.S_IFBLK|0o600, int(unix.Mkdev(major, minor))); err != nil {
					t.Skipf("this user may not make device nodes, which this host has: %v", err)
				}
			}
		}
		switch {
		case f.Name == "links" || f.Name == "images" || f.Name == "nodes":
		case path.Base(f.Name) == "cmdline":
			h.write(f.Name, strings.ReplaceAll(string(f.Data), "\n", "\x00"))
		default:
			h.write(f.Name, string(f.Data))
		}
	}
	return h
}

func (h *hostTree) path(name string) string { return filepath.Join(h.root, name) }

func (h *hostTree) check(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *hostTree) dir(name string) {
	h.t.Helper()
	h.check(os.MkdirAll(h.path(name), 0o755))
}

func (h *hostTree) write(name, content string) {
	h.t.Helper()
	h.dir(filepath.Dir(name))
	h.check(os.WriteFile(h.path(name), []byte(content), 0o644))
}

func (h *hostTree) link(name, to string) {
	h.t.Helper()
	h.dir(filepath.Dir(name))
	h.check(os.Symlink(to, h.path(name)))
}

func (h *hostTree) image(words []string) {
	h.t.Helper()
	var size int64
	fmt.Sscan(words[2], &size)
	if words[0] == "raw" {
		h.write(words[1], "")
		h.check(os.Truncate(h.path(words[1]), size))
		return
	}
	var below, format string
	if len(words) > 3 {
		below, format = words[3], words[4]
	}
	h.write(words[1], string(qcow2(uint64(size), below, format)))
}

// qcow2 makes the header of an image, as qemu-img does.
func qcow2(size uint64, below, format string) []byte {
	b := make([]byte, 112)
	copy(b, "QFI\xfb")
	binary.BigEndian.PutUint32(b[4:], 3)
	binary.BigEndian.PutUint32(b[20:], 16)
	binary.BigEndian.PutUint64(b[24:], size)
	binary.BigEndian.PutUint32(b[100:], 112)
	if format != "" {
		b = binary.BigEndian.AppendUint32(b, 0xe2792aca)
		b = binary.BigEndian.AppendUint32(b, uint32(len(format)))
		b = append(b, format...)
		b = append(b, make([]byte, -len(format)&7)...)
	}
	b = append(b, make([]byte, 8)...)
	if below != "" {
		binary.BigEndian.PutUint64(b[8:], uint64(len(b)))
		binary.BigEndian.PutUint32(b[16:], uint32(len(below)))
		b = append(b, below...)
	}
	return append(b, make([]byte, 512)...)
}

// process puts a process into the tree.
func (h *hostTree) process(pid, parent int, start uint64, args ...string) {
	h.t.Helper()
	dir := fmt.Sprintf("proc/%d", pid)
	h.write(dir+"/stat", statLine(pid, 'S', parent, pid, start))
	h.write(dir+"/cmdline", strings.Join(args, "\x00")+"\x00")
	if _, err := os.Lstat(h.path(dir + "/root")); err != nil {
		h.link(dir+"/root", "../..")
		h.link(dir+"/cwd", "../..")
	}
}

func statLine(pid int, state byte, parent, session int, start uint64) string {
	return fmt.Sprintf("%d (a) b (c) %c %d %d %d 0 -1 4194560 1 0 0 0 7 8 0 0 20 0 4 0 %d 1 1\n", pid, state, parent, session, session, start)
}

// kill takes a process out of the tree.
func (h *hostTree) kill(pid int) {
	h.t.Helper()
	h.check(os.RemoveAll(h.path(fmt.Sprintf("proc/%d", pid))))
}

// Now is the tree's clock, which stands still between the steps of a test.
func (h *hostTree) Now() odometer.Moment {
	now := h.boot.Load()
	return odometer.Moment{Boot: now, Wall: now + 1_700_000_000*odometer.SecondMicros}
}

func (h *hostTree) pass(seconds int64) { h.boot.Add(seconds * odometer.SecondMicros) }

func (h *hostTree) open() *Processes {
	h.t.Helper()
	p, err := OpenProcesses(ProcessesOptions{Root: h.root, Agent: "host-1", Clock: h})
	h.check(err)
	p.wait = time.Minute // this machine may be busy
	h.t.Cleanup(func() { h.check(p.Close()) })
	return p
}

func list(t testing.TB, s Source) []odometer.VM {
	t.Helper()
	vms, err := s.List(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return vms
}

// TestHosts compares what is found on each host with its golden file.
func TestHosts(t *testing.T) {
	files, err := filepath.Glob("testdata/hosts/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no hosts: %v", err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".txtar")
		t.Run(name, func(t *testing.T) {
			h := newHost(t, name)
			p := h.open()
			got, err := json.MarshalIndent(map[string]any{"machines": list(t, p), "problems": p.Problems()}, "", "\t")
			if err != nil {
				t.Fatal(err)
			}
			got = append(bytes.ReplaceAll(got, []byte(h.root), []byte("$ROOT")), '\n')
			golden := filepath.Join("testdata", "hosts", name+".golden.json")
			if *update {
				h.check(os.WriteFile(golden, got, 0o644))
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%s: got\n%s\nwant\n%s", golden, got, want)
			}
		})
	}
}
