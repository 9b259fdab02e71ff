package sampler

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// The parsers in this file work on bytes alone. They allocate nothing unless
// they fail, except for mounts, which are read only when they change.

// cutUint reads a decimal number from the front of b. ok is false where there
// is none or it is beyond 64 bits.
func cutUint(b []byte) (n uint64, rest []byte, ok bool) {
	i := 0
	for ; i < len(b) && b[i]-'0' <= 9; i++ {
		d := uint64(b[i] - '0')
		if n > (math.MaxUint64-d)/10 {
			return 0, b, false
		}
		n = n*10 + d
	}
	return n, b[i:], i > 0
}

func cutSpace(b []byte) []byte {
	i := 0
	for i < len(b) && (b[i] == ' ' || b[i] == '\t') {
		i++
	}
	return b[i:]
}

// cutField reads one field, ended by white space, from the front of b.
func cutField(b []byte) (field, rest []byte) {
	b = cutSpace(b)
	i := 0
	for i < len(b) && b[i] != ' ' && b[i] != '\t' {
		i++
	}
	return b[:i], b[i:]
}

func cutLine(b []byte) (line, rest []byte) {
	if i := bytes.IndexByte(b, '\n'); i >= 0 {
		return b[:i], b[i+1:]
	}
	return b, nil
}

// cutUints fills n with as many numbers as stand at the front of b, separated
// by spaces, and returns how many there were.
func cutUints(b []byte, n []uint64) int {
	for i := range n {
		v, rest, ok := cutUint(cutSpace(b))
		if !ok {
			return i
		}
		n[i], b = v, rest
	}
	return len(n)
}

// cpuTimes is the "cpu" line of /proc/stat in ticks.
type cpuTimes struct {
	busy  uint64 // user, nice, system, irq, softirq; guest is in user and nice
	total uint64 // busy, idle, iowait, steal
}

var errNoCPULine = errors.New("no cpu line with user, nice, system and idle")

// parseStat reads the first line of /proc/stat, see proc_stat(5). Kernels
// before 2.6.11 have fewer columns; what is missing is 0.
func parseStat(b []byte) (cpuTimes, error) {
	b, ok := bytes.CutPrefix(b, []byte("cpu "))
	if !ok {
		return cpuTimes{}, errNoCPULine
	}
	line, _ := cutLine(b)
	var f [8]uint64 // user nice system idle iowait irq softirq steal; then guest, guest_nice
	if cutUints(line, f[:]) < 4 {
		return cpuTimes{}, errNoCPULine
	}
	busy := f[0] + f[1] + f[2] + f[5] + f[6]
	return cpuTimes{busy: busy, total: busy + f[3] + f[4] + f[7]}, nil
}

// countCPUs counts the "cpuN" lines of /proc/stat, one for each CPU online.
func countCPUs(b []byte) int64 {
	var n int64
	for len(b) > 0 {
		var line []byte
		line, b = cutLine(b)
		if rest, ok := bytes.CutPrefix(line, []byte("cpu")); ok && len(rest) > 0 && rest[0]-'0' <= 9 {
			n++
		}
	}
	return n
}

var errCPUList = errors.New("not a list of CPUs")

// parseCPUList counts the CPUs in a list such as "0-3,6", the format of
// /sys/devices/system/cpu/online.
func parseCPUList(b []byte) (int64, error) {
	const most = 1 << 20 // more CPUs than any kernel supports: not such a list
	b = bytes.TrimSpace(b)
	var count int64
	for {
		first, rest, ok := cutUint(b)
		last := first
		if ok && len(rest) > 0 && rest[0] == '-' {
			last, rest, ok = cutUint(rest[1:])
		}
		if !ok || last < first || last >= most {
			return 0, errCPUList
		}
		count += int64(last-first) + 1
		if len(rest) == 0 {
			return count, nil
		}
		if rest[0] != ',' || count > most {
			return 0, errCPUList
		}
		b = rest[1:]
	}
}

// memInfo is what is used of /proc/meminfo, in bytes.
type memInfo struct {
	total, free, available, swapTotal, swapFree uint64
	known                                       uint8 // bit i: field i of the list above was there
}

const (
	memTotal = 1 << iota
	memFree
	memAvailable
	memSwapTotal
	memSwapFree
)

// parseMemInfo reads /proc/meminfo, whose "kB" is 1024 bytes.
func parseMemInfo(b []byte) memInfo {
	var m memInfo
	for len(b) > 0 {
		var line []byte
		line, b = cutLine(b)
		colon := bytes.IndexByte(line, ':')
		if colon < 0 {
			continue
		}
		var to *uint64
		var bit uint8
		switch string(line[:colon]) {
		case "MemTotal":
			to, bit = &m.total, memTotal
		case "MemFree":
			to, bit = &m.free, memFree
		case "MemAvailable":
			to, bit = &m.available, memAvailable
		case "SwapTotal":
			to, bit = &m.swapTotal, memSwapTotal
		case "SwapFree":
			to, bit = &m.swapFree, memSwapFree
		default:
			continue
		}
		n, rest, ok := cutUint(cutSpace(line[colon+1:]))
		if unit := bytes.TrimSpace(rest); ok && n <= math.MaxInt64>>10 && string(unit) == "kB" {
			*to, m.known = n<<10, m.known|bit
		}
	}
	return m
}

