package sampler

import (
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"example.org/odometer"
	"golang.org/x/sys/unix"
)

// TestVMTrees reads one machine, process 100, on hosts of every layout of
// cgroups.
func TestVMTrees(t *testing.T) {
	const own = (100 + 20) * 1e7 // of the process, in ticks
	const boot = "11111111-2222-3333-4444-555555555555"
	for _, c := range []struct {
		tree     string
		cpu      uint64
		from     cpuSource
		within   string // the cgroup, below where it is mounted
		problems map[string]string
	}{
		{tree: "libvirt-v2", cpu: 5e9, within: `machine.slice/machine-qemu\x2d3\x2dweb.scope`},
		{tree: "libvirt-v1", cpu: 7e9, within: "machine/qemu-1-web.libvirt-qemu"},
		{tree: "libvirt-hybrid", cpu: 8000000001, within: `machine.slice/machine-qemu\x2d3\x2dweb.scope`},
		{tree: "jailer", cpu: 3e9, within: "firecracker/web"},
		{tree: "unit", cpu: 3.5e9, within: "system.slice/web.service"},
		{tree: "shell", cpu: own, from: cpuFromStat},
		{tree: "root", cpu: own, from: cpuFromStat},
		{tree: "namespace", cpu: own, from: cpuFromStat},
		{tree: "subtree", cpu: 2.5e9, within: "compute"},
		{tree: "garbage", problems: map[string]string{
			"cpu": "no usage_usec in it", "disks": "not a number", "memory": "not a number",
		}},
	} {
		t.Run(c.tree, func(t *testing.T) {
			tr := newVMTree(t, c.tree)
			s := openVMs(t, func(o *VMsOptions) { o.Root, o.Clock = tr.root, tr })
			s.Update([]odometer.VM{{Instance: "vm-1", PID: 100, Run: "r", State: odometer.Running, VCPUs: 2, Memory: 1 << 30}})
			r := only(t, s)
			run := runOf(s)
			if run.cpuFrom != c.from || !strings.HasSuffix(filepath.Dir(run.cgroup.path), c.within) {
				t.Errorf("got source %d of %s, want %d of %s: %v", run.cpuFrom, run.cgroup.path, c.from, c.within, run.cgroupError)
			}
			if c.problems == nil {
				if got := cpuOf(r); got.Value != c.cpu || got.Born || !strings.HasPrefix(got.Incarnation, boot) {
					t.Errorf("processor time: got %+v, want %d", got, c.cpu)
				}
				if got := counter(r, odometer.DiskWrite, "").Value; got != 67383808 {
					t.Errorf("disk written: got %d", got)
				}
				if want := int64(200000+10000+2048) << 10; r.Gauges.Memory != want {
					t.Errorf("memory: got %d, want %d", r.Gauges.Memory, want)
				}
			} else if len(r.Counters) > 0 || r.Gauges.Memory != odometer.Unknown || r.Gauges.VCPUs != 2 {
				t.Errorf("got %+v, want what was told alone", r)
			}
			for _, st := range s.Sources() {
				if want := c.problems[st.Name]; !strings.Contains(st.Problem, want) || want == "" && st.Problem != "" && st.Name != "files" {
					t.Errorf("%s: got problem %q, want %q", st.Name, st.Problem, want)
				}
			}

			// It is gone, and its number is used again.
			tr.edit("proc/100/stat", " 5000 ", " 9000 ")
			if list := readings(t, s); len(list) > 0 {
				t.Errorf("got %+v of another process", list)
			}
			s.Update(nil)
			last := only(t, s)
			if !last.Final || c.problems == nil && cpuOf(last).Value != c.cpu {
				t.Errorf("got %+v, want its last", last)
			}
		})
	}
}

func newVMTree(t *testing.T, name string) *tree {
	t.Helper()
	tr := newTree(t, filepath.Join("..", "vms", name))
	if err := os.MkdirAll(filepath.Join(tr.root, "proc"), 0o755); err != nil {
		t.Fatal(err)
	}
	return tr
}

