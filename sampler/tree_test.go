package sampler

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"example.org/odometer"
	"github.com/rogpeppe/go-internal/txtar"
	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "write the golden files anew")

// tree is a machine on disk: a small copy of the files of /proc and /sys that
// one has, and the answers of statfs(2) and nvidia-smi there.
type tree struct {
	t    *testing.T
	root string
	boot atomic.Int64 // microseconds; advanced by each look at the clock
	smi  string

	mu    sync.Mutex // guards what follows while a machine is open
	space map[string]unix.Statfs_t
	hang  map[string]chan struct{} // statfs of a mount point waits until it is closed
}

// newTree unpacks testdata/trees/NAME.txtar. Its file "links" has a symbolic
// link a line, "statfs" a mount point with blocks, free blocks and their size.
func newTree(t *testing.T, name string) *tree {
	t.Helper()
	a, err := txtar.ParseFile(filepath.Join("testdata", "trees", name+".txtar"))
	if err != nil {
		t.Fatal(err)
	}
	tr := &tree{t: t, root: t.TempDir(), space: map[string]unix.Statfs_t{}, hang: map[string]chan struct{}{}}
	tr.boot.Store(1000 * odometer.SecondMicros)
	for _, f := range a.Files {
		switch f.Name {
		case "links":
			for line := range strings.Lines(string(f.Data)) {
				from, to, _ := strings.Cut(strings.TrimSpace(line), " -> ")
				tr.link(from, to)
			}
		case "statfs":
			for line := range strings.Lines(string(f.Data)) {
				var point string
				var st unix.Statfs_t
				if _, err := fmt.Sscan(line, &point, &st.Blocks, &st.Bfree, &st.Frsize); err != nil {
					t.Fatal(err)
				}
				tr.space[point] = st
				tr.dir(point)
			}
		case "nvidia-smi":
			tr.smi = string(f.Data)
		default:
			tr.write(f.Name, string(f.Data))
		}
	}
	return tr
}

func (tr *tree) dir(name string) {
	tr.t.Helper()
	if err := os.MkdirAll(filepath.Join(tr.root, name), 0o755); err != nil {
		tr.t.Fatal(err)
	}
}

func (tr *tree) write(name, content string) {
	tr.t.Helper()
	tr.dir(filepath.Dir(name))
	if err := os.WriteFile(filepath.Join(tr.root, name), []byte(content), 0o644); err != nil {
		tr.t.Fatal(err)
	}
}

func (tr *tree) link(name, to string) {
	tr.t.Helper()
	tr.dir(filepath.Dir(name))
	if err := os.Symlink(to, filepath.Join(tr.root, name)); err != nil {
		tr.t.Fatal(err)
	}
}

func (tr *tree) remove(name string) {
	tr.t.Helper()
	if err := os.RemoveAll(filepath.Join(tr.root, name)); err != nil {
		tr.t.Fatal(err)
	}
}

// edit replaces text in a file, which has to have it.
func (tr *tree) edit(name, old, new string) {
	tr.t.Helper()
	b, err := os.ReadFile(filepath.Join(tr.root, name))
	if err != nil {
		tr.t.Fatal(err)
	}
	if !bytes.Contains(b, []byte(old)) {
		tr.t.Fatalf("%s has no %q", name, old)
	}
	tr.write(name, strings.Replace(string(b), old, new, 1))
}

// Now is the tree's clock: a millisecond passes with each look.
func (tr *tree) Now() odometer.Moment {
	now := tr.boot.Add(1000)
	return odometer.Moment{Boot: now, Wall: now + 1_700_000_000*odometer.SecondMicros}
}

// fill changes how many blocks of a filesystem are free.
func (tr *tree) fill(point string, free uint64) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	st := tr.space[point]
	st.Bfree = free
	tr.space[point] = st
}

// stall makes a filesystem hang until release is closed; nil lets it answer.
func (tr *tree) stall(point string, release chan struct{}) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.hang[point] = release
}

