package inventory

import (
	"encoding/xml"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"

	"example.org/odometer"
)

// domain is what the XML of a libvirt domain says of its machine. The format
// is https://libvirt.org/formatdomain.html; what is not needed is passed over,
// and what is needed and cannot be read is unknown.
type domain struct {
	// vm has no state and no process, and none of what stands below.
	vm odometer.VM

	devices []hostDevice // passed to it; only the host knows what they are
	volumes []volume
}

// volume is a disk of which the XML names only the storage pool that it lies in.
type volume struct {
	disk       int // its index in vm.Disks
	pool, name string
}

// The parts of a domain's XML. Numbers are text here, so that one that is none
// does not make the rest unreadable.
type (
	domainXML struct {
		XMLName       xml.Name `xml:"domain"`
		Name          string   `xml:"name"`
		UUID          string   `xml:"uuid"`
		Title         string   `xml:"title"`
		Memory        *amount  `xml:"memory"`
		CurrentMemory *amount  `xml:"currentMemory"`
		VCPU          *vcpuXML `xml:"vcpu"`
		Metadata      struct {
			Elements []element `xml:",any"`
		} `xml:"metadata"`
		System []struct {
			Name string `xml:"name,attr"`
			Text string `xml:",chardata"`
		} `xml:"sysinfo>system>entry"`
		Disks      []diskXML      `xml:"devices>disk"`
		Interfaces []interfaceXML `xml:"devices>interface"`
		Hostdevs   []hostdevXML   `xml:"devices>hostdev"`
	}
	amount struct {
		Unit string `xml:"unit,attr"`
		Text string `xml:",chardata"`
	}
	vcpuXML struct {
		Current string `xml:"current,attr"`
		Text    string `xml:",chardata"`
	}
	element struct {
		XMLName  xml.Name
		Attrs    []xml.Attr `xml:",any,attr"`
		Text     string     `xml:",chardata"`
		Elements []element  `xml:",any"`
	}
	addressXML struct {
		Domain   string `xml:"domain,attr"`
		Bus      string `xml:"bus,attr"`
		Slot     string `xml:"slot,attr"`
		Function string `xml:"function,attr"`
		UUID     string `xml:"uuid,attr"`
	}
	nameXML struct {
		Name string `xml:"name,attr"`
		Dev  string `xml:"dev,attr"`
	}
	diskXML struct {
		Type   string `xml:"type,attr"`
		Device string `xml:"device,attr"`
		Driver struct {
			Type string `xml:"type,attr"`
		} `xml:"driver"`
		Source   sourceXML   `xml:"source"`
		Backing  *backingXML `xml:"backingStore"`
		Target   nameXML     `xml:"target"`
		ReadOnly *struct{}   `xml:"readonly"`
	}
	sourceXML struct {
		File     string `xml:"file,attr"`
		Dev      string `xml:"dev,attr"`
		Dir      string `xml:"dir,attr"`
		Protocol string `xml:"protocol,attr"`
		Name     string `xml:"name,attr"`
		Pool     string `xml:"pool,attr"`
		Volume   string `xml:"volume,attr"`
		Path     string `xml:"path,attr"`
		Hosts    []struct {
			Name   string `xml:"name,attr"`
			Port   string `xml:"port,attr"`
			Socket string `xml:"socket,attr"`
		} `xml:"host"`
		Address   *addressXML `xml:"address"`
		Namespace string      `xml:"namespace,attr"`
	}
	// A layer below; an empty one ends the chain.
	backingXML struct {
		Type    string      `xml:"type,attr"`
		Source  sourceXML   `xml:"source"`
		Backing *backingXML `xml:"backingStore"`
	}
	interfaceXML struct {
		Type    string      `xml:"type,attr"`
		Address *addressXML `xml:"source>address"` // of a function that is passed on
		Target  nameXML     `xml:"target"`
		Alias   nameXML     `xml:"alias"`
		MAC     struct {
			Address string `xml:"address,attr"`
		} `xml:"mac"`
	}
	hostdevXML struct {
		Mode    string      `xml:"mode,attr"`
		Type    string      `xml:"type,attr"`
		Model   string      `xml:"model,attr"`
		Address *addressXML `xml:"source>address"`
		Alias   nameXML     `xml:"alias"`
	}
)