func TestParseProcessStat(t *testing.T) {
	const rest = " S 7 1 1 0 -1 4194560 1 0 0 0 123 45 0 0 20 0 4 0 98765 1000 200 1\n"
	for _, c := range []struct {
		name, in string
		want     processStat
		err      error
	}{
		{"a name with parentheses and spaces", "1 (a) S (b c)" + rest, processStat{7, 168, 98765}, nil},
		{"an empty name", "1 ()" + rest, processStat{7, 168, 98765}, nil},
		{"no name", "1 S 7 1", processStat{}, errProcessStat},
		{"too few fields", "1 (a) S 7 1 1 0 -1 4194560 1 0 0 0 123 45 0 0", processStat{}, errProcessStat},
		{"a negative number where none can be", "1 (a) S 7 1 1 0 -1 4194560 1 0 0 0 -5 45 0 0 20 0 4 0 98765 1", processStat{}, errProcessStat},
		{"more time than 64 bits hold", "1 (a) S 7 1 1 0 -1 4194560 1 0 0 0 18446744073709551615 1 0 0 20 0 4 0 98765 1", processStat{}, errTooMuch},
		{"nothing", "", processStat{}, errProcessStat},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := parseProcessStat([]byte(c.in))
			if err != c.err || err == nil && got != c.want {
				t.Errorf("got %+v, %v, want %+v, %v", got, err, c.want, c.err)
			}
		})
	}
}

func TestParseProcessFiles(t *testing.T) {
	for _, c := range []struct {
		name, in string
		parse    func([]byte) (uint64, error)
		want     uint64
		ok       bool
	}{
		{"cpuacct.usage", "5510615000\n", parseNumber, 5510615000, true},
		{"cpuacct.usage at its end", "18446744073709551615", parseNumber, math.MaxUint64, true},
		{"cpuacct.usage beyond 64 bits", "18446744073709551616\n", parseNumber, 0, false},
		{"a number and something else", "5 6\n", parseNumber, 0, false},
		{"an empty file", "", parseNumber, 0, false},
		{"cpu.stat in microseconds", "user_usec 1\nusage_usec 40243191091\nx 2\n", parseCPUStat, 40243191091000, true},
		{"cpu.stat without its sum", "user_usec 1\nsystem_usec 2\n", parseCPUStat, 0, false},
		{"cpu.stat whose sum is beyond 64 bits in nanoseconds", "usage_usec 18446744073709551\nuser_usec 1\n", parseCPUStat, 18446744073709551000, true},
		{"cpu.stat whose sum is beyond that", "usage_usec 18446744073709552\n", parseCPUStat, 0, false},
		{"io", "rchar: 1\nread_bytes: 5\nwrite_bytes: 7\ncancelled_write_bytes: 9\n", sumIO, 12, true},
		{"io without one half", "read_bytes: 5\n", sumIO, 0, false},
		{"io with rubbish", "read_bytes: 5 kB\nwrite_bytes: 7\n", sumIO, 0, false},
		{"status", "RssAnon:\t 100 kB\nRssFile:\t 7 kB\nRssShmem:\t 20 kB\nHugetlbPages:\t 4 kB\n", memoryOf, 124 << 10, true},
		{"status of a kernel thread", "Name: kswapd\nThreads: 1\n", memoryOf, 0, false},
		{"status in another unit", "RssAnon: 100 MB\n", memoryOf, 0, false},
		{"status with more than there can be", "RssAnon: 18446744073709551 kB\n", memoryOf, 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := c.parse([]byte(c.in))
			if (err == nil) != c.ok || c.ok && got != c.want {
				t.Errorf("got %d, %v, want %d, ok %t", got, err, c.want, c.ok)
			}
		})
	}
}

func sumIO(b []byte) (uint64, error) {
	r, w, err := parseProcessIO(b)
	return r + w, err
}

func memoryOf(b []byte) (uint64, error) {
	n, _, err := parseProcessStatus(b)
	return uint64(n), err
}