func (tr *tree) statfs(path []byte, st *unix.Statfs_t) error {
	point := "/" + strings.Trim(strings.TrimPrefix(string(path[:len(path)-1]), tr.root), "/")
	tr.mu.Lock()
	wait := tr.hang[point]
	tr.mu.Unlock()
	if wait != nil {
		<-wait
	}
	tr.mu.Lock()
	answer, ok := tr.space[point]
	tr.mu.Unlock()
	if !ok {
		return unix.EACCES
	}
	*st = answer
	return nil
}

// runSMI answers as nvidia-smi does: all lines, or the one asked for, and with
// an error where a line is none of the query's.
func (tr *tree) runSMI(_ context.Context, args ...string) ([]byte, error) {
	var out strings.Builder
	var err error
	for line := range strings.Lines(tr.smi) {
		if len(args) == 2 && !strings.Contains(strings.ToLower(line), args[1]) {
			continue
		}
		out.WriteString(line)
		if !strings.Contains(line, ", ") {
			err = errors.New("exit status 15")
		}
	}
	return []byte(out.String()), err
}

func (tr *tree) open(change ...func(*MachineOptions)) *Machine {
	tr.t.Helper()
	opt := MachineOptions{Root: tr.root, Instance: "vm-1", Agent: "host-1", Owner: odometer.Owner{User: "u-ada", Org: "o-acme"}, Clock: tr}
	for _, f := range change {
		f(&opt)
	}
	m, err := openMachine(opt, tr.statfs, 100, tr.runSMI)
	if err != nil {
		tr.t.Fatal(err)
	}
	tr.t.Cleanup(func() { m.Close() })
	return m
}

// sample takes one reading, to be kept.
func sample(t *testing.T, m *Machine) odometer.Reading {
	t.Helper()
	var r odometer.Reading
	if err := m.Sample(func(got *odometer.Reading) {
		r = *got
		r.Counters = slices.Clone(got.Counters)
	}); err != nil {
		t.Fatal(err)
	}
	return r
}

// counter finds a counter in a reading, the zero Counter where there is none.
func counter(r odometer.Reading, q odometer.Quantity, device string) odometer.Counter {
	for _, c := range r.Counters {
		if c.Quantity == q && c.Device == device {
			return c
		}
	}
	return odometer.Counter{}
}

