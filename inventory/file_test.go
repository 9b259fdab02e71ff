package inventory

import (
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"example.org/odometer"
)

// documented is the example in the package's documentation.
func documented(t testing.TB) string {
	t.Helper()
	b, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	_, text, ok := strings.Cut(string(b), "//\tvms:\n")
	text, _, end := strings.Cut(text, "//\n")
	if !ok || !end {
		t.Fatal("doc.go has no example")
	}
	return "vms:\n" + strings.ReplaceAll(text, "//\t", "")
}

func (h *hostTree) file(content string) *File {
	h.t.Helper()
	h.write("etc/vms.yaml", content)
	f, err := OpenFile(FileOptions{Path: h.path("etc/vms.yaml"), Root: h.root, Agent: "host-1"})
	h.check(err)
	f.wait = time.Minute // this machine may be busy
	return f
}

func (f *File) said(h *hostTree) []string {
	var list []string
	for _, p := range f.Problems() {
		list = append(list, strings.ReplaceAll(p, h.root, "$ROOT"))
	}
	return list
}

func TestTheDocumentedFile(t *testing.T) {
	h := emptyHost(t)
	h.image([]string{"qcow2", "var/lib/vmm/web.qcow2", "12345", "/base", "raw"})
	h.image([]string{"raw", "base", "99"})
	h.write("run/vmm/web.pid", "4711\n")
	h.process(4711, 1, 300, "/opt/vmm")
	h.write("sys/fs/cgroup/vmm/cache/cgroup.procs", "")
	h.write("sys/fs/cgroup/vmm/cache/vcpu0/cgroup.procs", "51\n50\n")
	h.process(50, 1, 400, "/opt/vmm")
	h.process(51, 1, 401, "/opt/helper")
	f := h.file(documented(t))
	want := []odometer.VM{
		{
			Instance: "5d0c7b0e-9e0f-4b66-8d2b-3c6a0a1f2e01", Name: "web", Source: "static", State: odometer.Running,
			Owner: odometer.Owner{User: "u-ada", Org: "o-acme"}, Attributes: map[string]string{"rack": "r12", "ticket": "4711"},
			Run: "0f/4711/300", PID: 4711, Began: 3 * odometer.SecondMicros, Control: "/run/vmm/web.sock", VCPUs: 4, Memory: 8 << 30,
			Disks: []odometer.Disk{
				{Name: "vda", Kind: odometer.DiskFile, Path: "/var/lib/vmm/web.qcow2", Format: "qcow2", Provisioned: 12345, Backing: []string{"/base"}},
				{Name: "vdb", Kind: odometer.DiskNetwork, Path: "rbd:vms/web", Provisioned: 100 << 30},
				{Name: "vdc", Kind: odometer.DiskBlock, Path: "/dev/vg0/web", Format: "raw", Provisioned: unknown, ReadOnly: true},
			},
			NICs: []odometer.NIC{{Name: "net0", Kind: odometer.NICTap, Link: "tap7", MAC: "52:54:00:12:34:56"}, {Name: "net1", Kind: odometer.NICVhost},
				{Name: "net2", Kind: odometer.NICDirect, Address: "0000:3b:02.6"}},
			GPUs: []odometer.GPUDevice{{Name: "gpu0", Kind: odometer.GPUWhole, Address: "0000:65:00.0"}},
		},
		{
			Instance: "host-1:cache", Name: "cache", Source: "static", State: odometer.Running, Run: "0f/50/400", PID: 50,
			Began: 4 * odometer.SecondMicros, VCPUs: unknown, Memory: unknown,
		},
	}
	if got := list(t, f); !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
	problems := []string{"5d0c7b0e-9e0f-4b66-8d2b-3c6a0a1f2e01: disk vdc: look at /dev/vg0/web: no such file or directory"}
	if got := f.said(h); !slices.Equal(got, problems) {
		t.Errorf("got %q, want %q", got, problems)
	}
}

