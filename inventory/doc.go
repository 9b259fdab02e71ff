// Package inventory finds the virtual machines on a host: who they are, what
// they are made of, and what happens to them. What they use is the sampler's.
//
// A [Source] lists the machines of one kind. [Processes] finds the hypervisors
// that run as processes of this host, QEMU, Cloud Hypervisor and Firecracker,
// by the command lines in /proc. [File] has those that somebody wrote down. [Watch] lists several sources again and again,
// makes one list of theirs, and tells the changes.
//
// # What is promised
//
//   - Two machines never share an identity. Where two claim one, the one that
//     began first keeps it, the other is metered under an identity of its own,
//     and both are named as a problem.
//   - What cannot be read is [odometer.Unknown] or empty and named, never
//     guessed, and costs that machine's property and nothing else.
//   - A filesystem, a hypervisor or a source that hangs delays nothing but
//     itself.
//
// Nothing here is kept on disk. After a crash the first lists find what runs.
//
// # Processes
//
// A process is a machine by the name of its binary, whatever its path:
// qemu-system-*, qemu-kvm, kvm, cloud-hypervisor, firecracker, or by arguments
// that only a hypervisor has. Not a machine: questions to the binary (-version,
// -machine help, libvirt's -machine none), what a machine has forked, the
// process that waits for its daemon, and a wrapper (sudo, timeout) that has a
// machine's command line in its own.
//
// Who a machine is, the first of these that it has: its UUID (-uuid, -smbios
// type=1,uuid=, --platform uuid=), "<agent>:<name>" by -name guest=,
// "<agent>:<id>" by Firecracker's --id or its jail, the base name of its API
// socket, and at last its process, which holds for one run and is a problem.
//
// What it was given is what its command line says:
//
//	vCPUs   -smp cpus, or the product of its topology; --cpus boot; vcpu_count;
//	        where nothing tells them, the threads that run them
//	memory  -m and the DIMMs that are plugged, not maxmem; --memory size and the
//	        zones; mem_size_mib
//	disks   each once, without optical drives, floppies and flash
//	NICs    by ifname=, by the tap behind a file that was passed to the process,
//	        or by the taps that it holds, in their order
//	GPUs    vfio-pci devices of the PCI classes 0300, 0302, 0380 and 1200, parts
//	        of one by SR-IOV or as a mediated device, and which of them are
//	        slices (MIG)
//
// A disk's size is the virtual size in the header of a qcow2 image, the length
// of a raw file, or the size of a block device in sysfs. The images that it is
// laid over are its [odometer.Disk.Backing]. Paths are those of the host; where
// it has none for a file that the process sees, they lead through /proc/PID/root.
//
// # What has become of a machine
//
// A machine that is paused, reboots, is resized or has devices plugged in and out
// looks the same in /proc. Its hypervisor is asked over its control socket, by a
// goroutine of its own for each, at the first look and every half a minute after
// that. What it says of devices is laid over the command line: a device goes when
// QEMU does not list its id any more, and one that came is added, under its id.
//
//	QEMU    whether it runs, vCPUs, memory, what its balloon has taken, disks with
//	        their sizes and the images below them, interfaces, and devices of
//	        the host; events tell a pause, its end, a reboot and why a machine ends
//	Cloud Hypervisor
//	        GET /api/v1/vm.info at its API socket: its state, vCPUs, memory, what its
//	        balloon has taken, disks, interfaces, devices of the host
//	Firecracker
//	        GET / and /vm/config at its API socket: its state, and all that its
//	        configuration file would have, which of a machine that was made over
//	        the API nothing else tells
//
// The two APIs have no events: a pause is seen within half a minute, a reboot not
// at all. What reads them is tested with answers of their format, and not with the
// programs. A machine that they have created and not started, or shut down while
// the process remains, is paused.
//
// Each question costs QEMU processor time that its machine is charged with, a
// third of a millisecond. Mostly there are two, for the devices with an id and the
// drives; vCPUs and memory that were plugged in without an id, and an interface
// in the place of another with its id, may be seen after five minutes.
//
// QEMU's monitor serves one client at a time. It is held while nobody else wants
// it, since only a client that is connected is told of a reboot. The kernel's table
// of unix sockets, /proc/net/unix, and how long each line is (sock_diag(7)) are
// read every second: somebody who waits in line gets the monitor within that, and
// for an hour after that it is only visited, for milliseconds every half a minute,
// and a reboot in between is not seen. So it is always where he would not be seen:
// of a QEMU in another network namespace, or where the kernel has no
// CONFIG_UNIX_DIAG. One that another client holds is left alone, which is a
// problem after half a minute.
// Never touched are libvirt's own monitor, one at which QEMU waits for who started
// it (wait=on, its default), and a socket at which another process listens.
//
// One that does not answer within three seconds is a problem, is tried again
// after a time that doubles up to a minute, and delays nothing: the machine stands
// as it said last, or as its command line has it.
//
// # The file of machines
//
// [File] reads YAML, or JSON, for machines of other hypervisors and for what
// nobody else knows of a machine, such as its owner:
//
//	vms:
//	  - name: web
//	    id: 5d0c7b0e-9e0f-4b66-8d2b-3c6a0a1f2e01  # or else it is "<agent>:web"
//	    owner: {user: u-ada, org: o-acme}         # org may be left out
//	    attributes: {rack: r12, ticket: 4711}     # for people and filters
//	    pid_file: /run/vmm/web.pid                # or pid: 4711, or cgroup: /sys/fs/cgroup/vmm/web
//	    control: /run/vmm/web.sock                # QMP, API
//	    vcpus: 4
//	    memory: 8 GiB                             # or bytes
//	    disks:
//	      - {name: vda, path: /var/lib/vmm/web.qcow2}
//	      - {name: vdb, path: "rbd:vms/web", size: 100 GiB}
//	      - {name: vdc, path: /dev/vg0/web, format: raw, kind: block, read_only: true}
//	    nics:
//	      - {name: net0, link: tap7, mac: "52:54:00:12:34:56"}  # kind: tap
//	      - {name: net1, kind: vhost-user}                      # macvtap, user
//	      - {name: net2, kind: direct, address: "0000:3b:02.6"}
//	    gpus:
//	      - {name: gpu0, address: "0000:65:00.0"}               # kind: passthrough, vgpu, mig
//	  - name: cache
//	    cgroup: /sys/fs/cgroup/vmm/cache
//
// Every member but name, or id, may be left out, and is then unknown. A member
// that is not in this list, is there twice or contradicts another, in the same
// machine or in two, is an error that names line and member. The size of a
// disk that lies on this host is looked up; where the file says another, that is
// a problem. A machine whose process is not there is stopped; one without pid,
// pid_file and cgroup runs always. pid names the process that has the number
// when it is first seen, and no later one; cgroup means its oldest process.
//
// The file is read again when it was changed. While it is gone or has an error
// the machines are those of its last good version, and the problem says so.
//
// # Changes
//
// [Watch] compares each list with the one before. What came is found where it
// ran before the first look, and otherwise started, at the beginning of its
// process, or defined. What goes stopped; a machine that was stopped already is
// deleted. Another run of the same machine is both. A source that hears of
// events ([Teller]) gives kind, moment and reason: the kernel tells each end of
// a process within milliseconds, and how it ended (crashed is what neither
// exited with 0 nor was asked to end); where libvirt knows the machine its
// reason is waited for, for five seconds. A reboot and a move show only where they
// are told; reboots of a machine are told once a minute at most.
//
//	difference                                       change
//	vCPUs, memory, the size of a disk                resized
//	a device by its name, or another under that      device_removed, device_added
//	a disk with a snapshot on top, a balloon         none
//	what was unknown becomes known, or the reverse   none
//	another source knows the machine, or the same    none of its devices
//	process claims another identity                  found and deleted, with the other
//
// The package runs on Linux.
package inventory