// TestTrees compares what is read of each machine with its golden file:
// reading, /get and sources.
func TestTrees(t *testing.T) {
	for _, name := range treeNames(t) {
		t.Run(name, func(t *testing.T) {
			tr := newTree(t, name)
			m := tr.open()
			r := sample(t, m)
			s, err := m.Metrics()
			if err != nil {
				t.Fatal(err)
			}
			type namedCounter struct {
				Quantity string
				odometer.Counter
			}
			counters := []namedCounter{}
			for _, c := range r.Counters {
				counters = append(counters, namedCounter{c.Quantity.String(), c})
			}
			r.Counters = nil
			got, err := json.MarshalIndent(map[string]any{
				"counters": counters, "reading": r, "get": s, "sources": m.Sources(),
			}, "", "\t")
			if err != nil {
				t.Fatal(err)
			}
			got = append(bytes.ReplaceAll(got, []byte(tr.root), []byte("$ROOT")), '\n')
			golden := filepath.Join("testdata", "trees", name+".golden.json")
			if *update {
				if err := os.WriteFile(golden, got, 0o644); err != nil {
					t.Fatal(err)
				}
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

func treeNames(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("testdata/trees/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no trees: %v", err)
	}
	for i, f := range files {
		files[i] = strings.TrimSuffix(filepath.Base(f), ".txtar")
	}
	return files
}

// TestWhatCounts spells out what the golden files must say, so that an update
// cannot make it go away.
func TestWhatCounts(t *testing.T) {
	const unknown = odometer.Unknown
	for _, c := range []struct {
		tree     string
		disks    []string
		links    []string
		gauges   odometer.Gauges
		cpu      uint64 // ns
		in, out  uint64 // network
		read, wr uint64 // disk
	}{
		{
			tree: "bare-metal", disks: []string{"nvme0n1", "sda", "sdb", "sdc"}, links: []string{"eno1"},
			// Guest time, idle, iowait and steal are not usage.
			cpu: (1000000 + 2000 + 300000 + 5000 + 6000) * 1e7,
			in:  5000000000, out: 7000000000,
			read: (2000000 + 50000 + 70000 + 300000) * 512, wr: (4000000 + 60000 + 80000 + 600000) * 512,
			gauges: odometer.Gauges{
				Memory: (65536000 - 48000000) << 10, MemoryAllocated: 65536000 << 10,
				Storage:            600000*4096 + 1000*1024 + 400000*4096 + 3000*131072,
				StorageProvisioned: (1000000 + 2000000 + 4000000) * 512, // sdb and sdc are two paths to one
				VCPUs:              32, GPUs: 2,
			},
		},
		{
			tree: "vm", disks: []string{"vda"}, links: []string{"eth0"},
			cpu: (11111 + 22 + 3333 + 66 + 77) * 1e7, in: 147885169, out: 568381, read: 18355 * 512, wr: 4717 * 512,
			gauges: odometer.Gauges{
				Memory: 1000000 << 10, MemoryAllocated: 4000000 << 10,
				Storage: 621440*4096 + 3000*2048, StorageProvisioned: 20971520 * 512, VCPUs: 2, GPUs: unknown,
			},
		},
		{
			tree: "container", links: []string{"eth0"}, cpu: 10 * 1e7, in: 222222, out: 333333,
			gauges: odometer.Gauges{
				Memory: 2000000 << 10, MemoryAllocated: 8000000 << 10,
				Storage: unknown, StorageProvisioned: unknown, VCPUs: 1, GPUs: unknown,
			},
		},
		{
			tree: "bond", disks: []string{"xvda"}, links: []string{"conduit0", "eno1", "eno2", "eth0"}, cpu: 200 * 1e7,
			in: 1000 + 2000 + 500 + 7000, out: 10000 + 20000 + 600 + 8000, read: 100 * 512, wr: 200 * 512,
			gauges: odometer.Gauges{
				Memory: 500000 << 10, MemoryAllocated: 1000000 << 10,
				Storage: 900 * 512, StorageProvisioned: 1000 * 512, VCPUs: 4, GPUs: 2,
			},
		},
		{
			tree: "old-kernel", disks: []string{"sda"}, links: []string{"eth0"}, cpu: 600 * 1e7,
			in: 10, out: 20, read: 800 * 512, wr: 1600 * 512,
			gauges: odometer.Gauges{
				Memory: unknown, MemoryAllocated: 1000000 << 10,
				Storage: 900 * 1024, StorageProvisioned: 1000 * 512, VCPUs: 2, GPUs: unknown,
			},
		},
	} {
		t.Run(c.tree, func(t *testing.T) {
			r := sample(t, newTree(t, c.tree).open())
			sums := map[odometer.Quantity]uint64{}
			disks, links := map[string]bool{}, map[string]bool{}
			for _, n := range r.Counters {
				sums[n.Quantity] += n.Value
				switch n.Quantity {
				case odometer.DiskRead, odometer.DiskWrite:
					disks[n.Device] = true
				case odometer.NetworkEgress, odometer.NetworkIngress:
					links[n.Device] = true
				}
				if n.Born {
					t.Errorf("%s of %q is born in the first reading", n.Quantity, n.Device)
				}
			}
			if got := slices.Sorted(maps.Keys(disks)); !slices.Equal(got, c.disks) {
				t.Errorf("disks: got %q, want %q", got, c.disks)
			}
			if got := slices.Sorted(maps.Keys(links)); !slices.Equal(got, c.links) {
				t.Errorf("interfaces: got %q, want %q", got, c.links)
			}
			want := map[odometer.Quantity]uint64{
				odometer.CPU: c.cpu, odometer.NetworkIngress: c.in, odometer.NetworkEgress: c.out,
				odometer.DiskRead: c.read, odometer.DiskWrite: c.wr,
			}
			for q, n := range want {
				if sums[q] != n {
					t.Errorf("%s: got %d, want %d", q, sums[q], n)
				}
			}
			if r.Gauges != c.gauges {
				t.Errorf("gauges: got %+v, want %+v", r.Gauges, c.gauges)
			}
			if r.State != odometer.Running || !r.Unwatched || r.Instance != "vm-1" || r.Agent != "host-1" || r.Owner.User != "u-ada" {
				t.Errorf("got %+v, want the first reading of vm-1 at host-1, running, unwatched", r)
			}
		})
	}
}