func TestStaticFileRefuses(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"nothing", "", "read f: EOF"},
		{"no YAML", "vms: [", "read f: yaml: line 1: did not find expected node content"},
		{"two documents", "vms: []\n---\nvms: []\n", "read f:2: there is more than one document"},
		{"no machines", "{}", `f:1: the file has no member "vms"`},
		{"a list", "- name: a", "f:1: the file is not a mapping"},
		{"a machine that is a word", "vms: [web]", "f:1: vms[0] is not a mapping"},
		{"machines that are no list", "vms: {name: a}", "f:1: vms is not a list"},
		{"an unknown member of the file", "vm: []", `f:1: the file has the unknown member "vm"; it may have vms`},
		{"an unknown member of a machine", "vms:\n- name: a\n  memroy: 1\n", `f:3: vms[0] has the unknown member "memroy"; it may have attributes, cgroup, control, disks, gpus, id, memory, name, nics, owner, pid, pid_file, vcpus`},
		{"an unknown member of a disk", "vms:\n- name: a\n  disks:\n  - {name: d, path: /d, sise: 1}\n", `f:4: vms[0].disks[0] has the unknown member "sise"; it may have format, kind, name, path, read_only, size`},
		{"a member twice", "vms:\n- name: a\n  name: b\n", `f:3: vms[0] has the member "name" twice`},
		{"nobody", "vms:\n- vcpus: 1\n", "f:2: vms[0] has neither an id nor a name"},
		{"an id that is none", "vms:\n- id: a b\n", "f:2: vms[0].id \"a b\" has the character ' ', which is not allowed: invalid"},
		{"numbers that are none", "vms:\n- {name: a, vcpus: 0, memory: 4G, pid: -1}\n", "f:2: vms[0].vcpus is not a number from 1 to 1048576\n" +
			"f:2: vms[0].memory is not a size such as 8589934592 or \"8 GiB\"\nf:2: vms[0].pid is not a number from 1 to 2147483647"},
		{"a size beyond all numbers", "vms:\n- {name: a, memory: 9999999 PiB}\n", "f:2: vms[0].memory is not a size such as 8589934592 or \"8 GiB\""},
		{"several ways to its process", "vms:\n- {name: a, pid: 1, cgroup: /c}\n", "f:2: vms[0] has more than one of pid, pid_file and cgroup"},
		{"a path that is relative", "vms:\n- {name: a, pid_file: a.pid}\n", `f:2: vms[0].pid_file is "a.pid", which is not an absolute path`},
		{"an owner without a user", "vms:\n- name: a\n  owner: {org: o}\n", "f:3: vms[0].owner names no user"},
		{"an alias", "vms:\n- &a {name: a}\n- *a\n", "f:3: vms[1] is not a mapping"},
		{"one identity twice, once in capitals", "vms:\n- {id: AAAAAAAA-0000-4000-8000-00000000000C}\n- {id: aaaaaaaa-0000-4000-8000-00000000000c}\n",
			"f:3: vms[1] has the identity aaaaaaaa-0000-4000-8000-00000000000c, which vms[0] has"},
		{"one process twice", "vms:\n- {name: a, pid: 7}\n- {name: b, pid: 7}\n", "f:3: vms[1] has the pid 7, which vms[0] has"},
		{"a disk of two machines", "vms:\n- {name: a, disks: [{name: d, path: /d}]}\n- {name: b, disks: [{name: d, path: /x/../d}]}\n", "f:3: vms[1].disks[0] has the disk /d, which vms[0].disks[0] has"},
		{"an interface of two machines", "vms:\n- {name: a, nics: [{name: n, link: t}]}\n- {name: b, nics: [{name: n, link: t}]}\n", "f:3: vms[1].nics[0] has the link t, which vms[0].nics[0] has"},
		{"a function of two machines", "vms:\n- {name: a, nics: [{name: n, kind: direct, address: '0000:01:00.1'}]}\n- {name: b, nics: [{name: n, kind: direct, address: '0000:01:00.1'}]}\n",
			"f:3: vms[1].nics[0] has the interface 0000:01:00.1, which vms[0].nics[0] has"},
		{"interfaces that have no address", "vms:\n- {name: a, nics: [{name: n, kind: direct, address: eth0}, {name: o, link: t, address: '0000:01:00.1'}]}\n",
			"f:2: vms[0].nics[0] has the address eth0; only kind direct has one, of PCI (0000:3b:02.6)\n" +
				"f:2: vms[0].nics[1] has the address 0000:01:00.1; only kind direct has one, of PCI (0000:3b:02.6)"},
		{"a GPU of two machines", "vms:\n- {name: a, gpus: [{name: n, address: '0000:01:00.0'}]}\n- {name: b, gpus: [{name: n, address: '0000:01:00.0'}]}\n",
			"f:3: vms[1].gpus[0] has the GPU 0000:01:00.0, which vms[0].gpus[0] has"},
		{"two disks of one name", "vms:\n- {name: a, disks: [{name: d, path: /d}, {name: d, path: /e}]}\n", "f:2: vms[0] has the disk d twice"},
		{"disks that contradict themselves", "vms:\n- {name: a, disks: [{name: d}, {name: e, path: /e, kind: network}, {name: f, path: 'rbd:p/i', kind: file}, {name: g, path: g.img}, {name: h, path: /h, kind: tape, read_only: 1}]}\n",
			"f:2: vms[0].disks[0] needs a name and a path\nf:2: vms[0].disks[1] is of kind network and has the path /e of this host\nf:2: vms[0].disks[2] is of kind file and lies elsewhere: rbd:p/i\n" +
				"f:2: vms[0].disks[3] has the path \"g.img\", which is neither absolute nor elsewhere\nf:2: vms[0].disks[4].kind is \"tape\"; it may be file, block, network\nf:2: vms[0].disks[4].read_only is neither true nor false"},
		{"interfaces that contradict themselves", "vms:\n- {name: a, nics: [{name: n}, {name: o, kind: user, link: t}, {link: u}, {name: p, link: sixteen-letters-}]}\n",
			"f:2: vms[0].nics[0] is of kind tap and names no link\nf:2: vms[0].nics[1] is of kind user, which has no link\nf:2: vms[0].nics[2] needs a name\n" +
				"f:2: vms[0].nics[3] has the link sixteen-letters-; no interface has a name of more than 15 bytes"},
		{"a GPU nowhere", "vms:\n- {name: a, gpus: [{name: g, address: first}]}\n", "f:2: vms[0].gpus[0] needs a name and an address, of PCI (0000:65:00.0) or a UUID"},
		{"attributes that are lists", "vms:\n- {name: a, attributes: {x: [1], y: 1, y: 2}}\n", "f:2: vms[0].attributes.x is not a text\nf:2: vms[0].attributes has the member \"y\" twice"},
		{"nothing for a text", "vms:\n- {name: , id: ~}\n", "f:2: vms[0].name is not a text\nf:2: vms[0].id is not a text\nf:2: vms[0] has neither an id nor a name"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := parseStatic([]byte(c.text), "f", "host-1")
			if got := fmt.Sprint(err); got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
		})
	}
}

