package sampler

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParseStat(t *testing.T) {
	for _, c := range []struct {
		name, in string
		want     cpuTimes
		err      error
	}{
		{"ten columns: guest is in user, steal is in the total only", "cpu  100 20 30 400 50 6 7 80 90 10\ncpu0 1 1 1 1\n", cpuTimes{163, 693}, nil},
		{"four columns of an old kernel", "cpu  1 2 3 4\n", cpuTimes{6, 10}, nil},
		{"cut off in the middle", "cpu  1 2 3 4 5", cpuTimes{6, 15}, nil},
		{"three columns", "cpu  1 2 3\n", cpuTimes{}, errNoCPULine},
		{"beyond 64 bits", "cpu  18446744073709551616 0 0 0\n", cpuTimes{}, errNoCPULine},
		{"one CPU's line", "cpu0 1 2 3 4\n", cpuTimes{}, errNoCPULine},
		{"nothing", "", cpuTimes{}, errNoCPULine},
		{"a negative value, as some kernels had", "cpu  1 -2 3 4\n", cpuTimes{}, errNoCPULine},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got, err := parseStat([]byte(c.in)); got != c.want || err != c.err {
				t.Errorf("got %+v, %v, want %+v, %v", got, err, c.want, c.err)
			}
		})
	}
}

func TestParseCPUList(t *testing.T) {
	for _, c := range []struct {
		in   string
		want int64
	}{
		{"0\n", 1}, {"0-3\n", 4}, {"0-3,6,8-9", 7}, {"", -1}, {"3-1", -1}, {"0-", -1}, {"0,", -1}, {"a", -1}, {"0-99999999", -1}, {"1;2", -1},
	} {
		got, err := parseCPUList([]byte(c.in))
		if err != nil {
			got = -1
		}
		if got != c.want {
			t.Errorf("%q: got %d, %v, want %d", c.in, got, err, c.want)
		}
	}
}

