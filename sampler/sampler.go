// Package sampler turns what a host knows about its machines into readings:
// cumulative counters and gauges at one moment. I/O in, [odometer.Reading]s
// out; what they amount to is the meter's business.
//
// There are two sources. [Machine] meters the machine it runs on from /proc,
// /sys and rtnetlink. [Replay] reads readings from a file of JSON lines. Both
// promise the same:
//
//   - A counter only grows within one incarnation. Where the kernel may have
//     started it anew (boot, a disk or interface plugged in again) the
//     incarnation changes with it.
//   - What cannot be read is left out (a counter) or [odometer.Unknown] (a
//     gauge), never 0. [Machine.Sources] says what is missing and why.
//   - One failing part leaves the others: a hung filesystem, a lost GPU or a
//     missing file costs that quantity and nothing else.
//
// A sampler keeps no state on disk. After a crash the next reading holds the
// same cumulative counters, so nothing is lost but the resolution in between.
//
// # What counts
//
//   - CPU is user+nice+system+irq+softirq of the "cpu" line of /proc/stat.
//     Guest time is in user already and not added again; idle, iowait and
//     steal are not usage.
//   - Memory used is MemTotal − MemAvailable, allocated is MemTotal. Pages that
//     were freed a moment ago lie on each processor's own list, up to an eighth
//     of the memory in all on kernels since 6.7, and are used until the kernel
//     takes them back.
//   - A disk counts when /sys/block names it (so no partition), it has a
//     device behind it (so no dm, md, loop, ram, zram, nbd), it is not hidden
//     (a path of a multipath NVMe) and not optical or floppy. Sectors are 512
//     bytes, whatever the disk says its own are.
//   - A filesystem counts when it lies on a block device of this machine that
//     is neither a loop device nor memory, or is btrfs, zfs or bcachefs;
//     read-only images (squashfs, erofs, iso9660 …), cluster and network
//     filesystems, FUSE and bind mounts of single files do not. Each is
//     counted once however often it is mounted, and what it occupies is
//     (blocks − bfree) × fragment size, the root's reserve excluded.
//   - A network interface counts when it has a device behind it
//     (/sys/class/net/X/device), so no loopback, bridge, veth, tunnel, VLAN or
//     macvlan child, and of a bond or team the slaves and not the master. It
//     does not count when it is the slave of an interface that itself has a
//     device (a virtual function under its paravirtual twin: the twin's
//     counters contain it), nor when it is stacked on another that counts (a
//     port of a switch behind its conduit). Where none has a device, as in a
//     container whose eth0 is one end of a veth pair, every Ethernet interface
//     counts that is not loopback, a bridge or a port of one, a bond, a tap,
//     stacked on another, or by name a dummy, a tunnel or a container's own.
//   - A GPU counts when it is on the PCI bus with class 0302 (3D controller),
//     or with class 0300, 0380 or 1200 from NVIDIA or AMD; of these a 0300 (VGA)
//     only when a driver is bound that can compute with it or pass it on
//     (nvidia, nouveau, amdgpu, vfio-pci), so that a server's own framebuffer
//     is not one. Virtual functions do not count beside their physical one.
//     A machine that never had a GPU has the gauge unknown, not 0.
//
// # /get against the earlier service
//
// [SystemMetrics] has the field names of the service it succeeds. The values
// that changed:
//
//	field                          before                            now
//	timestamp                      seconds, taken after collection   seconds, taken before
//	instance_id, account_id        from the command line             the instance; its user, null where nobody is named
//	cpu.usage_pct                  percent × 100, 0–10000, of 0.2 s  percent, 0–100, since the sample at least 1 s before
//	cpu.process_count              processes                         the same
//	memory.*                       bytes                             the same
//	disks[]                        every line of /proc/diskstats     whole disks only, as above
//	network.interfaces[]           every interface                   those that count, as above
//	network.interfaces[].speed     0 where unknown                   bits/s, null where unknown
//	network.interfaces[].drops_*   0 where /proc/net/dev failed      as /proc/net/dev has them
//	gpus[]                         none as soon as one failed        every GPU on the bus, null for what is unknown
//	gpus[].utilization_bps         basis points, 0–10000             the same (likewise memory_usage_bps)
//	gpus[].temperature_deci_c      0.1 °C                            the same
//	gpus[].power_draw_deci_w       0.1 W                             the same
//	load.load1, load5, load15      load × 100, whole                 the load average, a decimal
//
// New in gpus[] are bus_id, uuid, memory_total and memory_used (bytes).
//
// The package runs on Linux.
package sampler

// SourceStatus says of one source of a [Machine] what it measures, or why it
// does not.
type SourceStatus struct {
	Name    string `json:"name"`             // "cpu", "memory", "vcpus", "storage", "disks", "network", "gpu", "boot"
	OK      bool   `json:"ok"`               // whether its quantity is known; false without a Problem: there is none
	Detail  string `json:"detail"`           // what is measured, such as "vda, vdb"
	Problem string `json:"problem,omitzero"` // why it, or a part of it, is not measured
}
