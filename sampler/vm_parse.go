package sampler

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"strings"

	"golang.org/x/sys/unix"
)

// The parsers of what the kernel tells of one process, one cgroup or one
// interface. They work on bytes alone and, where a sample needs them, allocate
// nothing.

var (
	errNotANumber  = errors.New("not a number")
	errNoUsage     = errors.New("no usage_usec in it")
	errProcessStat = errors.New("not the format of /proc/PID/stat")
	errProcessIO   = errors.New("read_bytes or write_bytes is missing")
	errNoRSS       = errors.New("RssAnon is missing")
	errTooMuch     = errors.New("a number in it is beyond 64 bits")
)

// parseNumber reads a file that holds one number, such as cpuacct.usage.
func parseNumber(b []byte) (uint64, error) {
	n, rest, ok := cutUint(b)
	if !ok || len(bytes.TrimSpace(rest)) > 0 {
		return 0, errNotANumber
	}
	return n, nil
}

// parseCPUStat reads usage_usec from cpu.stat of cgroup v2 and returns it in
// nanoseconds.
func parseCPUStat(b []byte) (uint64, error) {
	for len(b) > 0 {
		var line []byte
		line, b = cutLine(b)
		if rest, ok := bytes.CutPrefix(line, []byte("usage_usec ")); ok {
			n, err := parseNumber(rest)
			if err != nil || n > math.MaxUint64/1000 {
				return 0, errNoUsage
			}
			return n * 1000, nil
		}
	}
	return 0, errNoUsage
}

// processStat is what is used of /proc/PID/stat, see proc_pid_stat(5). Times
// are in ticks of USER_HZ; started counts from boot.
type processStat struct {
	parent  uint64
	cpu     uint64 // utime and stime of all threads, dead ones included; guest time is in utime
	started uint64
}

// parseProcessStat reads /proc/PID/stat. The name, in parentheses, may have
// spaces and parentheses itself.
func parseProcessStat(b []byte) (processStat, error) {
	end := bytes.LastIndexByte(b, ')')
	if end < 0 {
		return processStat{}, errProcessStat
	}
	state, rest := cutField(b[end+1:])
	var st processStat
	for i := 4; i <= 22; i++ {
		var field []byte
		field, rest = cutField(rest)
		var to *uint64
		var n uint64
		switch i {
		case 4:
			to = &st.parent
		case 14, 15, 22:
			to = &n
		default:
			continue
		}
		v, left, ok := cutUint(field)
		if !ok || len(left) > 0 || len(state) != 1 {
			return processStat{}, errProcessStat
		}
		*to = v
		switch i {
		case 14, 15:
			if st.cpu+n < n {
				return processStat{}, errTooMuch
			}
			st.cpu += n
		case 22:
			st.started = n
		}
	}
	return st, nil
}

// parseProcessIO reads what a process had the storage layer read and write
// from /proc/PID/io, see proc_pid_io(5). rchar and wchar are not that: they
// count sockets, pipes and taps too.
func parseProcessIO(b []byte) (read, written uint64, err error) {
	const both = 3
	known := 0
	for len(b) > 0 {
		var line []byte
		line, b = cutLine(b)
		var to *uint64
		bit := 0
		rest, ok := bytes.CutPrefix(line, []byte("read_bytes: "))
		if ok {
			to, bit = &read, 1
		} else if rest, ok = bytes.CutPrefix(line, []byte("write_bytes: ")); ok {
			to, bit = &written, 2
		} else {
			continue
		}
		if *to, err = parseNumber(rest); err != nil {
			return 0, 0, err
		}
		known |= bit
	}
	if known != both {
		return 0, 0, errProcessIO
	}
	return read, written, nil
}

// parseProcessStatus adds up the memory in /proc/PID/status that a process
// holds and cannot share with the page cache, in bytes: what is resident
// (anonymous pages, shared memory and huge pages), and what is on the swap. See
// proc_pid_status(5).
func parseProcessStatus(b []byte) (resident, swapped int64, err error) {
	var sum, out uint64
	known := false
	for len(b) > 0 {
		var line []byte
		line, b = cutLine(b)
		colon := bytes.IndexByte(line, ':')
		if colon < 0 {
			continue
		}
		switch string(line[:colon]) {
		case "RssAnon":
			known = true
		case "RssShmem", "HugetlbPages", "VmSwap":
		default:
			continue
		}
		n, rest, ok := cutUint(cutSpace(line[colon+1:]))
		if !ok || string(bytes.TrimSpace(rest)) != "kB" {
			return 0, 0, errNotANumber
		}
		if n > math.MaxInt64>>12 {
			return 0, 0, errTooMuch
		}
		if line[0] == 'V' {
			out += n << 10
		} else {
			sum += n << 10
		}
	}
	if !known {
		return 0, 0, errNoRSS
	}
	return int64(sum), int64(out), nil
}

// cgroupOf returns the path of a process's cgroup from /proc/PID/cgroup, see
// cgroups(7): in the hierarchy of a v1 controller, or in that of v2 for "".
func cgroupOf(b []byte, controller string) (string, bool) {
	for line := range strings.Lines(string(b)) {
		id, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		list, path, ok := strings.Cut(rest, ":")
		if !ok || !strings.HasPrefix(path, "/") {
			continue
		}
		if controller == "" && (id != "0" || list != "") {
			continue
		}
		if controller == "" || hasWord(list, controller) {
			return strings.TrimSuffix(path, " (deleted)"), true
		}
	}
	return "", false
}

// hasWord reports whether a list that is separated by commas has a word.
func hasWord(list, word string) bool {
	for w := range strings.SplitSeq(list, ",") {
		if w == word {
			return true
		}
	}
	return false
}