func TestCgroupOf(t *testing.T) {
	const list = "9:name=systemd:/a\n4:cpu,cpuacct:/b:c/d\n3:cpuset:/e\n0::/f g\n"
	for _, c := range []struct {
		controller, want string
		ok               bool
	}{
		{"cpuacct", "/b:c/d", true}, {"cpu", "/b:c/d", true}, {"cpuset", "/e", true}, {"", "/f g", true},
		{"memory", "", false}, {"name=systemd", "/a", true}, {"cpua", "", false},
	} {
		if got, ok := cgroupOf([]byte(list), c.controller); got != c.want || ok != c.ok {
			t.Errorf("%q: got %q, %t, want %q, %t", c.controller, got, ok, c.want, c.ok)
		}
	}
	for path, want := range map[string]string{
		`/machine.slice/machine-qemu\x2d1\x2da.scope/libvirt/vcpu0`: `/machine.slice/machine-qemu\x2d1\x2da.scope`,
		"/machine/qemu-1-a.libvirt-qemu":                            "/machine/qemu-1-a.libvirt-qemu",
		"/custom.partition/qemu-1-a.libvirt-qemu/emulator":          "/custom.partition/qemu-1-a.libvirt-qemu",
		"/system.slice/qemu-1-a.service":                            "",
		"/":                                                         "",
		"":                                                          "",
	} {
		if got, ok := libvirtCgroup(path); got != want || ok != (want != "") {
			t.Errorf("%q: got %q, %t, want %q", path, got, ok, want)
		}
	}
}

// linkPayload is what the kernel says of a tap that has counted.
func linkPayload(index uint32, rx, tx uint64, persist byte) []byte {
	b := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(b[4:], index)
	stats := make([]byte, 25*8)
	binary.NativeEndian.PutUint64(stats[16:], rx)
	binary.NativeEndian.PutUint64(stats[24:], tx)
	b = append(b, attribute(unix.IFLA_IFNAME, []byte("tap0\x00"))...)
	b = append(b, attribute(unix.IFLA_STATS64, stats)...)
	info := append(attribute(unix.IFLA_INFO_KIND, []byte("tun\x00")), attribute(unix.IFLA_INFO_DATA, attribute(unix.IFLA_TUN_PERSIST, []byte{persist}))...)
	return append(b, attribute(unix.IFLA_LINKINFO, info)...)
}

func TestParseLinkMsg(t *testing.T) {
	for _, c := range []struct {
		name string
		in   []byte
		want linkInfo
		ok   bool
	}{
		{"a tap that ends with its process", linkPayload(7, 1, 2, 0), linkInfo{index: 7, kind: "tun", fleeting: true, known: true, stats: linkStats{rxBytes: 1, txBytes: 2}}, true},
		{"a tap that stays", linkPayload(7, 1, 2, 1), linkInfo{index: 7, kind: "tun", known: true, stats: linkStats{rxBytes: 1, txBytes: 2}}, true},
		{"an interface of which nothing is told", make([]byte, unix.SizeofIfInfomsg), linkInfo{}, true},
		{"a message that is cut off", linkPayload(7, 1, 2, 0)[:60], linkInfo{}, false},
		{"too short for anything", []byte{1, 2}, linkInfo{}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, ok := parseLinkMsg(c.in)
			if ok != c.ok || ok && !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %+v, %t, want %+v, %t", got, ok, c.want, c.ok)
			}
		})
	}
}

// taskPayload is what taskstats says of a process.
func taskPayload(kind uint16, id uint32, cpu uint64) []byte {
	stats := make([]byte, 328)
	binary.NativeEndian.PutUint64(stats[taskVirtualAt:], cpu)
	return taskMessage(kind, id, stats)
}

func taskMessage(kind uint16, id uint32, stats []byte) []byte {
	inner := append(attribute(kind-unix.TASKSTATS_TYPE_AGGR_PID+unix.TASKSTATS_TYPE_PID, binary.NativeEndian.AppendUint32(nil, id)), attribute(unix.TASKSTATS_TYPE_STATS, stats)...)
	return attribute(kind, inner)
}

