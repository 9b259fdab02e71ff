package inventory

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"example.org/odometer"
)

// TestLibvirtLooksAtDisks has domains with disks of all kinds: what their files
// and devices tell is added to the description.
func TestLibvirtLooksAtDisks(t *testing.T) {
	h := emptyHost(t)
	for _, image := range []string{"qcow2 top 3000000 below qcow2", "qcow2 below 2000000 /base raw", "raw base 1000000", "qcow2 forged 512", "raw disk.vmdk 4096"} {
		h.image(strings.Fields(image))
	}
	l := NewLibvirt(LibvirtOptions{Clock: h, Root: h.root})
	defer l.Close()
	l.wait = time.Minute
	file := func(name, path, format string, backing ...string) odometer.Disk {
		return odometer.Disk{Name: name, Kind: odometer.DiskFile, Path: path, Format: format, Provisioned: unknown, Backing: backing}
	}
	network := odometer.Disk{Name: "net", Kind: odometer.DiskNetwork, Path: "rbd:p/i", Provisioned: 7}
	k := &knownDomain{vm: &odometer.VM{Name: "web", Disks: []odometer.Disk{
		file("vda", "/top", "qcow2"), file("vdb", "/top", "qcow2", "/said"), file("vdc", "/forged", ""), file("vdd", "/disk.vmdk", "vmdk"),
		file("vde", "/gone", "raw"), network, file("vdf", "relative", "raw"),
	}}}
	empty := &knownDomain{}
	sized := func(d odometer.Disk, size int64, backing ...string) odometer.Disk {
		d.Provisioned, d.Backing = size, backing
		return d
	}
	given := k.vm.Disks
	want := []odometer.Disk{
		sized(given[0], 3000000, "/below", "/base"), sized(given[1], 3000000, "/said"),
		sized(given[2], sizeOf(t, h.path("forged"))), // by its owner a qcow2 image, and to the hypervisor nothing but bytes
		given[3], given[4], network, given[6],
	}
	l.lookAtDisks([]*knownDomain{empty, k})
	got := k.disks()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
	if empty.disks() != nil || empty.unseen != nil {
		t.Errorf("a domain that was not described: got %+v, %v", empty.disks(), empty.unseen)
	}
	problems := "domain web: disk vdd: read the header of /disk.vmdk: the size of a vmdk image is not read\n" +
		"domain web: disk vde: look at /gone: no such file or directory"
	if k.unseen == nil || k.unseen.Error() != problems {
		t.Errorf("got %v, want %s", k.unseen, problems)
	}

	// The filesystem hangs: what is known stands, and is waited for once.
	for range maxWaiting {
		l.gate <- struct{}{}
	}
	h.image(strings.Fields("qcow2 top 4000000"))
	h.image(strings.Fields("raw new 5000000"))
	k.vm.Disks = append(k.vm.Disks[:1:1], file("vdz", "/new", "raw"))
	l.wait = 0
	k.looks["/top"].due = time.Time{}
	l.lookAtDisks([]*knownDomain{k})
	if got := k.disks(); got[0].Provisioned != 3000000 || got[1].Provisioned != unknown {
		t.Errorf("while it hangs: got %+v", got)
	}
	problems = "domain web: disk vda: the filesystem of /top does not answer\ndomain web: disk vdz: the filesystem of /new does not answer"
	if k.unseen == nil || k.unseen.Error() != problems {
		t.Errorf("while it hangs: got %v, want %s", k.unseen, problems)
	}
	l.wait = time.Hour
	l.lookAtDisks([]*knownDomain{k}) // and does not wait again
	for range maxWaiting {
		<-l.gate
	}
	for end := time.Now().Add(10 * time.Second); k.unseen != nil; time.Sleep(time.Millisecond) {
		if l.lookAtDisks([]*knownDomain{k}); time.Now().After(end) {
			t.Fatalf("it answers again: got %v", k.unseen)
		}
	}
	if got := k.disks(); got[0].Provisioned != 4000000 || got[0].Backing != nil || got[1].Provisioned != 5000000 {
		t.Errorf("it answers again: got %+v", got)
	}
	l.host.root = "/nowhere/at/all"
	k.looks = nil
	l.lookAtDisks([]*knownDomain{k})
	if got := k.disks(); got[0].Provisioned != unknown || k.unseen == nil {
		t.Errorf("there is no such root: got %+v, %v", got, k.unseen)
	}
}

// TestWhoseSizeIsAskedFor is of which disks libvirt is asked for the size.
func TestWhoseSizeIsAskedFor(t *testing.T) {
	for _, c := range []struct {
		kind   odometer.DiskKind
		format string
		want   bool
	}{
		{odometer.DiskNetwork, "raw", true}, {odometer.DiskBlock, "raw", false}, {odometer.DiskBlock, "", false}, {odometer.DiskBlock, "qcow2", true},
		{odometer.DiskFile, "raw", false}, {odometer.DiskFile, "qcow2", false}, {odometer.DiskFile, "vmdk", true}, {odometer.DiskUnknown, "raw", false},
	} {
		if got := askedFor(&odometer.Disk{Kind: c.kind, Format: c.format, Provisioned: unknown}); got != c.want {
			t.Errorf("%s %q: got %v", c.kind, c.format, got)
		}
		if askedFor(&odometer.Disk{Kind: c.kind, Format: c.format, Provisioned: 1}) {
			t.Errorf("%s %q: it is known", c.kind, c.format)
		}
	}
}
