package guest

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestModulesInOrder is on the modules that guests use.
func TestModulesInOrder(t *testing.T) {
	Need(t)
	dir, err := partsDir()
	if err != nil {
		t.Fatal(err)
	}
	all, err := findModules(filepath.Join(dir, "modules"))
	if err != nil {
		t.Fatal(err)
	}
	order, err := all.inOrder(append(wantedModules, "built_in")...)
	if err != nil {
		t.Fatal(err)
	}
	place := func(name string) int {
		return slices.IndexFunc(order, func(path string) bool { return filepath.Base(path) == name+".ko" })
	}
	for _, pair := range [][2]string{{"virtio_ring", "virtio_pci"}, {"virtio", "virtio_blk"}, {"failover", "net_failover"}, {"net_failover", "virtio_net"}} {
		if a, b := place(pair[0]), place(pair[1]); a < 0 || b < a {
			t.Errorf("%s is at %d, %s at %d", pair[0], a, pair[1], b)
		}
	}
	if len(order) != len(slices.Compact(slices.Sorted(slices.Values(order)))) {
		t.Errorf("one comes twice: %q", order)
	}

	damaged := filepath.Join(t.TempDir(), "virtio_blk.ko")
	if err := os.WriteFile(damaged, []byte("\x7fELF"), 0o600); err != nil {
		t.Fatal(err)
	}
	all["virtio_blk"] = damaged
	if _, err := all.inOrder("virtio-blk"); err == nil || !strings.Contains(err.Error(), "what kernel module virtio_blk needs") {
		t.Errorf("got %v", err)
	}
}

func TestArchive(t *testing.T) {
	var a archive
	a.file("a/b", []byte("text"))
	a.file("a/c", nil)
	b := a.end()
	var names []string
	for len(b) > 0 {
		if !bytes.HasPrefix(b, []byte("070701")) || len(b) < 110 {
			t.Fatalf("no header: %.110q", b)
		}
		var h [13]int
		for i := range h {
			h[i] = int(hex(t, b[6+8*i:14+8*i]))
		}
		size, nameSize := h[6], h[11]
		names = append(names, string(b[110:110+nameSize-1]))
		data := (110 + nameSize + 3) &^ 3
		if names[len(names)-1] == "a/b" && string(b[data:data+size]) != "text" {
			t.Errorf("a/b is %q", b[data:data+size])
		}
		b = b[(data+size+3)&^3:]
	}
	if got := strings.Join(names, " "); got != "a a/b a/c TRAILER!!!" {
		t.Errorf("got %q", got)
	}
}

func hex(t *testing.T, b []byte) uint64 {
	t.Helper()
	var n uint64
	for _, c := range b {
		d := strings.IndexByte("0123456789abcdef", c)
		if d < 0 {
			t.Fatalf("%q is not hexadecimal", b)
		}
		n = n<<4 | uint64(d)
	}
	return n
}

// TestFindParts says what is missing, and where it should be.
func TestFindParts(t *testing.T) {
	dir := t.TempDir()
	missing := func(what string) {
		t.Helper()
		if _, err := findParts(dir); err == nil || !strings.Contains(err.Error(), filepath.Join(dir, what)) {
			t.Errorf("without %s: got %v", what, err)
		}
	}
	put := func(name string, data []byte) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	missing("vmlinuz")
	put("vmlinuz", nil)
	missing("busybox")
	put("busybox", nil)
	missing("modules")
	put("modules/modules.order", nil)
	missing("modules has no kernel modules")
	put("modules/kernel/virtio.ko", nil)
	if _, err := findParts(dir); err != nil {
		t.Error(err)
	}
}