// cutMessage reads a netlink message from the front of b.
func cutMessage(b []byte) (kind uint16, payload, rest []byte, ok bool) {
	if len(b) < unix.NLMSG_HDRLEN {
		return 0, nil, nil, false
	}
	size := int(binary.NativeEndian.Uint32(b))
	if size < unix.NLMSG_HDRLEN || size > len(b) {
		return 0, nil, nil, false
	}
	return binary.NativeEndian.Uint16(b[4:]), b[unix.NLMSG_HDRLEN:size], b[min((size+3)&^3, len(b)):], true
}

// attributeTypes leaves the flags out of an attribute's type: NLA_TYPE_MASK.
const attributeTypes = 0x3fff

// cutAttribute reads a netlink attribute from the front of b.
func cutAttribute(b []byte) (kind uint16, value, rest []byte, ok bool) {
	if len(b) < 4 {
		return 0, nil, nil, false
	}
	size := int(binary.NativeEndian.Uint16(b))
	if size < 4 || size > len(b) {
		return 0, nil, nil, false
	}
	return binary.NativeEndian.Uint16(b[2:]) & attributeTypes, b[4:size], b[min((size+3)&^3, len(b)):], true
}

// Where struct taskstats has what is read of it, see linux/taskstats.h.
const (
	taskVirtualAt = 72  // cpu_run_virtual_total
	taskReadAt    = 248 // read_bytes, write_bytes behind it
	taskProcessAt = 368 // ac_tgid, since version 12

	// The version of Linux 6.14 has other fields in between, which the one after
	// moved to the end.
	taskShifted = 15
)

// walkTask goes through the payload of a taskstats message and calls each for
// every process and thread of which it has the processor time.
func walkTask(b []byte, each func(taskExit)) {
	for b = b[min(unix.GENL_HDRLEN, len(b)):]; ; {
		kind, value, rest, ok := cutAttribute(b)
		if !ok {
			return
		}
		if e, ok := parseTask(value); ok && (kind == unix.TASKSTATS_TYPE_AGGR_PID || kind == unix.TASKSTATS_TYPE_AGGR_TGID) {
			e.group = kind == unix.TASKSTATS_TYPE_AGGR_TGID
			each(e)
		}
		b = rest
	}
}

// parseTask reads one nested TASKSTATS_TYPE_AGGR_PID or _AGGR_TGID.
func parseTask(b []byte) (e taskExit, ok bool) {
	var known int
	for {
		kind, value, rest, more := cutAttribute(b)
		if !more {
			return e, known == 3
		}
		switch {
		case (kind == unix.TASKSTATS_TYPE_PID || kind == unix.TASKSTATS_TYPE_TGID) && len(value) >= 4:
			e.id = binary.NativeEndian.Uint32(value)
			known |= 1
		case kind == unix.TASKSTATS_TYPE_STATS && len(value) >= taskVirtualAt+8:
			if binary.NativeEndian.Uint16(value) == taskShifted {
				return e, false
			}
			e.cpu = binary.NativeEndian.Uint64(value[taskVirtualAt:])
			if len(value) >= taskProcessAt+4 {
				e.process = binary.NativeEndian.Uint32(value[taskProcessAt:])
				e.read = binary.NativeEndian.Uint64(value[taskReadAt:])
				e.wrote = binary.NativeEndian.Uint64(value[taskReadAt+8:])
			}
			known |= 2
		}
		b = rest
	}
}

// linkInfo is what RTM_NEWLINK and RTM_DELLINK tell of an interface.
type linkInfo struct {
	family uint8 // AF_UNSPEC, or AF_BRIDGE where the message is about a port only
	index  uint32
	kind   string // "tun", "macvtap", "veth" …; "" for hardware
	// fleeting says that it lives and dies with the process that has it open:
	// a tap that is not persistent.
	fleeting bool
	known    bool // stats were told
	stats    linkStats
}

// parseLinkMsg reads the payload of an RTM_NEWLINK or RTM_DELLINK message: a
// struct ifinfomsg followed by attributes, see rtnetlink(7) and linux/if_link.h.
func parseLinkMsg(b []byte) (linkInfo, bool) {
	if len(b) < unix.SizeofIfInfomsg {
		return linkInfo{}, false
	}
	l := linkInfo{family: b[0], index: binary.NativeEndian.Uint32(b[4:])}
	for b = b[unix.SizeofIfInfomsg:]; ; {
		kind, v, rest, ok := cutAttribute(b)
		if !ok {
			return l, len(b) == 0
		}
		switch kind {
		case unix.IFLA_STATS64:
			if len(v) >= 4*8 {
				l.known = true
				l.stats.rxBytes, l.stats.txBytes = binary.NativeEndian.Uint64(v[16:]), binary.NativeEndian.Uint64(v[24:])
			}
		case unix.IFLA_LINKINFO:
			l.kind, l.fleeting = parseLinkKind(v)
		}
		b = rest
	}
}

// parseLinkKind reads IFLA_LINKINFO.
func parseLinkKind(b []byte) (kind string, fleeting bool) {
	var data []byte
	for {
		k, v, rest, ok := cutAttribute(b)
		if !ok {
			break
		}
		switch k {
		case unix.IFLA_INFO_KIND:
			kind = string(bytes.TrimRight(v, "\x00"))
		case unix.IFLA_INFO_DATA:
			data = v
		}
		b = rest
	}
	if kind != "tun" {
		return kind, false
	}
	for {
		k, v, rest, ok := cutAttribute(data)
		if !ok {
			return kind, false
		}
		if k == unix.IFLA_TUN_PERSIST && len(v) >= 1 {
			return kind, v[0] == 0
		}
		data = rest
	}
}
