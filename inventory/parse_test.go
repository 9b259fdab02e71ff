package inventory

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"example.org/odometer"
)

const unknown = odometer.Unknown

func TestParseOptions(t *testing.T) {
	for _, c := range []struct {
		name, text, implied string
		want                options
	}{
		{"members in order", "a=1,b=2,a=3", "", options{{"a", "1"}, {"b", "2"}, {"a", "3"}}},
		{"the first is the implied one", "tap,id=n0", "type", options{{"type", "tap"}, {"id", "n0"}}},
		{"the implied one may be named", "type=tap,id=n0", "type", options{{"type", "tap"}, {"id", "n0"}}},
		{"a comma in a value is doubled", "guest=a,,b,debug-threads=on", "guest", options{{"guest", "a,b"}, {"debug-threads", "on"}}},
		{"… also at its end", "file=x,,", "", options{{"file", "x,"}}},
		{"… and three are one and an end", "file=x,,,y=1", "", options{{"file", "x,"}, {"y", "1"}}},
		{"switches", "socket,server,nowait", "backend", options{{"backend", "socket"}, {"server", "on"}, {"wait", "off"}}},
		{"an equals sign in a value", "file=a=b", "", options{{"file", "a=b"}}},
		{"nothing", "", "", nil},
		{"JSON", `{"driver":"qcow2","file":{"driver":"file","filename":"a,b"},"n":2147483648,"read-only":true,"x":null,"l":[1,{"y":"z"}]}`, "driver", options{
			{"driver", "qcow2"}, {"file.driver", "file"}, {"file.filename", "a,b"}, {"l.0", "1"}, {"l.1.y", "z"}, {"n", "2147483648"}, {"read-only", "on"}, {"x", ""}}},
	} {
		got, err := parseOptions(c.text, c.implied)
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: got %q, %v, want %q", c.name, got, err, c.want)
		}
	}
	if _, err := parseOptions("{oops", ""); err == nil {
		t.Error("broken JSON is taken")
	}
	if got, err := parseOptions(strings.Repeat(`{"a":`, 5000)+"1"+strings.Repeat("}", 5000), ""); err == nil && len(got) > 0 {
		t.Errorf("JSON without end is taken: %q", got)
	}
}

func TestParseSize(t *testing.T) {
	for _, c := range []struct {
		text string
		unit int64
		want int64
		ok   bool
	}{
		{"2048", 1 << 20, 2048 << 20, true}, {"2G", 1 << 20, 2 << 30, true}, {"2g", 1, 2 << 30, true}, {"2097152k", 1 << 20, 2 << 30, true},
		{"1.5G", 1 << 20, 3 << 29, true}, {"0x400", 1, 1024, true}, {"17b", 1 << 20, 17, true}, {"3T", 1, 3 << 40, true}, {"0", 1, 0, true},
		{"", 1, 0, false}, {"G", 1, 0, false}, {"-1", 1, 0, false}, {"1..5G", 1, 0, false}, {"1e3", 1, 0, false}, {"9223372036854775808", 1, 0, false},
		{"9999999999G", 1, 0, false}, {"99999999.5E", 1, 0, false}, {".5G", 1, 0, false}, {"1_000", 1, 0, false}, {"0xfffffffffffffffff", 1, 0, false}, {"inf", 1, 0, false},
	} {
		got, ok := parseSize(c.text, c.unit)
		if ok != c.ok || ok && got != c.want {
			t.Errorf("%q: got %d, %v, want %d, %v", c.text, got, ok, c.want, c.ok)
		}
	}
}