func TestStaticFileTakes(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       []string
	}{
		{"no machines, if it says so", "vms: []", nil},
		{"JSON, with tabs", "{\n\t\"vms\": [\n\t\t{\"name\": \"a\",\t\"vcpus\": 2}\n\t]\n}\n", []string{"host-1:a"}},
		{"numbers for names", "vms:\n- {name: 101}\n- {id: 102}\n", []string{"host-1:101", "102"}},
		{"one image read by two machines", "vms:\n- {name: a, disks: [{name: d, path: /d, read_only: true}]}\n- {name: b, disks: [{name: d, path: /d, read_only: true}]}\n", []string{"host-1:a", "host-1:b"}},
		{"a MIG slice", "vms:\n- {name: a, gpus: [{name: g, kind: mig, address: MIG-aaaaaaaa-0000-4000-8000-00000000000c}]}\n", []string{"host-1:a"}},
	} {
		list, err := parseStatic([]byte(c.text), "f", "host-1")
		got := each(list, func(s *static) string { return string(s.instance) })
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: got %q, %v, want %q", c.name, got, err, c.want)
		}
	}
}

func TestTheFileIsChanged(t *testing.T) {
	h := emptyHost(t)
	f := h.file("vms: [{name: a}]")
	step := func(what, want string, problems ...string) {
		t.Helper()
		var got []string
		for _, v := range list(t, f) {
			got = append(got, string(v.Instance))
		}
		if s := strings.Join(got, ", "); s != want {
			t.Errorf("%s: got %s, want %s", what, s, want)
		}
		if got := f.said(h); !slices.Equal(got, problems) {
			t.Errorf("%s: got %q, want %q", what, got, problems)
		}
	}
	step("as it was opened", "host-1:a")
	h.write("etc/vms.yaml", "vms: [{name: a}, {name: b}]")
	step("with one more", "host-1:a, host-1:b")
	h.write("etc/vms.yaml", "vms: [{name: a}, {nam: b}, {pid: x}]")
	wrong := []string{
		`the file as it was before is listed: $ROOT/etc/vms.yaml:1: vms[1] has the unknown member "nam"; it may have attributes, cgroup, control, disks, gpus, id, memory, name, nics, owner, pid, pid_file, vcpus`,
		"the file as it was before is listed: $ROOT/etc/vms.yaml:1: vms[1] has neither an id nor a name",
		"the file as it was before is listed: $ROOT/etc/vms.yaml:1: vms[2].pid is not a number from 1 to 2147483647",
		"the file as it was before is listed: $ROOT/etc/vms.yaml:1: vms[2] has neither an id nor a name",
	}
	step("with errors", "host-1:a, host-1:b", wrong...)
	step("with the same errors", "host-1:a, host-1:b", wrong...)
	h.check(os.Remove(h.path("etc/vms.yaml")))
	step("when it is gone", "host-1:a, host-1:b", "the file as it was before is listed: open the list of machines: open $ROOT/etc/vms.yaml: no such file or directory")
	h.write("etc/vms.yaml", "vms: []")
	step("when all are gone", "")
	if _, err := OpenFile(FileOptions{Path: h.path("etc/none"), Root: h.root}); err == nil {
		t.Error("a file that is not there is opened")
	}
}

