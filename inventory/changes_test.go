package inventory

import (
	"fmt"
	"strings"
	"testing"

	"example.org/odometer"
)

// told writes changes for a table: instance, kind, boot second, device, detail.
func changesText(list []odometer.Change) string {
	var b strings.Builder
	for _, c := range list {
		fmt.Fprintf(&b, "%s %s at %d", c.Instance, c.Kind, c.At.Boot/odometer.SecondMicros)
		for _, s := range []string{c.Device, c.Detail} {
			if s != "" {
				fmt.Fprintf(&b, " %s", s)
			}
		}
		b.WriteString("\n")
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func moment(second int64) odometer.Moment {
	return odometer.Moment{Boot: second * odometer.SecondMicros, Wall: (second + 1_700_000_000) * odometer.SecondMicros}
}

// running is a machine in the run of a process that began at a second.
func running(id string, pid int, second int64) odometer.VM {
	return odometer.VM{Instance: odometer.InstanceID(id), Name: id, Source: "qemu", State: odometer.Running, PID: pid,
		Run: RunName("boot", pid, uint64(second*100)), Began: second * odometer.SecondMicros, VCPUs: 2, Memory: 1 << 30,
		Disks: []odometer.Disk{{Name: "vda", Kind: odometer.DiskFile, Path: "/a", Provisioned: 10 << 30}},
		NICs:  []odometer.NIC{{Name: "net0", Kind: odometer.NICTap, Link: "tap0", MAC: "52:54:00:00:00:01"}},
		GPUs:  []odometer.GPUDevice{{Name: "gpu0", Kind: odometer.GPUWhole, Address: "0000:01:00.0"}}}
}

// with changes a copy of a machine.
func with(v odometer.VM, change func(*odometer.VM)) odometer.VM {
	change(&v)
	return v
}

func stopped(v *odometer.VM) { v.State, v.Run, v.PID, v.Began = odometer.Stopped, "", 0, 0 }
func paused(v *odometer.VM)  { v.State = odometer.Paused }

// TestDifference looks at second 100, before that at second 80, and first at
// second 50.
func TestDifference(t *testing.T) {
	a := running("a", 7, 60)
	type vms = []odometer.VM
	for _, c := range []struct {
		name          string
		before, after vms
		fresh         bool
		want          string
	}{
		{name: "nothing happened", before: vms{a}, after: vms{a}},
		{name: "a run began", after: vms{a}, want: "a started at 60"},
		{name: "it ran before the first look", after: vms{running("a", 7, 40)}, want: "a found at 100"},
		{name: "it was paused before the first look", after: vms{with(running("a", 7, 40), paused)}, want: "a found at 100 paused"},
		{name: "nobody knows when it began, at the first look", after: vms{running("a", 7, 0)}, fresh: true, want: "a found at 100"},
		{name: "nobody knows when it began, later", after: vms{running("a", 7, 0)}, want: "a started at 100"},
		{name: "it began paused", after: vms{with(a, paused)}, want: "a started at 60\na paused at 100"},
		{name: "a run ended and nothing is known of it", before: vms{a}, want: "a stopped at 100"},
		{name: "a run ended and the machine is known", before: vms{a}, after: vms{with(a, stopped)}, want: "a stopped at 100"},
		{name: "a paused run ended", before: vms{with(a, paused)}, after: vms{with(a, stopped)}, want: "a stopped at 100"},
		{name: "a machine is defined", after: vms{with(a, stopped)}, want: "a defined at 100"},
		{name: "a machine is deleted", before: vms{with(a, stopped)}, want: "a deleted at 100"},
		{name: "a stopped machine starts", before: vms{with(a, stopped)}, after: vms{a}, want: "a started at 60"},
		{name: "a machine was started anew between two looks", before: vms{running("a", 7, 55)}, after: vms{running("a", 8, 90)}, want: "a stopped at 90\na started at 90"},
		{name: "its process was found", before: vms{with(a, func(v *odometer.VM) { v.PID, v.Run = 0, "boot/domain/1" })}, after: vms{a}},
		{name: "paused", before: vms{a}, after: vms{with(a, paused)}, want: "a paused at 100"},
		{name: "resumed", before: vms{with(a, paused)}, after: vms{a}, want: "a resumed at 100"},
		{name: "resized", before: vms{a}, after: vms{with(a, func(v *odometer.VM) { v.VCPUs, v.Memory = 4, 3<<29 })},
			want: "a resized at 100 2 to 4 vCPUs, 1 GiB to 1536 MiB of memory"},
		{name: "a size becomes known, and unknown again", before: vms{with(a, func(v *odometer.VM) { v.VCPUs = unknown })}, after: vms{with(a, func(v *odometer.VM) { v.Memory = unknown })}},
		{name: "a disk grows", before: vms{a}, after: vms{with(a, func(v *odometer.VM) {
			v.Disks = []odometer.Disk{{Name: "vda", Kind: odometer.DiskFile, Path: "/a", Provisioned: 20<<30 + 1}}
		})}, want: "a resized at 100 vda 10 GiB to 21474836481 bytes"},
		{name: "a snapshot lies on top of a disk", before: vms{a}, after: vms{with(a, func(v *odometer.VM) {
			v.Disks = []odometer.Disk{{Name: "vda", Kind: odometer.DiskFile, Path: "/b", Provisioned: 10 << 30, Backing: []string{"/a"}}}
		})}},
		{name: "devices come", before: vms{with(a, func(v *odometer.VM) { v.Disks, v.NICs, v.GPUs = nil, nil, nil })}, after: vms{a},
			want: "a device_added at 100 vda file, 10 GiB\na device_added at 100 net0 tap tap0\na device_added at 100 gpu0 passthrough 0000:01:00.0"},
		{name: "devices go", before: vms{a}, after: vms{with(a, func(v *odometer.VM) { v.Disks, v.NICs, v.GPUs = nil, nil, nil })},
			want: "a device_removed at 100 vda file, 10 GiB\na device_removed at 100 net0 tap tap0\na device_removed at 100 gpu0 passthrough 0000:01:00.0"},
		{name: "a disk is replaced under its name", before: vms{a}, after: vms{with(a, func(v *odometer.VM) {
			v.Disks = []odometer.Disk{{Name: "vda", Kind: odometer.DiskBlock, Path: "/dev/b", Provisioned: odometer.Unknown}}
		})}, want: "a device_removed at 100 vda file, 10 GiB\na device_added at 100 vda block"},
		{name: "what an interface is becomes known", before: vms{with(a, func(v *odometer.VM) { v.NICs = []odometer.NIC{{Name: "net0", Kind: odometer.NICTap}} })}, after: vms{a}},
		{name: "a function is another one", before: vms{with(a, func(v *odometer.VM) {
			v.NICs = []odometer.NIC{{Name: "net0", Kind: odometer.NICDirect, Address: "0000:3b:02.5"}}
		})}, after: vms{with(a, func(v *odometer.VM) {
			v.NICs = []odometer.NIC{{Name: "net0", Kind: odometer.NICDirect, Address: "0000:3b:02.6"}}
		})}, want: "a device_removed at 100 net0 direct 0000:3b:02.5\na device_added at 100 net0 direct 0000:3b:02.6"},
		{name: "an interface is another one", before: vms{a}, after: vms{with(a, func(v *odometer.VM) { v.NICs = []odometer.NIC{{Name: "net0", Kind: odometer.NICTap, Link: "tap9"}} })},
			want: "a device_removed at 100 net0 tap tap0\na device_added at 100 net0 tap tap9"},
		{name: "another source knows it better, and calls its disk otherwise", before: vms{a}, after: vms{with(a, func(v *odometer.VM) { v.Source, v.Disks = "libvirt", []odometer.Disk{{Name: "drive0"}} })}},
		{name: "it takes over an identity", before: vms{running("a", 7, 60), running("a~9", 9, 61)}, after: vms{with(running("a~9", 9, 61), func(v *odometer.VM) { v.Instance = "a" })},
			want: "a stopped at 100\na found at 100 known as a~9 before\na~9 deleted at 100 goes on as a"},
		{name: "it gets an identity", before: vms{running("b", 9, 61)}, after: vms{with(running("b", 9, 61), func(v *odometer.VM) { v.Instance = "a" })},
			want: "a found at 100 known as b before\nb deleted at 100 goes on as a"},
		{name: "several at once", before: vms{running("a", 1, 51), running("c", 3, 53)}, after: vms{running("b", 2, 52), running("c", 3, 53)},
			want: "a stopped at 100\nb started at 52"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := difference(c.before, c.after, moment(100), moment(80).Boot, moment(50).Boot, func(string) bool { return c.fresh })
			if text := changesText(got); text != c.want {
				t.Errorf("got\n%s\nwant\n%s", text, c.want)
			}
			for _, g := range got {
				if g.At.Wall-g.At.Boot != moment(0).Wall {
					t.Errorf("%s %s: its two clocks tell different moments", g.Instance, g.Kind)
				}
			}
		})
	}
}

func TestMerge(t *testing.T) {
	libvirt := func(v odometer.VM) odometer.VM {
		return with(v, func(v *odometer.VM) { v.Source, v.Name = "libvirt", "known" })
	}
	type lists = []listed
	type vms = []odometer.VM
	one := func(at int64, v ...odometer.VM) listed { return listed{vms: v, at: at, answering: true} }
	a := running("a", 7, 60)
	for _, c := range []struct {
		name  string
		lists lists
		gone  map[int]int64
		want  string // identity, source, state, PID
	}{
		{"one identity and one process", lists{one(1, libvirt(a)), one(2, a)}, nil, "a libvirt running 7"},
		{"one process under two identities", lists{one(1, libvirt(running("uuid", 7, 60))), one(2, a)}, nil, "uuid libvirt running 7"},
		{"the first does not know the process", lists{one(1, with(libvirt(a), func(v *odometer.VM) { v.PID, v.Run = 0, "boot/domain/1" })), one(2, a)}, nil, "a libvirt running 7"},
		{"it was started since the first looked", lists{one(1, with(libvirt(a), stopped)), one(2, a)}, nil, "a libvirt running 7"},
		{"it is paused, which only the first knows", lists{one(1, with(libvirt(a), paused)), one(2, a)}, nil, "a libvirt paused 7"},
		{"two processes claim one identity", lists{one(1, libvirt(a)), one(2, running("a", 9, 70))}, nil, "a libvirt running 7, a qemu running 9"},
		{"its process left the later list: the earlier is waited for", lists{one(1, libvirt(a)), one(3)}, map[int]int64{7: 2}, "a libvirt running 7"},
		{"… and overruled where it does not come", lists{{vms: vms{libvirt(a)}, at: 1}, one(3)}, map[int]int64{7: 2}, "a libvirt stopped 0"},
		{"… and where it comes and has it still", lists{one(4, libvirt(a)), one(3)}, map[int]int64{7: 2}, "a libvirt stopped 0"},
		{"… and another process has taken its place", lists{one(1, libvirt(a)), one(3, running("a", 9, 70))}, map[int]int64{7: 2}, "a libvirt running 9"},
		{"a process that takes long to end still runs", lists{one(3, with(libvirt(a), stopped)), one(4, a)}, nil, "a libvirt running 7"},
		{"the older list has the run before", lists{one(3, libvirt(running("a", 9, 70))), one(1, a)}, map[int]int64{7: 3}, "a libvirt running 9"},
		{"machines of one source are not joined", lists{one(1, a, with(a, func(v *odometer.VM) { v.PID = 8 }))}, nil, "a qemu running 7, a qemu running 8"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			for _, v := range merge(c.lists, c.gone) {
				got = append(got, fmt.Sprintf("%s %s %s %d", v.Instance, v.Source, v.State, v.PID))
			}
			if text := strings.Join(got, ", "); text != c.want {
				t.Errorf("got %s, want %s", text, c.want)
			}
		})
	}
	t.Run("what only another knows is added", func(t *testing.T) {
		static := odometer.VM{Instance: "a", Source: "static", State: odometer.Running, Owner: odometer.Owner{User: "u"}, VCPUs: unknown, Memory: unknown,
			Attributes: map[string]string{"tier": "gold", "both": "mine"}}
		other := with(a, func(v *odometer.VM) {
			v.Control, v.Attributes = "/q.sock", map[string]string{"both": "theirs", "id": "7"}
		})
		got := merge(lists{one(1, static), one(1, other)}, nil)
		want := with(other, func(v *odometer.VM) {
			v.Source, v.Name, v.Owner = "static", "", static.Owner
			v.Attributes = map[string]string{"tier": "gold", "both": "mine", "id": "7"}
		})
		if len(got) != 1 || !equalVM(&got[0], &want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
}