// parseDomain reads the XML of a domain, running or not.
func parseDomain(b []byte) (domain, error) {
	var x domainXML
	if err := xml.Unmarshal(b, &x); err != nil {
		return domain{}, fmt.Errorf("read the XML of a domain: %w", err)
	}
	d := domain{vm: odometer.VM{
		Instance: odometer.InstanceID(strings.ToLower(strings.TrimSpace(x.UUID))),
		Name:     strings.TrimSpace(x.Name),
		Source:   "libvirt",
		VCPUs:    x.vcpus(),
	}}
	d.vm.Memory, d.vm.Ballooned = x.memory()
	d.vm.Attributes = x.attributes(d.vm.Name)
	for i := range x.Disks {
		d.addDisk(&x.Disks[i])
	}
	for i := range x.Interfaces {
		n := &x.Interfaces[i]
		nic := odometer.NIC{Name: named(n.Alias.Name, "net", i), Kind: nicKind(n.Type), Link: n.Target.Dev, MAC: strings.ToLower(n.MAC.Address)}
		if n.Address != nil {
			nic.Address, _ = n.Address.pci()
		}
		d.vm.NICs = append(d.vm.NICs, nic)
	}
	for i, h := range x.Hostdevs {
		if h.Mode != "subsystem" || h.Address == nil {
			continue
		}
		name := named(h.Alias.Name, "hostdev", i)
		switch h.Type {
		case "pci":
			if address, ok := h.Address.pci(); ok {
				d.devices = append(d.devices, hostDevice{name: name, address: address})
			}
		case "mdev":
			if h.Model != "" && h.Model != "vfio-pci" {
				continue // a channel or a crypto adapter
			}
			if uuid := strings.ToLower(h.Address.UUID); uuid != "" {
				d.devices = append(d.devices, hostDevice{name: name, sysfs: uuid})
			}
		}
	}
	return d, nil
}

// named is the alias of a device, or what libvirt is going to call the i-th of
// its kind: a domain that does not run has no aliases.
func named(alias, kind string, i int) string {
	if alias != "" {
		return alias
	}
	return kind + strconv.Itoa(i)
}

// vcpus is how many virtual processors are plugged in now.
func (x *domainXML) vcpus() int64 {
	if x.VCPU == nil {
		return 1 // what libvirt takes
	}
	s := x.VCPU.Current
	if s == "" {
		s = x.VCPU.Text
	}
	n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 32)
	if err != nil || n < 0 {
		return odometer.Unknown
	}
	return n
}

// memory is what is plugged in, and how much of it the balloon has taken.
func (x *domainXML) memory() (given, balloon int64) {
	left := x.CurrentMemory.bytes()
	if given = x.Memory.bytes(); given == odometer.Unknown || left == odometer.Unknown {
		return max(given, left), 0
	}
	return given, max(0, given-left)
}

// bytes is an amount of memory: KiB unless it says another unit. KB is 1000,
// K and KiB are 1024, in any case of the letters.
func (a *amount) bytes() int64 {
	if a == nil {
		return odometer.Unknown
	}
	n, err := strconv.ParseInt(strings.TrimSpace(a.Text), 10, 64)
	if err != nil || n < 0 {
		return odometer.Unknown
	}
	unit := strings.ToLower(strings.TrimSpace(a.Unit))
	if unit == "" {
		unit = "kib"
	}
	if unit == "b" || unit == "byte" || unit == "bytes" {
		return n
	}
	base := int64(1024)
	if len(unit) == 2 && unit[1] == 'b' {
		base = 1000
	} else if len(unit) != 1 && unit[1:] != "ib" {
		return odometer.Unknown
	}
	power := strings.IndexByte("kmgtpe", unit[0])
	if power < 0 {
		return odometer.Unknown
	}
	for range power + 1 {
		if n > math.MaxInt64/base {
			return odometer.Unknown
		}
		n *= base
	}
	return n
}

// pci writes the address as sysfs does: "0000:65:00.0".
func (a *addressXML) pci() (string, bool) {
	var n [4]uint64
	for i, s := range [...]string{a.Domain, a.Bus, a.Slot, a.Function} {
		if s == "" && i == 0 {
			continue // domain 0
		}
		v, err := strconv.ParseUint(s, 0, 32)
		if err != nil {
			return "", false
		}
		n[i] = v
	}
	if n[1] > 0xff || n[2] > 0x1f || n[3] > 7 {
		return "", false
	}
	return fmt.Sprintf("%04x:%02x:%02x.%x", n[0], n[1], n[2], n[3]), true
}

// addDisk adds a disk, unless it is a drive with nothing in it.
func (d *domain) addDisk(x *diskXML) {
	disk := odometer.Disk{
		Name: x.Target.Dev, Format: x.Driver.Type, Provisioned: odometer.Unknown,
		ReadOnly: x.ReadOnly != nil || x.Device == "cdrom",
	}
	disk.Kind, disk.Path = x.Source.place(x.Type)
	if disk.Path == "" {
		return
	}
	for layer := x.Backing; layer != nil && layer.Type != ""; layer = layer.Backing {
		if _, path := layer.Source.place(layer.Type); path != "" {
			disk.Backing = append(disk.Backing, path)
		}
	}
	if x.Type == "volume" {
		d.volumes = append(d.volumes, volume{disk: len(d.vm.Disks), pool: x.Source.Pool, name: x.Source.Volume})
	}
	d.vm.Disks = append(d.vm.Disks, disk)
}