func TestTheProcessesOfAFile(t *testing.T) {
	h := emptyHost(t)
	h.process(7, 1, 100, "vmm")
	h.process(8, 1, 100, "vmm")
	h.write("run/b.pid", "8")
	h.write("run/bad.pid", "me")
	f := h.file("vms:\n- {name: a, pid: 7}\n- {name: b, pid_file: /run/b.pid}\n- {name: c, pid_file: /run/none}\n- {name: d, cgroup: /sys/fs/cgroup/d}\n- {name: e, pid_file: /run/bad.pid}\n- {name: f}\n")
	step := func(what, want string) {
		t.Helper()
		var got []string
		for _, v := range list(t, f) {
			got = append(got, fmt.Sprintf("%s %s %d", v.Name, v.State, v.PID))
		}
		if s := strings.Join(got, ", "); s != want {
			t.Errorf("%s: got %s, want %s", what, s, want)
		}
	}
	step("at first", "a running 7, b running 8, c stopped 0, d stopped 0, e running 0, f running 0")
	if want := []string{"host-1:e: which process it is is not known: /run/bad.pid has no process id"}; !slices.Equal(f.Problems(), want) {
		t.Errorf("got %q, want %q", f.Problems(), want)
	}
	h.process(7, 1, 200, "other")
	h.process(8, 1, 200, "other")
	h.write("sys/fs/cgroup/d/cgroup.procs", "9\n8\n10\n")
	h.process(9, 1, 150, "vmm")
	step("other processes have their numbers", "a stopped 0, b stopped 0, c stopped 0, d running 9, e running 0, f running 0")
	h.process(11, 1, 300, "vmm")
	h.write("run/b.pid.new", "11\n")
	h.check(os.Rename(h.path("run/b.pid.new"), h.path("run/b.pid")))
	h.kill(9)
	step("one is started anew", "a stopped 0, b running 11, c stopped 0, d running 8, e running 0, f running 0")
}

func TestTheFileAndTheDiskDisagree(t *testing.T) {
	h := emptyHost(t)
	h.image([]string{"raw", "a.img", "4096"})
	f := h.file("vms:\n- {name: a, disks: [{name: d, path: /a.img, format: raw, kind: block, size: 8192}, {name: e, path: /none, size: 5}]}\n")
	d := list(t, f)[0].Disks
	if d[0].Provisioned != 4096 || d[0].Kind != odometer.DiskFile || d[1].Provisioned != 5 {
		t.Errorf("got %+v, want what is there", d)
	}
	want := []string{"host-1:a: disk d: it has 4096 bytes and not 8192", "host-1:a: disk d: it is of kind file and not block"}
	if got := f.Problems(); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// FuzzStaticFile reads any file. What it takes has identities and nothing
// impossible, and errors name the file.
func FuzzStaticFile(f *testing.F) {
	f.Add(documented(f))
	f.Add(`{"vms":[{"id":"x","disks":[{"name":"d","path":"/d","size":"1 GiB"}]}]}`)
	f.Add("vms:\n- &a {name: b}\n- *a\n- {<<: *a}\n")
	f.Fuzz(func(t *testing.T, s string) {
		list, err := parseStatic([]byte(s), "file.yaml", "host-1")
		if err != nil {
			if !strings.Contains(err.Error(), "file.yaml") {
				t.Errorf("got %v, which names no file", err)
			}
			return
		}
		for _, m := range list {
			if err := odometer.ValidID("instance", string(m.instance)); err != nil {
				t.Error(err)
			}
			if m.memory < unknown || m.vcpus < unknown {
				t.Errorf("got %+v", m)
			}
			for _, d := range m.disks {
				if d.Provisioned < unknown || d.Name == "" || d.Path == "" {
					t.Errorf("got %+v", d)
				}
			}
		}
	})
}
