package inventory

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.org/odometer"
)

// served is the directory of a process that answers at an API socket.
type served struct {
	t   *testing.T
	dir string
}

func (s served) answer(path string, b []byte) {
	s.t.Helper()
	dir := filepath.Join(s.dir, path)
	err := os.MkdirAll(dir, 0o755)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "new"), b, 0o600)
	}
	if err == nil {
		err = os.Rename(filepath.Join(dir, "new"), filepath.Join(dir, "answer"))
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// fixture is an answer as the hypervisor writes it, of images that are here.
func (s served) fixture(name string) []byte {
	s.t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata/api", name))
	if err != nil {
		s.t.Fatal(err)
	}
	for _, image := range []string{"root.raw", "data.raw"} {
		path := filepath.Join(s.dir, image)
		err := os.WriteFile(path, nil, 0o600)
		if err == nil {
			err = os.Truncate(path, 1<<20)
		}
		if err != nil {
			s.t.Fatal(err)
		}
		b = bytes.ReplaceAll(b, []byte(`"`+image), []byte(`"`+path))
	}
	return b
}

func made(t *testing.T, v *odometer.VM) string {
	t.Helper()
	if v == nil {
		t.Fatal("it is not found")
	}
	s := fmt.Sprintf("%s %d vCPUs %d MiB", v.State, v.VCPUs, v.Memory>>20)
	for _, d := range v.Disks {
		s += fmt.Sprintf("; disk %s %s %d", d.Name, filepath.Base(d.Path), d.Provisioned>>10)
	}
	for _, n := range v.NICs {
		s += fmt.Sprintf("; nic %s %s %s", n.Name, n.Link, n.MAC)
	}
	return s
}

// TestCloudHypervisorIsFollowed has a process that looks like one answer what
// Cloud Hypervisor does.
func TestCloudHypervisorIsFollowed(t *testing.T) {
	needsRoot(t)
	s := served{t, t.TempDir()}
	info := s.fixture("cloud-hypervisor.json")
	s.answer("/api/v1/vm.info", info)
	f := follow(t)
	tap := fmt.Sprintf("odoh%d", os.Getpid()%100000)
	a := act(t, serves+s.dir, "cloud-hypervisor", "--api-socket", filepath.Join(s.dir, "web.sock"), "--kernel", "/boot/vmlinux", "--cpus", "boot=2,max=8",
		"--memory", "size=1G,hotplug_size=3G", "--disk", "path="+filepath.Join(s.dir, "root.raw"), "path="+filepath.Join(s.dir, "data.raw")+",readonly=on,id=data",
		"--net", "mac=12:34:56:78:90:ab", "tap=chtap1", "--device", "path=/sys/bus/pci/devices/0000:41:00.0,id=gpu0")
	const id = "host-1:web"
	f.happens(id, func() {}, "started")
	f.until(id, "its answer", func(v *odometer.VM) bool { return len(v.NICs) == 2 && v.NICs[1].MAC != "" })
	if got, want := made(t, f.vm(id)), "running 2 vCPUs 1024 MiB; disk disk0 root.raw 1024; disk data data.raw 1024; nic net0  12:34:56:78:90:ab; nic net1 chtap1 12:34:56:78:90:ac"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	change := func(from, to string) func() {
		return func() {
			t.Helper()
			if !bytes.Contains(info, []byte(from)) {
				t.Fatalf("no %s", from)
			}
			info = bytes.ReplaceAll(info, []byte(from), []byte(to))
			s.answer("/api/v1/vm.info", info)
		}
	}
	f.happens(id, change(`"Running"`, `"Paused"`), "paused")
	f.happens(id, change(`"Paused"`, `"Running"`), "resumed")
	f.happens(id, change(`"boot_vcpus": 2`, `"boot_vcpus": 4`), "resized 2 to 4 vCPUs")
	f.happens(id, change(`"hotplugged_size": null`, `"hotplugged_size": 1073741824`), "resized 1 GiB to 2 GiB of memory")
	change(`"memory_actual_size": 1073741824`, `"memory_actual_size": 1610612736`)()
	f.until(id, "the balloon", func(v *odometer.VM) bool { return v.Memory == 2<<30 && v.Ballooned == 512<<20 })
	f.happens(id, change(`"id": "data"`, `"id": "other"`), "device_removed data file, 1 MiB", "device_added other file, 1 MiB")
	f.happens(id, change(`"tap": "chtap1"`, `"tap": "`+tap+`"`), "device_removed net1 tap chtap1", "device_added _net2 tap "+tap)
	if err := os.Remove(filepath.Join(s.dir, "api/v1/vm.info/answer")); err != nil {
		t.Fatal(err)
	}
	f.problemWith(a.Process.Pid, "it answers 500")
	if v := f.vm(id); v.VCPUs != 4 {
		t.Errorf("got %+v, want what it said before", v)
	}
}

// TestFirecrackerIsFollowed has a process answer what a Firecracker does that
// was configured over its API.
func TestFirecrackerIsFollowed(t *testing.T) {
	needsRoot(t)
	s := served{t, t.TempDir()}
	config := s.fixture("firecracker.json")
	state := func(name string) func() {
		return func() {
			s.answer("/", fmt.Appendf(nil, `{"id": "micro", "state": %q, "vmm_version": "1.10.1", "app_name": "Firecracker"}`, name))
		}
	}
	state("Not started")()
	s.answer("/vm/config", config)
	f := follow(t)
	act(t, serves+s.dir, "firecracker", "--id", "micro", "--api-sock", filepath.Join(s.dir, "s"))
	const id = "host-1:micro"
	f.happens(id, func() {}, "started", "paused")
	f.happens(id, state("Running"), "resumed")
	if got, want := made(t, f.vm(id)), "running 2 vCPUs 256 MiB; disk rootfs root.raw 1024; nic eth0 fctap0 06:00:ac:10:00:02"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	f.problem(f.vm(id).PID, "")
	f.happens(id, state("Paused"), "paused")
	f.happens(id, func() {
		s.answer("/vm/config", bytes.Replace(config, []byte(`root.raw`), []byte(`data.raw`), 1))
	}, "device_removed rootfs file, 1 MiB", "device_added rootfs file, 1 MiB")
}

func TestWhatIsNoAPI(t *testing.T) {
	answer := func(text string) func(net.Conn) {
		return func(c net.Conn) {
			c.Read(make([]byte, 4096))
			io.WriteString(c, text)
		}
	}
	body := func(s string) string {
		return fmt.Sprintf("HTTP/1.1 200 \r\nContent-Length: %d\r\n\r\n%s", len(s), s)
	}
	for _, c := range []struct {
		name, want string
		serve      func(net.Conn)
	}{
		{"nobody accepts", "it does not answer", nil},
		{"it says nothing", "it does not answer", func(c net.Conn) { io.Copy(io.Discard, c) }},
		{"it closes", "its socket: GET /", func(net.Conn) {}},
		{"it speaks otherwise", "malformed HTTP", answer("SSH-2.0\r\n\r\n")},
		{"an answer without an end", "unexpected EOF", answer("HTTP/1.1 200 \r\nContent-Length: 10\r\n\r\n{")},
		{"an answer that is too long", "more than 4194304 bytes", answer(body(strings.Repeat(" ", maxAnswer+1)))},
		{"garbage", "invalid character", answer(body("nonsense"))},
		{"a refusal", `it answers 404: "no such machine"`, answer("HTTP/1.1 404 Not Found\r\nContent-Length: 15\r\n\r\nno such machine")},
		{"a state that is not known", `the state of its machine is "Odd"`, answer(body(`{"state": "Odd"}`))},
	} {
		t.Run(c.name, func(t *testing.T) {
			for name, describe := range map[string]func(*control) time.Duration{
				"Cloud Hypervisor": func(a *control) time.Duration {
					return askAPI(describeCloud(newGuest(cloudHypervisor)))(t.Context(), a)
				},
				"Firecracker": func(a *control) time.Duration { return askAPI(describeFirecracker)(t.Context(), a) },
			} {
				a, _ := asker(t, server(t, c.serve), nil)
				if c.want != "it does not answer" {
					a.pace.patience = time.Minute
				}
				if again := describe(a); again < retryFirst || !strings.Contains(a.problem, c.want) || a.now != nil {
					t.Errorf("%s: got problem %q and %v, want %q", name, a.problem, again, c.want)
				}
			}
		})
	}
}

// TestWhatAnAPIDoesNotTell stays unknown.
func TestWhatAnAPIDoesNotTell(t *testing.T) {
	info := cloudInfo{State: "Created"}
	g, state, err := info.machine(newGuest(cloudHypervisor))
	if err != nil || state != odometer.Paused || g.vcpus != odometer.Unknown || g.memory != odometer.Unknown || devicesOf(g) != "" {
		t.Errorf("got %+v, %s, %v", g, state, err)
	}
}

// FuzzVMInfo reads any answer of Cloud Hypervisor's, of a machine whose command
// line has a device of each kind.
func FuzzVMInfo(f *testing.F) {
	b, err := os.ReadFile("testdata/api/cloud-hypervisor.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"state": "Created", "config": {"disks": [{"id": "_"}], "net": null, "devices": [{"path": "/x"}]}}`))
	command := recognise([]string{"cloud-hypervisor", "--kernel", "k", "--disk", "path=root.raw", "--net", "tap=chtap1", "--device", "path=/x"}, "")
	f.Fuzz(func(t *testing.T, b []byte) {
		var info cloudInfo
		if json.Unmarshal(b, &info) != nil {
			return
		}
		g, state, err := info.machine(command)
		if err != nil {
			return
		}
		if state == "" || g.vcpus < odometer.Unknown || g.memory < odometer.Unknown ||
			len(g.disks) != len(info.Config.Disks) || len(g.nics) != len(info.Config.Nets) || len(g.devices) != len(info.Config.Devices) {
			t.Errorf("got %s %+v from %q", state, g, b)
		}
		(&live{whole: g}).over(command)
	})
}