func TestParseMemInfo(t *testing.T) {
	for _, c := range []struct {
		name, in string
		want     memInfo
	}{
		{"kilobytes are 1024 bytes", "MemTotal: 8 kB\nMemFree:\t4 kB\nMemAvailable:   6 kB\nSwapTotal: 2 kB\nSwapFree: 1 kB\n", memInfo{8192, 4096, 6144, 2048, 1024, 31}},
		{"another unit is not taken for kilobytes", "MemTotal: 8 MB\nMemFree: 4\n", memInfo{}},
		{"a value beyond 63 bits of bytes", "MemTotal: 9007199254740992 kB\n", memInfo{}},
		{"a name that only begins alike", "MemTotalX: 8 kB\nXMemTotal: 8 kB\n", memInfo{}},
		{"no colon", "MemTotal 8 kB\n", memInfo{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := parseMemInfo([]byte(c.in)); got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestParseDiskLine(t *testing.T) {
	name, d, ok := parseDiskLine([]byte("   8       0 sda 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17"))
	if want := (diskStats{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}); string(name) != "sda" || d != want || !ok {
		t.Errorf("got %q %+v %t, want sda %+v", name, d, ok, want)
	}
	for _, in := range []string{"", "8 0", "8 0 sda", "8 1 sda1 1 2 3 4", "8 0 sda 1 2 3 4 5 6 7 8 9 10 x"} {
		if _, _, ok := parseDiskLine([]byte(in)); ok {
			t.Errorf("%q: got a disk, want none", in)
		}
	}
}

func TestParseNetDevLine(t *testing.T) {
	for _, in := range []string{"  eth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16", "eth0:1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16"} {
		name, s, ok := parseNetDevLine([]byte(in))
		if want := (linkStats{1, 2, 3, 4, 9, 10, 11, 12}); string(name) != "eth0" || s != want || !ok {
			t.Errorf("%q: got %q %+v %t, want eth0 %+v", in, name, s, ok, want)
		}
	}
	for _, in := range []string{
		"", "Inter-|   Receive                                                |  Transmit",
		" face |bytes    packets errs drop fifo frame compressed multicast|bytes", "eth0: 1 2 3", ": 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16",
	} {
		if _, _, ok := parseNetDevLine([]byte(in)); ok {
			t.Errorf("%q: got an interface, want none", in)
		}
	}
}

func TestParseLoad(t *testing.T) {
	if got, err := parseLoad([]byte("1.25 0.50 12.00 3/1234 5678\n")); err != nil || got != (LoadMetrics{1.25, 0.5, 12}) {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, in := range []string{"", "1 2", "1 x 3", "-1 2 3", "NaN 2 3", "1 2 Inf"} {
		if got, err := parseLoad([]byte(in)); err == nil {
			t.Errorf("%q: got %+v, want an error", in, got)
		}
	}
}

func TestParseMounts(t *testing.T) {
	const in = `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
37 35 8:1 / /a\040b\134c rw - ext4 /dev/disk\040one rw
38 35 0:5 / /none rw - tmpfs
not a mount
39 35 0:5 / - x
40 35 0:6 /docker/1 /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct`
	want := []mount{
		{"98:0", "/mnt1", "/mnt2", "ext3", "/dev/root", "rw,errors=continue"},
		{"8:1", "/", `/a b\c`, "ext4", "/dev/disk one", "rw"},
		{"0:5", "/", "/none", "tmpfs", "", ""},
		{"0:6", "/docker/1", "/sys/fs/cgroup/cpu", "cgroup", "cgroup", "rw,cpu,cpuacct"},
	}
	if got := parseMounts([]byte(in)); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestOccupied(t *testing.T) {
	for _, c := range []struct {
		name         string
		blocks, free uint64
		size, want   int64
	}{
		{"the root's reserve is not occupied: bfree and not bavail counts", 1000, 300, 4096, 700 * 4096},
		{"more is free than there is", 10, 11, 4096, -1},
		{"no block size", 10, 1, 0, -1},
		{"beyond 63 bits", math.MaxUint64, 0, 4096, -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, ok := occupied(c.blocks, c.free, c.size)
			if !ok {
				got = -1
			}
			if got != c.want {
				t.Errorf("got %d, want %d", got, c.want)
			}
		})
	}
}

// message builds a netlink message with a payload of 4-byte aligned parts.
func message(kind, flags uint16, seq uint32, payload []byte) []byte {
	b := make([]byte, unix.NLMSG_HDRLEN, unix.NLMSG_HDRLEN+len(payload))
	binary.NativeEndian.PutUint32(b, uint32(unix.NLMSG_HDRLEN+len(payload)))
	binary.NativeEndian.PutUint16(b[4:], kind)
	binary.NativeEndian.PutUint16(b[6:], flags)
	binary.NativeEndian.PutUint32(b[8:], seq)
	return append(b, payload...)
}

// statsPayload is an RTM_NEWSTATS payload: another attribute first, then the
// counters 100, 101, 102 … of struct rtnl_link_stats64.
func statsPayload(ifindex uint32) []byte {
	b := make([]byte, ifStatsMsgBytes)
	binary.NativeEndian.PutUint32(b[4:], ifindex)
	attribute := func(kind uint16, v []byte) {
		b = binary.NativeEndian.AppendUint16(b, uint16(4+len(v)))
		b = binary.NativeEndian.AppendUint16(b, kind)
		b = append(b, v...)
		for len(b)%4 != 0 {
			b = append(b, 0)
		}
	}
	attribute(9, []byte{1, 2, 3, 4, 5})
	var v []byte
	for i := range uint64(25) {
		v = binary.NativeEndian.AppendUint64(v, 100+i)
	}
	attribute(iflaStatsLink64, v)
	return b
}

func code(n int32) []byte { return binary.NativeEndian.AppendUint32(nil, uint32(n)) }

func TestWalkStats(t *testing.T) {
	stats := func(seq uint32, flags uint16) []byte { return message(unix.RTM_NEWSTATS, flags, seq, statsPayload(7)) }
	join := func(b ...[]byte) []byte { return bytes.Join(b, nil) }
	for _, c := range []struct {
		name        string
		in          []byte
		links       int
		done, inter bool
		err         error
	}{
		{"an interface and the end", join(stats(5, 0), message(unix.NLMSG_DONE, 0, 5, code(0))), 1, true, false, nil},
		{"a part of the dump", join(stats(5, 0), stats(5, 0)), 2, false, false, nil},
		{"the late answer to an earlier request is passed over", join(stats(4, 0), message(unix.NLMSG_DONE, 0, 4, code(0)), stats(5, 0)), 1, false, false, nil},
		{"interfaces changed meanwhile", join(stats(5, unix.NLM_F_DUMP_INTR), message(unix.NLMSG_DONE, 0, 5, nil)), 1, true, true, nil},
		{"the kernel does not know the request", message(unix.NLMSG_ERROR, 0, 5, code(-int32(unix.EOPNOTSUPP))), 0, false, false, unix.EOPNOTSUPP},
		{"the dump breaks off", message(unix.NLMSG_DONE, 0, 5, code(-int32(unix.ENOMEM))), 0, false, false, unix.ENOMEM},
		{"an error without its number", message(unix.NLMSG_ERROR, 0, 5, nil), 0, false, false, errNetlink},
		{"a message that is longer than what came", stats(5, 0)[:40], 0, false, false, errNetlink},
		{"a message shorter than its header", message(0, 0, 5, nil)[:8], 0, false, false, errNetlink},
		{"an answer without counters", message(unix.RTM_NEWSTATS, 0, 5, make([]byte, ifStatsMsgBytes)), 0, false, false, nil},
		{"nothing", nil, 0, false, false, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			links := 0
			done, inter, err := walkStats(c.in, 5, func(ifindex uint32, s linkStats) {
				links++
				if want := (linkStats{102, 100, 104, 106 + 115, 103, 101, 105, 107}); ifindex != 7 || s != want {
					t.Errorf("got interface %d with %+v, want 7 with %+v", ifindex, s, want)
				}
			})
			if links != c.links || done != c.done || inter != c.inter || !errors.Is(err, c.err) {
				t.Errorf("got %d links, done %t, interrupted %t, %v, want %d, %t, %t, %v", links, done, inter, err, c.links, c.done, c.inter, c.err)
			}
		})
	}
}

func TestParseSMI(t *testing.T) {
	got := parseSMI([]byte("00000000:3B:00.0, GPU-1, Tesla T4, 12, 100, 15360, 40, 27.5\n" +
		"00000001:AF:00.0, [Unknown Error], [N/A], [N/A], [N/A], 15360, [Not Supported], N/A\n" +
		"GPU is lost\n, , , , , , , \nzz:00:00.0, a, b, 1, 2, 3, 4, 5\n"))
	if len(got) != 2 {
		t.Fatalf("got %d GPUs, want 2: %+v", len(got), got)
	}
	one := got["0000:3b:00.0"]
	if *one.uuid != "GPU-1" || *one.model != "Tesla T4" || *one.busyPercent != 12 || *one.memoryUsed != 100<<20 || *one.memoryTotal != 15360<<20 || *one.celsius != 40 || *one.watts != 27.5 {
		t.Errorf("got %+v", one)
	}
	two := got["0001:af:00.0"]
	if two.uuid != nil || two.model != nil || two.busyPercent != nil || two.memoryUsed != nil || *two.memoryTotal != 15360<<20 || two.celsius != nil || two.watts != nil {
		t.Errorf("got %+v, want the total of memory alone", two)
	}
}

// FuzzParsers feeds every parser of the kernel's and the driver's formats.
// None may fail in another way than by saying so, and what it says must be
// possible.
func FuzzParsers(f *testing.F) {
	f.Add([]byte("cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 1 2 3 4\n"))
	f.Add([]byte("MemTotal: 8 kB\nMemAvailable: 4 kB\n"))
	f.Add([]byte("   8       0 sda 1 2 3 4 5 6 7 8 9 10 11\n"))
	f.Add([]byte("  eth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n"))
	f.Add([]byte("0-3,6\n"))
	f.Add([]byte("1.25 0.50 12.00 3/1234 5678\n"))
	f.Add([]byte(`37 35 8:1 / /a\040b\134c\777 rw - ext4 /dev/sda1 rw`))
	f.Add([]byte("00000000:3B:00.0, GPU-1, Tesla T4, 12, 100, 15360, 40, 27.5\n"))
	f.Add(message(unix.RTM_NEWSTATS, 0, 5, statsPayload(7)))
	f.Add([]byte("18446744073709551615 18446744073709551616"))
	f.Fuzz(func(t *testing.T, b []byte) {
		before := bytes.Clone(b)
		if c, err := parseStat(b); err == nil && bytes.IndexByte(b, ' ') < 0 {
			t.Errorf("parseStat found %+v in one word", c)
		}
		if n := countCPUs(b); n < 0 || n > int64(bytes.Count(b, []byte("cpu"))) {
			t.Errorf("countCPUs: %d", n)
		}
		if n, err := parseCPUList(b); err == nil && (n < 1 || n > 2<<20) {
			t.Errorf("parseCPUList: %d", n)
		}
		m := parseMemInfo(b)
		for _, v := range []uint64{m.total, m.free, m.available, m.swapTotal, m.swapFree} {
			if v > math.MaxInt64 {
				t.Errorf("parseMemInfo: %+v", m)
			}
		}
		for rest := b; len(rest) > 0; {
			var line []byte
			line, rest = cutLine(rest)
			if name, _, ok := parseDiskLine(line); ok && (len(name) == 0 || bytes.ContainsAny(name, " \t")) {
				t.Errorf("parseDiskLine: name %q", name)
			}
			if name, _, ok := parseNetDevLine(line); ok && len(name) == 0 {
				t.Error("parseNetDevLine: no name")
			}
		}
		if l, err := parseLoad(b); err == nil && (l.Load1 < 0 || l.Load5 < 0 || l.Load15 < 0) {
			t.Errorf("parseLoad: %+v", l)
		}
		for _, m := range parseMounts(b) {
			if m.device == "" || m.point == "" || m.fstype == "" {
				t.Errorf("parseMounts: %+v", m)
			}
		}
		for address, d := range parseSMI(b) {
			gpuMetrics(0, gpuDevice{address: address}, d)
		}
		if _, _, err := walkStats(b, 5, func(uint32, linkStats) {}); err != nil && len(b) == 0 {
			t.Error(err)
		}
		if n, rest, ok := cutUint(b); ok && !strings.HasPrefix(string(b), string(b[:len(b)-len(rest)])) {
			t.Errorf("cutUint: %d", n)
		}
		if !bytes.Equal(b, before) {
			t.Error("a parser changed its input")
		}
	})
}
