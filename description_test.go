package odometer

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
)

func describedVM() *VM {
	return &VM{
		Instance: "5d0c7b0e-9e0f-4b66-8d2b-3c6a0a1f2e01", Name: "web", Source: "libvirt", State: Running,
		Attributes: map[string]string{"openstack.project_id": "p1"},
		Run:        "boot/4711/1", PID: 4711, Began: 7, Control: "/run/secret.sock",
		VCPUs: 4, Memory: Unknown,
		Disks: []Disk{{Name: "vda", Kind: DiskFile, Path: "/secret/web.qcow2", Format: "qcow2", Provisioned: 10 << 30, Backing: []string{"/secret/base"}}, {Name: "vdb", Kind: DiskNetwork, Path: "rbd:secret/web", Provisioned: Unknown, ReadOnly: true}},
		NICs:  []NIC{{Name: "net0", Kind: NICTap, Link: "tap7", MAC: "52:54:00:12:34:56"}},
		GPUs:  []GPUDevice{{Name: "hostdev0", Kind: GPUWhole, Address: "0000:65:00.0"}},
	}
}

func TestADescriptionLeavesTheHostsBusinessOut(t *testing.T) {
	d := Describe(describedVM())
	got, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"instance_id":"5d0c7b0e-9e0f-4b66-8d2b-3c6a0a1f2e01","name":"web","source":"libvirt","state":"running",` +
		`"attributes":{"openstack.project_id":"p1"},"vcpus":4,"memory_bytes":null,` +
		`"disks":[{"name":"vda","kind":"file","format":"qcow2","provisioned_bytes":10737418240,"read_only":false},{"name":"vdb","kind":"network","format":"","provisioned_bytes":null,"read_only":true}],` +
		`"interfaces":[{"name":"net0","kind":"tap","link":"tap7","mac":"52:54:00:12:34:56"}],` +
		`"gpus":[{"name":"hostdev0","kind":"passthrough","address":"0000:65:00.0"}]}`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if err := d.Valid(); err != nil {
		t.Errorf("Valid: got %v, want nil", err)
	}
}

func TestADescriptionIsCutWhereItIsTooLong(t *testing.T) {
	v := describedVM()
	v.Name = strings.Repeat("ä", 200) // 400 bytes
	for i := range 100 {
		v.Attributes[fmt.Sprintf("key-%03d", i)] = strings.Repeat("x", 300)
	}
	for i := range 300 {
		v.NICs = append(v.NICs, NIC{Name: fmt.Sprint("net", i)})
	}
	v.GPUs[0].Name = "\xff"
	d := Describe(v)
	if err := d.Valid(); err != nil || !d.Cut {
		t.Errorf("got %v and cut %v, want a valid description that says so", err, d.Cut)
	}
	if len(d.Attributes) != MaxAttributes || len(d.NICs) != MaxDevices || d.Attributes["key-064"] != "" || len(d.Attributes["key-000"]) != MaxDescribedText {
		t.Errorf("got %d attributes and %d interfaces, want the first %d and %d", len(d.Attributes), len(d.NICs), MaxAttributes, MaxDevices)
	}
	if !strings.HasSuffix(d.Name, "ä…") || d.GPUs[0].Name != "\ufffd" {
		t.Errorf("got name %q and GPU %q, want whole characters", d.Name, d.GPUs[0].Name)
	}
	if whole := Describe(describedVM()); whole.Cut {
		t.Error("what fits is called cut")
	}
}

func TestDescriptionsThatAreRefused(t *testing.T) {
	for name, change := range map[string]func(*Description){
		"no instance":         func(d *Description) { d.Instance = "" },
		"another state":       func(d *Description) { d.State = "flying" },
		"a negative amount":   func(d *Description) { d.VCPUs = new(int64(-1)) },
		"a negative size":     func(d *Description) { d.Disks[0].Provisioned = new(int64(-1)) },
		"too many devices":    func(d *Description) { d.GPUs = make([]DescribedDevice, MaxDevices+1) },
		"a long name":         func(d *Description) { d.Name = strings.Repeat("x", MaxDescribedText+1) },
		"a kind without end":  func(d *Description) { d.NICs[0].Kind = NICKind(strings.Repeat("x", MaxDescribedText+1)) },
		"no UTF-8":            func(d *Description) { d.Attributes["a"] = "\xff" },
		"too many attributes": func(d *Description) { addAttributes(d, MaxAttributes) },
	} {
		d := Describe(describedVM())
		change(&d)
		if err := d.Valid(); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: got %v, want an error wrapping ErrInvalid", name, err)
		}
	}
}

func addAttributes(d *Description, n int) {
	for i := range n {
		d.Attributes[fmt.Sprint(i)] = ""
	}
}