func TestSMP(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       int64
		ok         bool
	}{
		{"nothing", "", 1, true}, {"a number", "4", 4, true}, {"what is there, not what may come", "2,maxcpus=8", 2, true},
		{"a topology alone", "sockets=2,cores=4,threads=2", 16, true}, {"every level", "drawers=2,books=2,sockets=1,dies=2,clusters=1,modules=2,cores=1,threads=1", 16, true},
		{"only the most", "maxcpus=6,cores=3", 6, true}, {"cpus with a topology", "cpus=1,sockets=4,cores=1", 1, true},
		{"0 is as if nothing were told", "0,cores=2", 2, true}, {"nonsense", "many", 0, false}, {"less than none", "-1", 0, false},
		{"more than there are", "sockets=1048575,cores=1048575,threads=1048575", 0, false},
	} {
		o, err := parseOptions(c.text, "cpus")
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := smpCPUs(o); got != c.want || ok != c.ok {
			t.Errorf("%s: got %d, %v, want %d, %v", c.name, got, ok, c.want, c.ok)
		}
	}
}

// TestQEMU spells out what each form of an option means.
func TestQEMU(t *testing.T) {
	type disks = []odometer.Disk
	disk := func(name, path, format string, size int64) odometer.Disk {
		return odometer.Disk{Name: name, Kind: odometer.DiskUnknown, Path: path, Format: format, Provisioned: size}
	}
	network := func(name, path, format string) odometer.Disk {
		return odometer.Disk{Name: name, Kind: odometer.DiskNetwork, Path: path, Format: format, Provisioned: unknown}
	}
	for _, c := range []struct {
		name string
		args []string
		want guest // source, fds and what is empty left out
		nics []odometer.NIC
		dd   disks
	}{
		{name: "what QEMU takes by itself", want: guest{vcpus: 1, memory: 128 << 20}},
		{name: "what a machine of which that is not known takes", args: []string{"-M", "raspi3b"}, want: guest{vcpus: unknown, memory: unknown, problems: []string{
			`memory: no -m, and what machine "raspi3b" has then is not known`, `vCPUs: no -smp, and what machine "raspi3b" has then is not known`}}},
		{name: "memory in MiB", args: []string{"-m", "2048"}, want: guest{vcpus: 1, memory: 2 << 30}},
		{name: "memory with a suffix, an option with two hyphens", args: []string{"--m", "2G", "--smp", "3"}, want: guest{vcpus: 3, memory: 2 << 30}},
		{name: "memory that may be plugged in is not there", args: []string{"-m", "size=1G,slots=4,maxmem=8G"}, want: guest{vcpus: 1, memory: 1 << 30}},
		{name: "a DIMM is there", args: []string{"-m", "1G,slots=4,maxmem=8G", "-object", "memory-backend-ram,id=m1,size=2G", "-device", "pc-dimm,memdev=m1"},
			want: guest{vcpus: 1, memory: 3 << 30}},
		{name: "a processor that was plugged in is there", args: []string{"-smp", "1,maxcpus=4", "-device", "host-x86_64-cpu,id=vcpu1,socket-id=1,core-id=0,thread-id=0"},
			want: guest{vcpus: 2, memory: 128 << 20}},
		{name: "the last of two counts", args: []string{"-m", "1G", "-m", "2G", "-smp", "1", "-smp", "2"}, want: guest{vcpus: 2, memory: 2 << 30}},
		{name: "a name alone, and one with members", args: []string{"-name", "web", "-name", "process=x,guest=b"}, want: guest{vcpus: 1, memory: 128 << 20, name: "b"}},
		{name: "the UUID of the BIOS is the machine's", args: []string{"-smbios", "type=1,uuid=C7E0A1F4-0000-0000-0000-000000000101"},
			want: guest{vcpus: 1, memory: 128 << 20, uuid: "c7e0a1f4-0000-0000-0000-000000000101"}},
		{name: "a UUID of zeros is nobody's", args: []string{"-uuid", "00000000-0000-0000-0000-000000000000"},
			want: guest{vcpus: 1, memory: 128 << 20, problems: []string{`-uuid "00000000-0000-0000-0000-000000000000" is no UUID that tells machines apart`}}},
		{name: "what the tenant writes is no option", args: []string{"-kernel", "k", "-append", "-uuid", "-initrd", "-m", "-m", "64"}, want: guest{vcpus: 1, memory: 64 << 20}},
		{name: "an option of a newer QEMU does not swallow the next", args: []string{"-brand-new", "-m", "64"}, want: guest{vcpus: 1, memory: 64 << 20}},
		{name: "QMP, old and new", args: []string{"-qmp", "tcp:localhost:4444,server", "-qmp", "unix:/run/a,,b.sock,server,nowait"}, want: guest{vcpus: 1, memory: 128 << 20, socket: "/run/a,b.sock"}},
		{name: "a monitor for people is none for programs", args: []string{"-monitor", "unix:/run/a.sock,server,nowait", "-chardev", "socket,id=c,path=/run/c,server=on", "-mon", "c"},
			want: guest{vcpus: 1, memory: 128 << 20}},
		{name: "a socket that QEMU connects to cannot be connected to", args: []string{"-chardev", "socket,id=c,path=/run/c,reconnect=1", "-mon", "c,mode=control",
			"-chardev", "socket,id=d,path=/run/d,server,nowait", "-mon", "chardev=d,mode=control"}, want: guest{vcpus: 1, memory: 128 << 20, socket: "/run/d"}},

		{name: "disks as they were given twenty years ago", args: []string{"-hda", "/a.img", "-hdc", "/c.img", "/d.img"}, want: guest{vcpus: 1, memory: 128 << 20},
			dd: disks{disk("ide0-hd0", "/a.img", "", unknown), disk("ide1-hd0", "/c.img", "", unknown), disk("ide0-hd0", "/d.img", "", unknown)}},
		{name: "drives that QEMU attaches", args: []string{"-drive", "file=/a,if=virtio,format=raw", "-drive", "file=/b,if=virtio,readonly=on", "-drive", "file=/c,if=scsi", "-drive", "if=sd,file=/s"},
			want: guest{vcpus: 1, memory: 128 << 20}, dd: disks{disk("virtio0", "/a", "raw", unknown), {Name: "virtio1", Kind: odometer.DiskUnknown, Path: "/b", Provisioned: unknown, ReadOnly: true},
				disk("scsi0-hd0", "/c", "", unknown), disk("sd0", "/s", "", unknown)}},
		{name: "a drive that no device refers to is no disk, and one without a medium neither", args: []string{"-drive", "file=/a,if=none,id=x", "-drive", "if=virtio,id=y"}, want: guest{vcpus: 1, memory: 128 << 20}},
		{name: "optical drives, floppies and flash are none", args: []string{"-cdrom", "/x.iso", "-fda", "/f", "-drive", "file=/a,media=cdrom", "-drive", "if=pflash,file=/v", "-drive", "if=none,id=c,file=/c", "-device", "scsi-cd,drive=c"},
			want: guest{vcpus: 1, memory: 128 << 20}},
		{name: "one disk behind two devices is one", args: []string{"-drive", "file=/a,if=none,id=x", "-device", "scsi-hd,drive=x,id=p1,share-rw=on", "-device", "scsi-hd,drive=x,id=p2,share-rw=on"},
			want: guest{vcpus: 1, memory: 128 << 20}, dd: disks{disk("p1", "/a", "", unknown)}},
		{name: "NVMe, a device of a namespace", args: []string{"-drive", "file=/a,if=none,id=x,format=qcow2", "-device", "nvme,serial=1,id=ctl", "-device", "nvme-ns,drive=x"},
			want: guest{vcpus: 1, memory: 128 << 20}, dd: disks{disk("x", "/a", "qcow2", unknown)}},
		{name: "nodes within nodes", args: []string{"-blockdev", "driver=qcow2,node-name=q,file.driver=file,file.filename=/q,,1,backing.driver=raw,backing.file.driver=file,backing.file.filename=/base", "-device", "virtio-blk-pci,drive=q,id=d"},
			want: guest{vcpus: 1, memory: 128 << 20}, dd: disks{{Name: "d", Kind: odometer.DiskUnknown, Path: "/q,1", Format: "qcow2", Provisioned: unknown, Backing: []string{"/base"}}}},
		{name: "a part of a file", args: []string{"-blockdev", `{"driver":"raw","node-name":"r","offset":512,"size":1048576,"file":{"driver":"file","filename":"/r"}}`, "-device", "virtio-blk-pci,drive=r,id=d"},
			want: guest{vcpus: 1, memory: 128 << 20}, dd: disks{disk("d", "/r", "raw", 1<<20)}},
		{name: "filters are passed through", args: []string{"-blockdev", "driver=throttle,node-name=t,file=c,throttle-group=g", "-blockdev", "driver=copy-on-read,node-name=c,file=q", "-blockdev", "driver=qcow2,node-name=q,file=f", "-blockdev", "driver=file,node-name=f,filename=/f", "-device", "virtio-blk-pci,drive=t,id=d"},
			want: guest{vcpus: 1, memory: 128 << 20}, dd: disks{disk("d", "/f", "qcow2", unknown)}},
		{name: "nodes that go round in a circle", args: []string{"-blockdev", "driver=raw,node-name=a,file=b", "-blockdev", "driver=raw,node-name=b,file=a", "-device", "virtio-blk-pci,drive=a,id=d"},
			want: guest{vcpus: 1, memory: 128 << 20, problems: []string{"disk d: what lies behind it is not understood"}}, dd: disks{disk("d", "", "raw", unknown)}},
		{name: "… and twice at each node", args: []string{"-blockdev", "driver=raw,node-name=a,file=a,backing=a", "-device", "virtio-blk-pci,drive=a,id=d"},
			want: guest{vcpus: 1, memory: 128 << 20, problems: []string{"disk d: what lies behind it is not understood"}}, dd: disks{disk("d", "", "raw", unknown)}},
		{name: "disks that lie elsewhere", args: []string{"-drive", "if=virtio,format=raw,file=nbd:10.0.0.1:10809:exportname=x", "-drive", "if=virtio,file.driver=iscsi,file.portal=10.0.0.2:3260,file.target=iqn.x,file.lun=2,driver=raw"},
			want: guest{vcpus: 1, memory: 128 << 20, problems: []string{"disk virtio0: the size of nbd:10.0.0.1:10809:exportname=x is not known on this host", "disk virtio1: the size of iscsi:10.0.0.2:3260/iqn.x/2 is not known on this host"}},
			dd:   disks{network("virtio0", "nbd:10.0.0.1:10809:exportname=x", "raw"), network("virtio1", "iscsi:10.0.0.2:3260/iqn.x/2", "raw")}},
		{name: "vhost-user disks", args: []string{"-device", "vhost-user-blk-pci,chardev=c,id=fast"}, want: guest{vcpus: 1, memory: 128 << 20, problems: []string{"disk fast: what lies behind vhost-user-blk-pci is not known"}},
			dd: disks{disk("fast", "", "", unknown)}},

		{name: "interfaces of all kinds", args: []string{"-netdev", "tap,id=a,ifname=tapa", "-device", "virtio-net-pci,netdev=a,mac=52:54:00:00:00:0A", "-netdev", "user,id=b", "-device", "e1000,netdev=b,id=eth1",
			"-netdev", "vhost-user,id=c,chardev=x", "-device", "virtio-net-pci,netdev=c", "-nic", "bridge,br=br0,mac=52:54:00:00:00:0b", "-nic", "none", "-netdev", "user,id=unused"},
			want: guest{vcpus: 1, memory: 128 << 20}, nics: []odometer.NIC{{Name: "a", Kind: odometer.NICTap, Link: "tapa", MAC: "52:54:00:00:00:0a"}, {Name: "eth1", Kind: odometer.NICUser},
				{Name: "c", Kind: odometer.NICVhost}, {Name: "nic0", Kind: odometer.NICTap, MAC: "52:54:00:00:00:0b"}}},
		{name: "interfaces as they were given ten years ago", args: []string{"-net", "nic,macaddr=52:54:00:00:00:01,model=virtio", "-net", "tap,ifname=t0,script=no"},
			want: guest{vcpus: 1, memory: 128 << 20}, nics: []odometer.NIC{{Name: "net0", Kind: odometer.NICTap, Link: "t0", MAC: "52:54:00:00:00:01"}}},
		{name: "a device whose backend is not there", args: []string{"-device", "e1000,netdev=b,id=eth1"}, want: guest{vcpus: 1, memory: 128 << 20, problems: []string{"interface eth1: there is no -netdev b"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := parseQEMU(append([]string{"qemu-system-x86_64"}, c.args...))
			var dd disks
			for _, d := range g.disks {
				dd = append(dd, d.Disk)
			}
			var nics []odometer.NIC
			for _, n := range g.nics {
				nics = append(nics, n.NIC)
			}
			if !reflect.DeepEqual(dd, c.dd) {
				t.Errorf("disks: got %+v, want %+v", dd, c.dd)
			}
			if !reflect.DeepEqual(nics, c.nics) {
				t.Errorf("interfaces: got %+v, want %+v", nics, c.nics)
			}
			c.want.source = qemu
			g.disks, g.nics, g.monitors = nil, nil, nil // see TestWhichMonitorsAreAsked
			if !reflect.DeepEqual(*g, c.want) {
				t.Errorf("got %+v, want %+v", *g, c.want)
			}
		})
	}
}

func TestRecognise(t *testing.T) {
	for _, c := range []struct {
		name string
		exe  string
		args []string
		want string
	}{
		{"Debian's", "", []string{"/usr/bin/qemu-system-aarch64"}, qemu},
		{"Red Hat's", "", []string{"/usr/libexec/qemu-kvm", "-m", "1"}, qemu},
		{"Proxmox'", "", []string{"/usr/bin/kvm", "-id", "1"}, qemu},
		{"one under another name of itself", "/opt/qemu/bin/qemu-system-x86_64 (deleted)", []string{"web-1"}, qemu},
		{"one whose binary was renamed", "/opt/x", []string{"x", "-accel", "kvm", "-m", "1", "-device", "e1000"}, qemu},
		{"Cloud Hypervisor", "", []string{"cloud-hypervisor-static", "--api-socket", "/x"}, cloudHypervisor},
		{"… renamed", "", []string{"vmm", "--kernel", "k", "--memory", "size=1G", "--cpus", "boot=1"}, cloudHypervisor},
		{"Firecracker", "", []string{"/firecracker", "--id=1"}, firecracker},
		{"… renamed", "", []string{"fc", "--id", "1", "--api-sock", "/x"}, firecracker},
		{"the kernel's thread", "", nil, ""},
		{"a shell that has one in its script", "/bin/sh", []string{"sh", "-c", "qemu-system-x86_64 -machine q35 -m 1 -device e1000"}, ""},
		{"a wrapper that keeps running", "", []string{"timeout", "-k", "9", "60", "qemu-system-x86_64", "-machine", "q35", "-m", "1", "-nic", "tap"}, ""},
		{"a jailer", "", []string{"/usr/bin/jailer", "--id", "1", "--exec-file", "/usr/bin/firecracker"}, ""},
		{"QEMU's other programs", "", []string{"qemu-nbd", "-c", "/dev/nbd0", "x.qcow2"}, ""},
		{"an emulator of single programs", "", []string{"qemu-aarch64-static", "/bin/ls"}, ""},
		{"a question", "", []string{"qemu-system-x86_64", "-version"}, ""},
		{"another question", "", []string{"qemu-system-x86_64", "-machine", "help"}, ""},
		{"a question of libvirt's", "", []string{"/usr/bin/qemu-system-x86_64", "-S", "-machine", "none,accel=kvm:tcg", "-qmp", "unix:/x,server"}, ""},
		{"a program with some options like it", "", []string{"mount", "-m", "x", "-device", "y"}, ""},
	} {
		got := ""
		if g := recognise(c.args, c.exe); g != nil {
			got = g.source
		}
		if got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

func TestParseProcStat(t *testing.T) {
	tail := " 0 -1 4194560 1 0 0 0 7 8 0 0 20 0 4 0 777 1 1\n"
	for _, c := range []struct {
		name, text string
		want       procStat
		ok         bool
	}{
		{"a plain one", "9 (kvm) S 1 8 8" + tail, procStat{state: 'S', parent: 1, session: 8, start: 777}, true},
		{"a name with spaces and parentheses", "9 (a) S 4 (b) 5) R 1 8 8" + tail, procStat{state: 'R', parent: 1, session: 8, start: 777}, true},
		{"a name with a line's end", "9 (a\n) Z 1 8 8" + tail, procStat{state: 'Z', parent: 1, session: 8, start: 777}, true},
		{"one that ends before its start time", "9 (kvm) S 1 8 8 0 -1", procStat{}, false},
		{"one with letters for numbers", "9 (kvm) S one 8 8" + tail, procStat{}, false},
		{"nothing", "", procStat{}, false}, {"no name", "9 kvm S 1", procStat{}, false}, {"no state", "9 (kvm)", procStat{}, false},
	} {
		got, err := parseProcStat([]byte(c.text))
		if got != c.want || (err == nil) != c.ok {
			t.Errorf("%s: got %+v, %v, want %+v", c.name, got, err, c.want)
		}
	}
	b, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		t.Fatal(err)
	}
	got, err := parseProcStat(b)
	if err != nil || got.parent != os.Getppid() || got.start == 0 || got.gone() {
		t.Errorf("this process: got %+v, %v", got, err)
	}
}

func TestParseHeader(t *testing.T) {
	long := strings.Repeat("x", 1024)
	edit := func(b []byte, at int, v uint64, size int) []byte {
		b = slices.Clone(b)
		if size == 8 {
			binary.BigEndian.PutUint64(b[at:], v)
		} else {
			binary.BigEndian.PutUint32(b[at:], uint32(v))
		}
		return b
	}
	plain := qcow2(1<<40, "", "")
	for _, c := range []struct {
		name   string
		b      []byte
		format string
		want   header
		err    string
	}{
		{"an image", plain, "qcow2", header{format: "qcow2", size: 1 << 40}, ""},
		{"its format is found by its magic", plain, "", header{format: "qcow2", size: 1 << 40}, ""},
		{"of version 2", edit(plain[:72], 4, 2, 4), "", header{format: "qcow2", size: 1 << 40}, ""},
		{"laid over another", qcow2(5, "b.img", "raw"), "", header{format: "qcow2", size: 5, backing: backing{"b.img", "raw"}}, ""},
		{"laid over a name that is too long", qcow2(5, long, ""), "", header{format: "qcow2", size: 5}, "outside its header"},
		{"laid over a name beyond the file", edit(qcow2(5, "b", ""), 8, 1<<40, 8), "", header{format: "qcow2", size: 5}, "outside its header"},
		{"with an extension beyond the file", edit(qcow2(5, "b", "raw"), 116, 1<<31, 4), "", header{format: "qcow2", size: 5, backing: backing{"b", ""}}, ""},
		{"with its data elsewhere", edit(plain, 72, 4, 8), "", header{format: "qcow2", size: 1 << 40}, "in another file"},
		{"of a version to come", edit(plain, 4, 4, 4), "", header{size: unknown}, "malformed"},
		{"of version 1", edit(plain, 4, 1, 4), "", header{format: "qcow", size: unknown}, "qcow image"},
		{"larger than a number", edit(plain, 24, 1<<63, 8), "qcow2", header{format: "qcow2", size: unknown}, "malformed"},
		{"cut off", plain[:71], "", header{size: unknown}, "malformed"},
		{"what has no magic is raw", []byte("\xeb\x63\x90"), "", header{format: "raw", size: 99}, ""},
		{"and an empty file", nil, "", header{format: "raw", size: 99}, ""},
		{"what was to be one and is none", []byte("hello"), "qcow2", header{format: "qcow2", size: unknown}, "malformed"},
		{"another format", append(make([]byte, 64), "\x7f\x10\xda\xbe"...), "", header{format: "vdi", size: unknown}, "vdi image"},
	} {
		got, err := parseHeader(c.b, c.format, 99)
		if got != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: got %+v, %v, want %+v, %q", c.name, got, err, c.want, c.err)
		}
	}
}

// TestImagesBelowImages follows chains on disk.
func TestImagesBelowImages(t *testing.T) {
	h := emptyHost(t)
	h.image([]string{"qcow2", "i/top.qcow2", "3000", "mid.qcow2", "qcow2"})
	h.image([]string{"qcow2", "i/mid.qcow2", "2000", "/base.img", "raw"})
	h.image([]string{"raw", "base.img", "1000"})
	h.image([]string{"qcow2", "round.qcow2", "7", "round.qcow2", "qcow2"})
	h.image([]string{"qcow2", "lost.qcow2", "7", "/none", "qcow2"})
	h.image([]string{"qcow2", "far.qcow2", "7", "rbd:pool/image:key=SECRET", "raw"})
	h.image([]string{"qcow2", "odd.qcow2", "7", "json:{}", "raw"})
	h.process(7, 1, 100, line("a", "-hda", "/i/top.qcow2", "-hdb", "round.qcow2", "-hdc", "/lost.qcow2", "-hdd", "/far.qcow2", "-drive", "if=virtio,file=/odd.qcow2")...)
	p := h.open()
	vms, err := p.List(context.Background())
	if err != nil || len(vms) != 1 {
		t.Fatalf("got %+v, %v", vms, err)
	}
	got := map[string]string{}
	for _, d := range vms[0].Disks {
		below := d.Backing
		if len(below) > 3 {
			below = []string{fmt.Sprintf("%d times %s", len(below), below[0])}
		}
		got[d.Name] = fmt.Sprintf("%d %s", d.Provisioned, strings.Join(below, " "))
	}
	want := map[string]string{
		"ide0-hd0": "3000 /i/mid.qcow2 /base.img", "ide0-hd1": "7 64 times /round.qcow2", "ide1-hd0": "7 /none",
		"ide1-hd1": "7 rbd:pool/image", "virtio0": "7 json:",
	}
	if !maps.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	problems := []string{
		"process 7 (a): disk ide0-hd1: /round.qcow2 is laid over more than 64 images",
		"process 7 (a): disk ide1-hd0: the image below it: look at /none: no such file or directory",
	}
	if got := p.Problems(); !slices.Equal(got, problems) {
		t.Errorf("got %q, want %q", got, problems)
	}
}

func TestIdentity(t *testing.T) {
	long := strings.Repeat("é", 100)
	for _, c := range []struct{ name, want string }{
		{"web", "host-1:web"}, {"my web/1", "host-1:my%20web%2F1"}, {"100%", "host-1:100%25"}, {"naïve", "host-1:naïve"}, {"\xff", "host-1:%FF"}, {"\ufffd", "host-1:\ufffd"},
	} {
		if got := Identity("host-1", c.name); string(got) != c.want {
			t.Errorf("%q: got %s, want %s", c.name, got, c.want)
		}
	}
	a, b := Identity("host-1", long), Identity("host-1", long+"x")
	if a == b || len(a) > odometer.MaxIDBytes || odometer.ValidID("instance", string(a)) != nil {
		t.Errorf("long names: got %s and %s", a, b)
	}
}

func TestJail(t *testing.T) {
	host := "21 1 8:1 / / rw - ext4 /dev/sda1 rw\n30 21 8:2 / /srv/my\\040jails rw - ext4 /dev/sda2 rw\n31 21 0:40 /@ /data rw - btrfs x rw\n"
	for _, c := range []struct{ name, process, want string }{
		{"the host's own root", "40 1 8:1 / / rw - ext4 /dev/sda1 rw\n", "/"},
		{"a directory of it", "40 1 8:1 /srv/jailer/x/root / rw - ext4 /dev/sda1 rw\n", "/srv/jailer/x/root"},
		{"a directory of another filesystem", "40 1 8:2 /x/root / rw - ext4 /dev/sda2 rw\n", "/srv/my jails/x/root"},
		{"a subvolume", "40 1 0:40 /@/x / rw - btrfs x rw\n", "/data/x"},
		{"a neighbour of what is mounted", "40 1 0:40 /@x/y / rw - btrfs x rw\n", "/"},
		{"a filesystem that the host has not", "40 1 0:99 / / rw - overlay x rw\n", "/"},
		{"nothing", "", "/"},
	} {
		if got := jail(c.process, host); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
}

// corpus adds what the fixture hosts have under proc/PID/name.
func corpus(f *testing.F, name string, add func([]byte)) {
	for _, host := range []string{"debian-12-libvirt", "ubuntu-24.04-libvirt", "rhel-9-libvirt", "proxmox", "cloud-hypervisor", "firecracker"} {
		files, err := filepath.Glob(filepath.Join(newHost(f, host).root, "proc/[0-9]*", name))
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range files {
			b, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			add(b)
		}
	}
}

// FuzzCommandLine reads any command line. Whatever stands in it, what is told
// can be told: amounts that are possible or unknown, text for an identity.
func FuzzCommandLine(f *testing.F) {
	corpus(f, "cmdline", func(b []byte) { f.Add(string(b)) })
	f.Fuzz(func(t *testing.T, s string) {
		args := splitArgs(s)
		for _, first := range []string{"", "qemu-kvm", "cloud-hypervisor", "firecracker"} {
			if first != "" {
				args = append([]string{first}, splitArgs(s)...)
			}
			g := recognise(args, "")
			if g == nil {
				continue
			}
			sane(t, g)
		}
	})
}

func sane(t *testing.T, g *guest) {
	t.Helper()
	if g.memory < unknown || g.vcpus < unknown {
		t.Errorf("got %d bytes and %d vCPUs", g.memory, g.vcpus)
	}
	for _, d := range g.disks {
		if d.Provisioned < unknown || d.Name == "" || d.Kind == "" || len(d.Backing) > maxDepth+2 {
			t.Errorf("got disk %+v", d)
		}
	}
	for _, n := range g.nics {
		if n.Name == "" || n.Kind == "" {
			t.Errorf("got interface %+v", n)
		}
	}
	if err := odometer.ValidID("instance", string(Identity("a", first(g.uuid, g.name, g.label, "x")))); err != nil {
		t.Error(err)
	}
}

func FuzzFirecrackerConfig(f *testing.F) {
	f.Add(`{"drives":[{"drive_id":"r","path_on_host":"/r"}],"machine-config":{"vcpu_count":2,"mem_size_mib":1024},"network-interfaces":[{"host_dev_name":"t"}]}`)
	f.Fuzz(func(t *testing.T, s string) {
		g := newGuest(firecracker)
		if parseFirecrackerConfig(g, []byte(s)) == nil {
			sane(t, g)
		}
	})
}

func FuzzProcStat(f *testing.F) {
	corpus(f, "stat", func(b []byte) { f.Add(b) })
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := parseProcStat(b); err != nil && s != (procStat{}) {
			t.Errorf("got %+v with %v", s, err)
		}
		tunName(b)
		jail(string(b), string(b))
		for rest, ok := b, true; ok; {
			_, rest, ok = cutDirent(rest)
		}
	})
}

func FuzzImageHeader(f *testing.F) {
	f.Add(qcow2(1<<40, "base.img", "raw"), "")
	f.Add([]byte("KDMV"), "")
	f.Fuzz(func(t *testing.T, b []byte, format string) {
		h, err := parseHeader(b, format, int64(len(b)))
		if h.size < unknown || err == nil && h.size == unknown || len(h.backing.name) > 1023 {
			t.Errorf("got %+v, %v", h, err)
		}
	})
}