func TestWalkTask(t *testing.T) {
	b := make([]byte, unix.GENL_HDRLEN)
	b = append(b, taskPayload(unix.TASKSTATS_TYPE_AGGR_PID, 5, 100)...)
	b = append(b, taskPayload(unix.TASKSTATS_TYPE_AGGR_TGID, 4, 300)...)
	var got []taskExit
	walkTask(b, func(e taskExit) { got = append(got, e) })
	if want := []taskExit{{id: 5, cpu: 100}, {id: 4, group: true, cpu: 300}}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	got = nil
	stats := make([]byte, 480)
	for at, n := range map[int]uint64{0: 16, taskVirtualAt: 7, taskReadAt: 8, taskReadAt + 8: 9, taskProcessAt: 3} {
		binary.NativeEndian.PutUint64(stats[at:], n)
	}
	walkTask(append(make([]byte, unix.GENL_HDRLEN), taskMessage(unix.TASKSTATS_TYPE_AGGR_PID, 5, stats)...), func(e taskExit) { got = append(got, e) })
	if want := []taskExit{{id: 5, cpu: 7, process: 3, read: 8, wrote: 9}}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	got = nil
	binary.NativeEndian.PutUint64(stats, taskShifted)
	walkTask(append(make([]byte, unix.GENL_HDRLEN), taskMessage(unix.TASKSTATS_TYPE_AGGR_PID, 5, stats)...), func(e taskExit) { got = append(got, e) })
	if len(got) > 0 {
		t.Errorf("got %+v of Linux 6.14, where the fields lie elsewhere", got)
	}
	got = nil
	walkTask(b[:40], func(e taskExit) { got = append(got, e) })
	if len(got) > 0 {
		t.Errorf("got %+v of a message that is cut off", got)
	}
}

// FuzzVMParsers feeds every parser of what the kernel tells of one process,
// cgroup or interface. None may fail in another way than by saying so.
func FuzzVMParsers(f *testing.F) {
	f.Add([]byte("usage_usec 40243191091\nuser_usec 5\n"))
	f.Add([]byte("1 (a) S (b) S 7 1 1 0 -1 4194560 1 0 0 0 123 45 0 0 20 0 4 0 98765 1000 200 1\n"))
	f.Add([]byte("read_bytes: 5\nwrite_bytes: 7\n"))
	f.Add([]byte("RssAnon:\t 100 kB\nRssShmem:\t 20 kB\nHugetlbPages:\t 4 kB\n"))
	f.Add([]byte("4:cpu,cpuacct:/machine/qemu-1-a.libvirt-qemu/emulator\n0::/../x\n"))
	f.Add(linkPayload(7, 1, 2, 0))
	f.Add(message(unix.RTM_DELLINK, 0, 0, linkPayload(7, 1, 2, 1)))
	f.Add(append(make([]byte, unix.GENL_HDRLEN), taskPayload(unix.TASKSTATS_TYPE_AGGR_TGID, 4, 300)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		before := strings.Clone(string(b))
		if n, err := parseCPUStat(b); err == nil && n%1000 != 0 {
			t.Errorf("parseCPUStat: %d is no whole number of microseconds", n)
		}
		if _, err := parseNumber(b); err == nil && !strings.ContainsAny(string(b), "0123456789") {
			t.Error("parseNumber found a number where there is no digit")
		}
		if _, err := parseProcessStat(b); err == nil && !strings.Contains(string(b), ")") {
			t.Error("parseProcessStat found a process without a name")
		}
		if n, swapped, err := parseProcessStatus(b); err == nil && (n < 0 || swapped < 0) {
			t.Errorf("parseProcessStatus: %d %d", n, swapped)
		}
		_, _, _ = parseProcessIO(b)
		for _, controller := range []string{"", "cpuacct"} {
			path, ok := cgroupOf(b, controller)
			if ok && !strings.HasPrefix(path, "/") {
				t.Errorf("cgroupOf: %q", path)
			}
			if own, ok := libvirtCgroup(path); ok && !strings.HasPrefix(path, own) {
				t.Errorf("libvirtCgroup: %q of %q", own, path)
			}
			h := hierarchy{root: "/", point: "/sys/fs/cgroup"}
			if dir, ok := h.dir("/r", path); ok && !strings.HasPrefix(dir, "/r/sys/fs/cgroup") {
				t.Errorf("the cgroup %q is said to be %q", path, dir)
			}
		}
		parseLinkMsg(b)
		walkTask(b, func(taskExit) {})
		for rest := b; ; {
			_, payload, more, ok := cutMessage(rest)
			if !ok {
				break
			}
			parseLinkMsg(payload)
			walkTask(payload, func(taskExit) {})
			rest = more
		}
		if string(b) != before {
			t.Error("a parser changed its input")
		}
	})
}