// diskStats is one line of /proc/diskstats, see the kernel's
// Documentation/admin-guide/iostats.rst. Times are in milliseconds, sectors of
// 512 bytes.
type diskStats struct {
	reads, readsMerged, sectorsRead, readMillis       uint64
	writes, writesMerged, sectorsWritten, writeMillis uint64
	inProgress, ioMillis, weightedMillis              uint64
}

// sectorBytes is the unit of /proc/diskstats and of /sys/block/X/size, for
// every disk.
const sectorBytes = 512

// parseDiskLine reads one line of /proc/diskstats. A line that has fewer
// columns (partitions of kernels before 2.6.25) is not ok.
func parseDiskLine(line []byte) (name []byte, d diskStats, ok bool) {
	_, line = cutField(line) // major
	_, line = cutField(line) // minor
	name, line = cutField(line)
	var f [11]uint64
	if len(name) == 0 || cutUints(line, f[:]) < len(f) {
		return nil, diskStats{}, false
	}
	return name, diskStats{f[0], f[1], f[2], f[3], f[4], f[5], f[6], f[7], f[8], f[9], f[10]}, true
}

// linkStats are the counters of one network interface.
type linkStats struct {
	rxBytes, rxPackets, rxErrors, rxDrops uint64
	txBytes, txPackets, txErrors, txDrops uint64
}

// parseNetDevLine reads one line of /proc/net/dev, see proc_pid_net(5). The
// two lines of headings are not ok. An alias (eth0:1) has no line of its own
// in any kernel that has counters here, so the last colon ends the name.
func parseNetDevLine(line []byte) (name []byte, s linkStats, ok bool) {
	colon := bytes.LastIndexByte(line, ':')
	if colon < 0 {
		return nil, linkStats{}, false
	}
	name = cutSpace(line[:colon])
	var f [16]uint64
	if len(name) == 0 || cutUints(line[colon+1:], f[:]) < len(f) {
		return nil, linkStats{}, false
	}
	return name, linkStats{f[0], f[1], f[2], f[3], f[8], f[9], f[10], f[11]}, true
}

// The parts of rtnetlink's binary interface that golang.org/x/sys lacks; see
// linux/if_link.h.
const (
	ifStatsMsgBytes = 12 // struct if_stats_msg
	iflaStatsLink64 = 1  // IFLA_STATS_LINK_64
)

// parseStatsMsg reads the payload of an RTM_NEWSTATS message: a struct
// if_stats_msg followed by attributes, of which IFLA_STATS_LINK_64 is a struct
// rtnl_link_stats64.
func parseStatsMsg(b []byte) (ifindex uint32, s linkStats, ok bool) {
	if len(b) < ifStatsMsgBytes {
		return 0, linkStats{}, false
	}
	ifindex = binary.NativeEndian.Uint32(b[4:])
	for b = b[ifStatsMsgBytes:]; len(b) >= 4; {
		size := int(binary.NativeEndian.Uint16(b))
		if size < 4 || size > len(b) {
			return 0, linkStats{}, false
		}
		if v := b[4:size]; binary.NativeEndian.Uint16(b[2:]) == iflaStatsLink64 && len(v) >= 16*8 {
			at := func(i int) uint64 { return binary.NativeEndian.Uint64(v[8*i:]) }
			// rx_missed_errors (15) are drops in /proc/net/dev as well.
			return ifindex, linkStats{at(2), at(0), at(4), at(6) + at(15), at(3), at(1), at(5), at(7)}, true
		}
		b = b[min((size+3)&^3, len(b)):]
	}
	return 0, linkStats{}, false
}

// parseLoad reads the three averages of /proc/loadavg.
func parseLoad(b []byte) (LoadMetrics, error) {
	var l LoadMetrics
	for _, to := range [...]*float64{&l.Load1, &l.Load5, &l.Load15} {
		var field []byte
		field, b = cutField(b)
		v, err := strconv.ParseFloat(string(field), 64)
		if err != nil || v < 0 || math.IsInf(v, 0) || math.IsNaN(v) {
			return LoadMetrics{}, fmt.Errorf("%q is not a load average", field)
		}
		*to = v
	}
	return l, nil
}

// mount is one line of /proc/PID/mountinfo, see proc_pid_mountinfo(5).
type mount struct {
	device string // "major:minor": equal for all mounts of one filesystem
	root   string // which directory of the filesystem is mounted
	point  string
	fstype string
	source string
	// options are those of the filesystem: of a cgroup, its controllers.
	options string
}

// parseMounts reads /proc/PID/mountinfo. Lines that do not have the format are
// skipped.
func parseMounts(b []byte) []mount {
	var list []mount
	for line := range strings.SplitSeq(string(b), "\n") {
		left, right, ok := strings.Cut(line, " - ")
		l, r := strings.Fields(left), strings.Fields(right)
		if !ok || len(l) < 6 || len(r) < 1 {
			continue
		}
		m := mount{device: l[2], root: unescape(l[3]), point: unescape(l[4]), fstype: r[0]}
		if len(r) > 1 {
			m.source = unescape(r[1])
		}
		if len(r) > 2 {
			m.options = r[2]
		}
		list = append(list, m)
	}
	return list
}

// unescape undoes the octal escapes of mountinfo: \040 for a space, and tab,
// newline, hash and backslash likewise.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b = append(b, byte(n))
				i += 3
				continue
			}
		}
		b = append(b, s[i])
	}
	return string(b)
}