// place says where a disk of a type, or a layer of one, lies; "" is nowhere.
func (s *sourceXML) place(kind string) (odometer.DiskKind, string) {
	switch kind {
	case "file":
		return odometer.DiskFile, s.File
	case "block":
		return odometer.DiskBlock, s.Dev
	case "network":
		switch {
		case s.Protocol == "":
			return odometer.DiskNetwork, ""
		case s.Name != "" || len(s.Hosts) == 0:
			return odometer.DiskNetwork, s.Protocol + ":" + s.Name
		case s.Hosts[0].Socket != "":
			return odometer.DiskNetwork, s.Protocol + ":" + s.Hosts[0].Socket
		}
		return odometer.DiskNetwork, s.Protocol + ":" + s.Hosts[0].Name + ":" + s.Hosts[0].Port
	case "volume":
		if s.Pool != "" && s.Volume != "" {
			return odometer.DiskUnknown, s.Pool + "/" + s.Volume
		}
	case "nvme":
		if s.Address != nil {
			if address, ok := s.Address.pci(); ok {
				return odometer.DiskUnknown, "nvme:" + address + "/" + s.Namespace
			}
		}
	case "dir":
		return odometer.DiskUnknown, s.Dir
	case "vhostuser":
		return odometer.DiskUnknown, s.Path
	case "vhostvdpa":
		return odometer.DiskUnknown, s.Dev
	}
	return odometer.DiskUnknown, ""
}

// nicKind says what is behind an interface by its type in the XML. An
// interface on a macvtap that another made is "ethernet" there: see
// [libvirtHost.settle].
func nicKind(kind string) odometer.NICKind {
	switch kind {
	case "bridge", "network", "ethernet":
		return odometer.NICTap
	case "direct":
		return odometer.NICMacvtap
	case "vhostuser":
		return odometer.NICVhost
	case "hostdev", "vdpa":
		return odometer.NICDirect
	case "user":
		return odometer.NICUser
	}
	return odometer.NICUnknown
}

// The metadata that says whose a machine is, by the one that writes it.
const (
	novaSpace       = "http://openstack.org/xmlns/libvirt/nova/" // and a version
	kubevirtSpace   = "http://kubevirt.io"
	opennebulaSpace = "http://opennebula.org/xmlns/libvirt/" // and a version
)

// cloudstackName is how CloudStack calls a machine: the account's number, then
// the machine's.
var cloudstackName = regexp.MustCompile(`^i-(\d+)-(\d+)-\w+$`)

// attributes are the hints of who owns a machine and what its owner calls it;
// nil where there are none.
func (x *domainXML) attributes(name string) map[string]string {
	a := map[string]string{}
	set := func(key, value string) {
		if value = strings.TrimSpace(value); value != "" {
			a[key] = value
		}
	}
	set("libvirt.title", x.Title)
	for i := range x.Metadata.Elements {
		e := &x.Metadata.Elements[i]
		switch space := e.XMLName.Space; {
		case strings.HasPrefix(space, novaSpace) && e.XMLName.Local == "instance":
			project, user := e.at("owner", "project"), e.at("owner", "user")
			set("openstack.project_id", project.attr("uuid"))
			set("openstack.project", project.text())
			set("openstack.user_id", user.attr("uuid"))
			set("openstack.user", user.text())
			set("openstack.name", e.at("name").text())
			set("openstack.flavor", e.at("flavor").attr("name"))
		case space == kubevirtSpace && e.XMLName.Local == "kubevirt":
			set("kubevirt.uid", e.at("uid").text())
			// Neither name can have a "_" in it.
			if namespace, vm, ok := strings.Cut(name, "_"); ok {
				set("kubevirt.namespace", namespace)
				set("kubevirt.name", vm)
			}
		case strings.HasPrefix(space, opennebulaSpace) && e.XMLName.Local == "vm":
			set("opennebula.user_id", e.at("uid").text())
			set("opennebula.user", e.at("uname").text())
			set("opennebula.group_id", e.at("gid").text())
			set("opennebula.group", e.at("gname").text())
			set("opennebula.name", e.at("name").text())
		}
	}
	for _, entry := range x.System {
		if entry.Name == "product" && strings.HasPrefix(strings.TrimSpace(entry.Text), "CloudStack") {
			if m := cloudstackName.FindStringSubmatch(name); m != nil {
				set("cloudstack.account_id", m[1])
				set("cloudstack.vm_id", m[2])
			}
		}
	}
	if len(a) == 0 {
		return nil
	}
	return a
}

// at follows local names downwards, to the first of each; nil where there is none.
func (e *element) at(path ...string) *element {
	for _, name := range path {
		if e == nil {
			return nil
		}
		var next *element
		for i := range e.Elements {
			if e.Elements[i].XMLName.Local == name {
				next = &e.Elements[i]
				break
			}
		}
		e = next
	}
	return e
}

func (e *element) text() string {
	if e == nil {
		return ""
	}
	return e.Text
}

func (e *element) attr(name string) string {
	if e == nil {
		return ""
	}
	for _, a := range e.Attrs {
		if a.Name.Local == name {
			return a.Value
		}
	}
	return ""
}
