package odometer

// Moment is an instant as a host's clocks told it, all in microseconds.
type Moment struct {
	Boot int64 // CLOCK_BOOTTIME: counts suspend, never steps; what durations are made of
	Wall int64 // CLOCK_REALTIME since the Unix epoch; a label
}

// Unknown is the value of a gauge that could not be read.
const Unknown int64 = -1

// Counter is one cumulative counter of one device.
type Counter struct {
	Quantity Quantity // CPU, GPU, GPUBusy, NetworkEgress, NetworkIngress, DiskRead or DiskWrite
	Device   string   // "eth0", "vda", "" where there is only one
	// Incarnation changes whenever the device's counter may have started
	// anew: boot id, inode, ifindex, pid and start time.
	Incarnation string
	// Value counts nanoseconds for CPU, GPU and GPUBusy, bytes otherwise.
	Value uint64
	// Born says that Value counts from 0 since the previous reading of this
	// instance, or since its epoch began: the first sight of the device is
	// then usage and not merely a baseline.
	Born bool
}

// Gauges are the amounts in force from a reading until the next one, each
// [Unknown] where it could not be read.
type Gauges struct {
	Memory             int64 // bytes used
	MemoryAllocated    int64 // bytes
	Storage            int64 // bytes occupied
	StorageProvisioned int64 // bytes
	VCPUs              int64 // count
	GPUs               int64 // count of devices attached; Unknown where GPU time comes from a counter
}

// NoGauges has every gauge unknown.
var NoGauges = Gauges{Unknown, Unknown, Unknown, Unknown, Unknown, Unknown}

// Reading is everything that was read of one instance at one moment. The
// receiver must not keep Counters after it returns: the source reuses it.
type Reading struct {
	Instance InstanceID
	Agent    AgentID // who measured it
	Owner    Owner   // what the source was told, zero where nothing
	At       Moment
	State    State
	// Epoch is the source's own name for the instance's epoch, "" where the
	// meter chooses. A change of it ends the previous epoch.
	Epoch string
	// Started marks the instant at which the epoch's counters were 0; such a
	// reading carries no counters and no gauges.
	Started bool
	// Unwatched says that the time since the previous reading was not
	// observed: the agent was down. Gauges over it are estimates.
	Unwatched bool
	// Final says that the instance has ended or left: its epoch closes here.
	Final bool
	// Changes is what happened since the previous reading of the instance,
	// which ends the open period. The receiver may keep it.
	Changes  []Change
	Counters []Counter
	Gauges   Gauges
}
