// Package sampler turns what a host knows about its machines into readings:
// cumulative counters and gauges at one moment. I/O in, [odometer.Reading]s
// out; what they amount to is the meter's business.
//
// There are three sources. [Machine] meters the machine it runs on from /proc,
// /sys and rtnetlink. [VMs] meters the virtual machines of a host from outside,
// where their tenants cannot reach. [Replay] reads readings from a file of JSON
// lines. All promise the same:
//
//   - A counter only grows within one incarnation. Where the kernel may have
//     started it anew (boot, a disk or interface plugged in again) the
//     incarnation changes with it.
//   - What cannot be read is left out (a counter) or [odometer.Unknown] (a
//     gauge), never 0. [Machine.Sources] and [VMs.Sources] say what is missing
//     and why.
//   - One failing part leaves the others: a hung filesystem, a lost GPU or a
//     missing file costs that quantity and nothing else.
//
// A sampler keeps no state on disk. After a crash the next reading holds the
// same cumulative counters, so nothing is lost but the resolution in between.
//
// # What counts of the machine itself
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
//     How busy a GPU was is what its driver observed, where it is this
//     machine's NVIDIA driver and the program was built with the tag nvml: each
//     observation stands for the time since the one before. It counts from when
//     the GPU is first seen by this process, and a gap in the driver's memory
//     counts as not busy.
//
// # What counts of a virtual machine
//
//   - CPU is what the machine's cgroup used: its virtual processors, the
//     emulator and I/O threads, the kernel's vhost threads, helpers that it
//     started. Of a libvirt guest that is the cgroup of the whole guest, above
//     emulator and vcpuN; of others the cgroup of the process, where the
//     process and its descendants are alone in it. Each hierarchy has its own
//     path: cpuacct of v1 is preferred to v2. Where no cgroup is the machine's
//     alone it is what the process and its threads used, dead ones included, as
//     taskstats tells it to the nanosecond, and where that may not be asked
//     utime and stime of /proc/PID/stat, in ticks. A guest's own view counts
//     nowhere: it takes waiting for the host's processors for use.
//   - Memory used is RssAnon + RssShmem + HugetlbPages of the process, every
//     30 s: what the guest has touched, and the emulator beside it. Page cache
//     of the host does not count. Allocated is what the inventory says that the
//     machine was given, less what its balloon has taken and the host does not
//     keep for it, in memory or on its swap.
//   - Disk I/O is what the process had the storage layer read and write
//     (read_bytes and write_bytes of /proc/PID/io). Where the image is opened
//     past the page cache it is the guest's own sectors, and what an image
//     format or the filesystem writes to keep track of newly allocated blocks;
//     through the page cache it is the pages that were not read or dirty
//     already. Blocks of stacked devices are counted once, unlike in a cgroup,
//     and so are files on NFS. What a process sends over the network by itself
//     (RBD, iSCSI, NBD) is not seen here. It is read six times in a period and
//     every 5 s at most, at the first sample of each UTC hour, where the owner or
//     the state changes, and at the end; readings in between repeat it. Where no
//     exit record tells it at the end, each sample reads it.
//   - Storage occupied is the blocks of the files behind the disks that the
//     machine can write to, holes left out, and what the layers of a block
//     device say: LVM and its snapshots, thin volumes, zvols, loop devices,
//     disks, see blockLayers. An image that a disk is laid over counts where no
//     other machine is laid over it or has it for a disk, and not at all where
//     several are laid over it or were, or machines of other hosts may. Each file and
//     device counts once to a machine, whatever it is called. Where a machine has a disk of which nobody tells beside one
//     that is known, that one counts. They are looked at every 10 s.
//     Provisioned is what the machine sees of those disks. Read-only disks
//     count in neither.
//   - A network interface counts what passes it on the host, in the machine's
//     own view: what a tap receives the machine sent. A macvtap is the machine's
//     end itself and is not turned. Interfaces are known by their index, so
//     that one that takes over a name is another, and looked for in the network
//     namespace of the machine's process and in this process's own. Counters
//     are the kernel's 64 bits; none is taken for one that wraps at 32. Of a
//     virtual function that was passed on, what the interface of its physical
//     function says of it every 10 s, in the function's view.
//   - A GPU, a slice of one (MIG) or a virtual one counts 1 each for as long as
//     the inventory lists it. A machine that never had one has the gauge unknown.
//
// A run of a machine is its process, from start to end. It began with all its
// counters at 0, where the first reading of it can know what came before: an
// older cgroup, or a tap that another used, is taken as it was found.
//
// The end of a run is read when it happens: its process is watched, the exit
// record tells its processor time (all but what the exit itself takes, some
// 0.1 ms a MiB, which only a cgroup counts), and the deletion of its tap the last
// byte. The records of its threads tell its disk I/O, each in whole KiB, since
// Linux 5.19; before, what it did since the last sample is lost where the process
// is reaped before it can be read once more.
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

// SourceStatus says of one source of a [Machine] or of [VMs] what it measures,
// or why it does not.
type SourceStatus struct {
	Name    string `json:"name"`             // "cpu", "memory", "vcpus", "storage", "disks", "network", "gpu", "boot", "machines", "ends", "files"
	OK      bool   `json:"ok"`               // whether its quantity is known; false without a Problem: there is none
	Detail  string `json:"detail"`           // what is measured, such as "vda, vdb"
	Problem string `json:"problem,omitzero"` // why it, or a part of it, is not measured
}
