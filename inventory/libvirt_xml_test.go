package inventory

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"example.org/odometer"
	"github.com/rogpeppe/go-internal/txtar"
)

// libvirtTree unpacks testdata/libvirt/NAME.txtar: a domain's XML and what the
// host has of it. Its file "links" has a symbolic link a line.
func libvirtTree(t *testing.T, name string) (root string, domainXML []byte) {
	t.Helper()
	a, err := txtar.ParseFile(filepath.Join("testdata", "libvirt", name+".txtar"))
	if err != nil {
		t.Fatal(err)
	}
	root = t.TempDir()
	write := func(name string, do func(path string) error) {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := do(path); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range a.Files {
		switch f.Name {
		case "domain.xml":
			domainXML = f.Data
		case "links":
			for line := range strings.Lines(string(f.Data)) {
				from, to, _ := strings.Cut(strings.TrimSpace(line), " -> ")
				write(from, func(path string) error { return os.Symlink(to, path) })
				// What it leads to is there too, as in the kernel's tree.
				write(filepath.Join(filepath.Dir(from), to, "uevent"), func(path string) error { return os.WriteFile(path, nil, 0o644) })
			}
		default:
			write(f.Name, func(path string) error { return os.WriteFile(path, f.Data, 0o644) })
		}
	}
	return root, domainXML
}

func TestDomains(t *testing.T) {
	const unknown = odometer.Unknown
	disk := func(name string, kind odometer.DiskKind, path, format string, backing ...string) odometer.Disk {
		return odometer.Disk{Name: name, Kind: kind, Path: path, Format: format, Provisioned: unknown, Backing: backing}
	}
	readOnly := func(d odometer.Disk) odometer.Disk {
		d.ReadOnly = true
		return d
	}
	for _, c := range []struct {
		tree     string
		want     odometer.VM
		volumes  []volume
		problems []string
	}{
		{tree: "debian", want: odometer.VM{
			Instance: "1f7c2b94-58a6-4a0e-8d0c-6e8f0b1d2c3a", Name: "bookworm", VCPUs: 2, Memory: 4 << 30, Ballooned: 2 << 30,
			Attributes: map[string]string{"libvirt.title": "Build machine"},
			Disks: []odometer.Disk{
				disk("vda", odometer.DiskFile, "/var/lib/libvirt/images/bookworm.snap1", "qcow2",
					"/var/lib/libvirt/images/bookworm.qcow2", "/srv/base/debian-12.raw"),
				readOnly(disk("fda", odometer.DiskFile, "/srv/iso/drivers.img", "raw")),
			},
			NICs: []odometer.NIC{{Name: "net0", Kind: odometer.NICTap, Link: "vnet3", MAC: "52:54:00:ab:cd:ef"}},
		}},
		{tree: "openstack", want: odometer.VM{
			Instance: "8f1b7c1e-7f2d-4f1a-9d52-0b6f1f0e9a10", Name: "instance-0000002a", VCPUs: 8, Memory: 16 << 30,
			Attributes: map[string]string{
				"openstack.name": "trainer & co", "openstack.flavor": "g1.large",
				"openstack.user": "ada", "openstack.user_id": "4e2f6cbb61c44ed2a86ed5d1f4e4e7c3",
				"openstack.project": "research", "openstack.project_id": "0c9d6dfb3d5d4f34a4b1f0e3f6b9a7d2",
			},
			Disks: []odometer.Disk{
				disk("vda", odometer.DiskNetwork, "rbd:vms/8f1b7c1e-7f2d-4f1a-9d52-0b6f1f0e9a10_disk", "raw"),
				disk("vdb", odometer.DiskBlock, "/dev/dm-7", "raw"),
				readOnly(disk("sda", odometer.DiskFile, "/var/lib/nova/instances/8f1b7c1e-7f2d-4f1a-9d52-0b6f1f0e9a10/disk.config", "raw")),
			},
			NICs: []odometer.NIC{
				{Name: "net0", Kind: odometer.NICTap, Link: "tap9a3b0d0c-2b", MAC: "fa:16:3e:11:22:33"},
				{Name: "hostdev0", Kind: odometer.NICDirect, MAC: "fa:16:3e:44:55:66", Address: "0000:3b:02.5"},
				{Name: "net2", Kind: odometer.NICVhost, Link: "vhua1b2c3d4-5e", MAC: "fa:16:3e:77:88:99"},
				{Name: "net3", Kind: odometer.NICMacvtap, Link: "macvtap4", MAC: "fa:16:3e:aa:bb:cc"},
			},
			// The GPU's sound is no GPU.
			GPUs: []odometer.GPUDevice{{Name: "hostdev1", Kind: odometer.GPUWhole, Address: "0000:65:00.0"}},
		}},
		{tree: "lvm", want: odometer.VM{
			Instance: "c0ffee00-0104-4000-8000-000000000104", Name: "vm-104", VCPUs: 4, Memory: 8 << 30, Ballooned: 2 << 30,
			Disks: []odometer.Disk{
				disk("sda", odometer.DiskBlock, "/dev/pve/vm-104-disk-0", "raw"),
				readOnly(disk("sdb", odometer.DiskBlock, "/dev/zvol/rpool/data/vm-104-disk-1", "raw")),
				disk("sdc", odometer.DiskBlock, "/dev/disk/by-id/scsi-36005076305ffc1ae", "raw"),
				disk("vda", odometer.DiskNetwork, "iscsi:iqn.2026-01.org.example:store/1", "raw"),
				disk("vdb", odometer.DiskNetwork, "nbd:192.0.2.41:10809", "raw"),
				disk("vdc", odometer.DiskUnknown, "ssd/vm-104.qcow2", "qcow2"),
				disk("vdd", odometer.DiskUnknown, "nvme:0000:01:00.0/1", "raw"),
				disk("vde", odometer.DiskUnknown, "/var/tmp/spdk.104", "raw"),
			},
			// Off, it has neither aliases nor interfaces on the host.
			NICs: []odometer.NIC{
				{Name: "net0", Kind: odometer.NICTap, MAC: "bc:24:11:00:01:04"},
				{Name: "net1", Kind: odometer.NICUser, MAC: "bc:24:11:00:02:04"},
				{Name: "net2", Kind: odometer.NICUnknown, MAC: "bc:24:11:00:03:04"},
			},
		}, volumes: []volume{{disk: 5, pool: "ssd", name: "vm-104.qcow2"}}},
		{tree: "kubevirt", want: odometer.VM{
			Instance: "5d307ca9-b3ef-428c-8861-06e72d69f223", Name: "team-a_web-0", VCPUs: 1, Memory: 1 << 30,
			Attributes: map[string]string{
				"kubevirt.uid": "0e5bd0a7-2b0d-4c7e-8a1c-7c5f4a7f9d11", "kubevirt.namespace": "team-a", "kubevirt.name": "web-0",
			},
			Disks: []odometer.Disk{
				disk("vda", odometer.DiskBlock, "/dev/rootdisk", "raw"),
				disk("vdb", odometer.DiskFile, "/var/run/kubevirt-ephemeral-disks/disk-data/data/disk.qcow2", "qcow2",
					"/var/run/kubevirt/container-disks/disk_1.img"),
			},
			NICs: []odometer.NIC{
				{Name: "ua-default", Kind: odometer.NICTap, Link: "tap0", MAC: "02:00:00:00:00:01"},
				{Name: "ua-fast", Kind: odometer.NICMacvtap, Link: "net1", MAC: "02:00:00:00:00:02"},
			},
			GPUs: []odometer.GPUDevice{{Name: "ua-gpu-vgpu1", Kind: odometer.GPUVGPU, Address: "b4a6b1f2-1d5b-4b5f-9f63-0f6e2e8f1c01"}},
		}},
		{tree: "gpus", want: odometer.VM{
			Instance: "6a5b4c3d-0000-4000-8000-00000000000a", Name: "gpus", VCPUs: 1, Memory: 1 << 30,
			Disks: []odometer.Disk{disk("hostdev7", odometer.DiskUnknown, "pci:0000:0d:00.0", "")},
			NICs:  []odometer.NIC{{Name: "hostdev2", Kind: odometer.NICDirect, Address: "0000:3b:02.6"}},
			GPUs: []odometer.GPUDevice{
				{Name: "hostdev0", Kind: odometer.GPUMIG, Address: "00000000-0000-4000-8000-0000000000a1"},
				{Name: "hostdev1", Kind: odometer.GPUVGPU, Address: "0001:c1:1f.7"},
				{Name: "hostdev3", Kind: odometer.GPUWhole, Address: "0000:0b:00.0"},
			},
		}, problems: []string{
			"domain gpus: device hostdev5: what it is is not known", "domain gpus: device hostdev6: what it is is not known",
			"domain gpus: disk hostdev7: the size of a disk that was passed through is not known",
		}},
		{tree: "ovirt", want: odometer.VM{
			Instance: "3b0e9e7a-4c29-4f3a-8a0e-5f0d3a9c7b21", Name: "accounting", VCPUs: 2, Memory: 4 << 30,
			Disks: []odometer.Disk{disk("sda", odometer.DiskBlock, "/rhev/data-center/mnt/blockSD/8825/images/89f0/626a", "qcow2",
				"/rhev/data-center/mnt/blockSD/8825/images/89f0/5151")},
			NICs: []odometer.NIC{{Name: "ua-1d5f", Kind: odometer.NICTap, Link: "vnet6", MAC: "56:6f:1a:2b:00:01"}},
		}},
		{tree: "opennebula", want: odometer.VM{
			Instance: "7d4b1a60-5f7e-46a5-8d0b-1e4a3c2b1a09", Name: "one-17", VCPUs: 1, Memory: 786432000,
			Attributes: map[string]string{
				"opennebula.name": "alpine", "opennebula.user": "ada", "opennebula.user_id": "4", "opennebula.group": "acme", "opennebula.group_id": "101",
			},
		}},
		{tree: "cloudstack", want: odometer.VM{
			Instance: "b1c2d3e4-1111-4222-8333-444455556666", Name: "i-12-345-VM", VCPUs: 1, Memory: 512 << 20,
			Attributes: map[string]string{"cloudstack.account_id": "12", "cloudstack.vm_id": "345"},
			Disks:      []odometer.Disk{disk("vda", odometer.DiskFile, "/mnt/5f1d/9d3c", "qcow2")},
		}},
		{tree: "odd", want: odometer.VM{
			Name: "odd", VCPUs: unknown, Memory: unknown,
			Disks: []odometer.Disk{disk("vda", odometer.DiskUnknown, "/srv/share", "")},
			NICs:  []odometer.NIC{{Name: "net0", Kind: odometer.NICUnknown}},
		}},
	} {
		t.Run(c.tree, func(t *testing.T) {
			root, text := libvirtTree(t, c.tree)
			d, err := parseDomain(text)
			if err != nil {
				t.Fatal(err)
			}
			host := libvirtHost{root: root}
			problem := host.settle(&d)
			c.want.Source = "libvirt"
			if !reflect.DeepEqual(d.vm, c.want) {
				t.Errorf("got  %+v\nwant %+v", d.vm, c.want)
			}
			if !reflect.DeepEqual(d.volumes, c.volumes) {
				t.Errorf("got volumes %+v, want %+v", d.volumes, c.volumes)
			}
			got := []string{}
			if problem != nil {
				got = strings.Split(problem.Error(), "\n")
			}
			if len(got) != len(c.problems) {
				t.Fatalf("got problems %q, want %q", got, c.problems)
			}
			for i, p := range c.problems {
				if !strings.Contains(got[i], p) {
					t.Errorf("got problem %q, want %q", got[i], p)
				}
			}
		})
	}
}

func TestDomainsThatAreNone(t *testing.T) {
	for name, text := range map[string]string{
		"nothing":                "",
		"another root":           "<network><name>default</name></network>",
		"text that is cut short": "<domain><name>a</name><devices>",
		"no XML":                 "HTTP/1.1 400 Bad Request",
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := parseDomain([]byte(text)); err == nil || !strings.HasPrefix(err.Error(), "read the XML of a domain: ") {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestAmounts(t *testing.T) {
	for _, c := range []struct {
		text, unit string
		want       int64
	}{
		{"1", "", 1 << 10}, {" 7 ", "b", 7}, {"7", "bytes", 7}, {"2", "k", 2 << 10}, {"2", "KiB", 2 << 10}, {"2", "KB", 2000},
		{"3", "M", 3 << 20}, {"3", "mib", 3 << 20}, {"3", "MB", 3e6}, {"4", "G", 4 << 30}, {"4", "GB", 4e9}, {"5", "TiB", 5 << 40},
		{"6", "PB", 6e15}, {"7", "EiB", 7 << 60}, {"0", "KiB", 0},
		{"8", "EiB", odometer.Unknown}, {"-1", "KiB", odometer.Unknown}, {"", "KiB", odometer.Unknown}, {"1.5", "GiB", odometer.Unknown},
		{"1", "z", odometer.Unknown}, {"1", "kilo", odometer.Unknown}, {"1", "ib", odometer.Unknown}, {"9223372036854775807", "KB", odometer.Unknown},
	} {
		if got := (&amount{Unit: c.unit, Text: c.text}).bytes(); got != c.want {
			t.Errorf("%s %s: got %d, want %d", c.text, c.unit, got, c.want)
		}
	}
}

func FuzzDomain(f *testing.F) {
	trees, err := filepath.Glob("testdata/libvirt/*.txtar")
	if err != nil || len(trees) == 0 {
		f.Fatal("no trees")
	}
	for _, tree := range trees {
		a, err := txtar.ParseFile(tree)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(a.Files[0].Data)
	}
	host := libvirtHost{root: f.TempDir()}
	f.Fuzz(func(t *testing.T, text []byte) {
		d, err := parseDomain(text)
		if err != nil {
			return
		}
		host.settle(&d)
		if d.vm.VCPUs < odometer.Unknown || d.vm.Memory < odometer.Unknown || d.vm.Ballooned < 0 || d.vm.Ballooned > max(0, d.vm.Memory) {
			t.Errorf("got %d processors and %d bytes less %d", d.vm.VCPUs, d.vm.Memory, d.vm.Ballooned)
		}
		for _, disk := range d.vm.Disks {
			if disk.Path == "" || disk.Kind == "" {
				t.Errorf("got %+v", disk)
			}
		}
		for _, nic := range d.vm.NICs {
			if nic.Name == "" || nic.Kind == "" {
				t.Errorf("got %+v", nic)
			}
		}
		for _, v := range d.volumes {
			if d.vm.Disks[v.disk].Path != v.pool+"/"+v.name {
				t.Errorf("volume %+v is disk %+v", v, d.vm.Disks[v.disk])
			}
		}
	})
}
