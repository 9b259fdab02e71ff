package odometer

import "slices"

// VM is a virtual machine as an inventory found it on a host: who it is and
// what it is made of. What it used is in its readings.
//
// Instance is unique in the fleet: the hypervisor's UUID, in lower case with
// hyphens, where the machine has one, and otherwise the agent and the name,
// "host-1:web". Name and Attributes are for people and filters and identify
// nothing.
type VM struct {
	Instance   InstanceID
	Name       string
	Source     string            // which inventory: "libvirt", "qemu", "cloud-hypervisor", "firecracker", "static"
	Attributes map[string]string // an operator's own ids and hints of who owns it; nil for none
	Owner      Owner             // what a static inventory was told; zero where nothing
	State      State

	// Run names this run of the machine, from its start to its end: boot id,
	// process id and its start time. "" while it does not run. A reboot inside
	// the machine is the same run.
	Run     string
	PID     int    // of the hypervisor's process, 0 while it does not run
	Began   int64  // when the process began, CLOCK_BOOTTIME in microseconds; 0 unknown
	Control string // path of its control socket (QMP, API), "" for none

	// What it was given; [Unknown] where that is not told.
	VCPUs  int64
	Memory int64 // bytes, the most that it may use
	// Ballooned is how many bytes of Memory its balloon has given back, as the
	// machine itself says; 0 for none.
	Ballooned int64
	Disks     []Disk
	NICs      []NIC
	GPUs      []GPUDevice
}

// Disk is a disk of a [VM].
type Disk struct {
	Name        string   // as the hypervisor calls it: "vda", "drive0"
	Kind        DiskKind // what is behind it
	Path        string   // of the file or the block device on the host; the name of what lies elsewhere ("rbd:pool/image")
	Format      string   // "raw", "qcow2", …; "" unknown
	Provisioned int64    // bytes that the machine sees; [Unknown] where nobody says
	ReadOnly    bool
	// Backing are the images that Path is laid over, nearest first, as paths of
	// the same kind. They are part of this disk and none of their own: Provisioned
	// has their size in it already, and other machines may share them.
	Backing []string
}

// Equal reports whether two descriptions of a disk say the same.
func (d Disk) Equal(o Disk) bool {
	return d.Name == o.Name && d.Kind == o.Kind && d.Path == o.Path && d.Format == o.Format &&
		d.Provisioned == o.Provisioned && d.ReadOnly == o.ReadOnly && slices.Equal(d.Backing, o.Backing)
}

// DiskKind says what is behind a disk.
type DiskKind string

const (
	DiskFile    DiskKind = "file"
	DiskBlock   DiskKind = "block"   // a block device of the host
	DiskNetwork DiskKind = "network" // RBD, iSCSI, NBD … without a device on the host
	DiskUnknown DiskKind = "unknown"
)

// NIC is a network interface of a [VM].
type NIC struct {
	Name string  // as the hypervisor calls it: "net0"
	Kind NICKind // what is behind it, which decides the direction of its counters
	Link string  // name of the interface on the host, "" where there is none
	MAC  string  // "" unknown
	// Address is the PCI address of what was passed on, "0000:3b:02.6"; "" for none.
	Address string
}

// NICKind says what is behind a network interface, and with that whose view
// the counters of the host's interface are.
type NICKind string

const (
	NICTap     NICKind = "tap"     // the host's view: what it receives the machine sent
	NICMacvtap NICKind = "macvtap" // the machine's view
	NICVhost   NICKind = "vhost-user"
	NICDirect  NICKind = "direct" // SR-IOV or passed through
	NICUser    NICKind = "user"   // within the hypervisor's process: no interface on the host
	NICUnknown NICKind = "unknown"
)

// GPUDevice is a graphics or compute device that is attached to a [VM].
type GPUDevice struct {
	Name    string  // as the hypervisor calls it: "hostdev0"
	Kind    GPUKind // a whole device or which part of one
	Address string  // PCI address "0000:65:00.0", or the UUID of a mediated device
}

// GPUKind says what of a device a machine has.
type GPUKind string

const (
	GPUWhole GPUKind = "passthrough"
	GPUVGPU  GPUKind = "vgpu"
	GPUMIG   GPUKind = "mig"
)

// Change is something that happened to a [VM]: one line of its lifecycle log.
// See lifecycle.go for its form in JSON.
type Change struct {
	Instance InstanceID
	Kind     ChangeKind
	At       Moment
	Device   string // which device came or went, "" for none
	Detail   string // for a person: "2 to 4 vCPUs", "killed by signal 9"
}

// ChangeKind says what happened.
type ChangeKind string

const (
	ChangeFound         ChangeKind = "found"   // it ran already when the inventory first looked
	ChangeStarted       ChangeKind = "started" // a new run began
	ChangeStopped       ChangeKind = "stopped" // its run ended as it was told to
	ChangeCrashed       ChangeKind = "crashed" // its run ended otherwise
	ChangePaused        ChangeKind = "paused"
	ChangeResumed       ChangeKind = "resumed"
	ChangeRebooted      ChangeKind = "rebooted" // inside; the run goes on
	ChangeMoved         ChangeKind = "moved"    // to or from another host, which Detail names where it is known
	ChangeResized       ChangeKind = "resized"  // vCPUs, memory or the disk that Device names
	ChangeDeviceAdded   ChangeKind = "device_added"
	ChangeDeviceRemoved ChangeKind = "device_removed"
	ChangeDefined       ChangeKind = "defined" // it is known to the hypervisor, and does not run yet
	ChangeDeleted       ChangeKind = "deleted" // nothing of it is left: its metering ends
)

// ChangeKinds are all kinds of change.
var ChangeKinds = []ChangeKind{
	ChangeFound, ChangeStarted, ChangeStopped, ChangeCrashed, ChangePaused, ChangeResumed, ChangeRebooted, ChangeMoved,
	ChangeResized, ChangeDeviceAdded, ChangeDeviceRemoved, ChangeDefined, ChangeDeleted,
}
