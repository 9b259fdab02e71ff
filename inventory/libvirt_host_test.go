package inventory

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"example.org/odometer"
)

const someID = odometer.InstanceID("1f7c2b94-58a6-4a0e-8d0c-6e8f0b1d2c3a")

// procStat is a process's stat with its start at the given tick.
func libvirtStat(name, start string) string {
	return "4711 (" + name + ") S 1 4711 4711 0 -1 4194624 1 2 3 4 5 6 7 8 20 0 3 0 " + start + " 1464448 12484 18446744073709551615\n"
}

func TestHypervisorOfADomain(t *testing.T) {
	qemu := strings.Join([]string{"/usr/bin/qemu-system-x86_64", "-name", "guest=web,debug-threads=on", "-S", "-uuid", strings.ToUpper(string(someID)), ""}, "\x00")
	for name, c := range map[string]struct {
		pid, stat, cmdline string
		problem            string // "" where it is found
	}{
		"the process that the file names": {pid: "4711\n", stat: libvirtStat("qemu-system-x86", "3378500"), cmdline: qemu},
		"a name with blanks and brackets": {pid: "4711", stat: libvirtStat("a) S 1 (b c", "3378500"), cmdline: qemu},
		"a hypervisor that has no UUID on its command line is known by its name": {
			pid: "4711", stat: libvirtStat("qemu-kvm", "3378500"), cmdline: "qemu-kvm\x00-name\x00guest=web,debug-threads=on\x00"},
		"no file":                         {problem: "find the process of domain web: open "},
		"an empty file":                   {pid: "\n", problem: "no process id in"},
		"a file with something else":      {pid: "-1", problem: "no process id in"},
		"process 0":                       {pid: "0", problem: "no process id in"},
		"a process that has gone":         {pid: "4711", problem: "4711/stat: no such file or directory"},
		"a stat that is cut short":        {pid: "4711", stat: "4711 (qemu) S 1", cmdline: qemu, problem: "its stat is cut short"},
		"a stat without a name":           {pid: "4711", stat: strings.Repeat("1 ", 52), cmdline: qemu, problem: "its stat is cut short"},
		"a start that is no number":       {pid: "4711", stat: libvirtStat("q", "x"), cmdline: qemu, problem: "invalid syntax"},
		"no command line":                 {pid: "4711", stat: libvirtStat("q", "1"), problem: "4711/cmdline: no such file or directory"},
		"the number is another's by now":  {pid: "4711", stat: libvirtStat("bash", "9"), cmdline: "bash\x00-c\x00guest=webserver", problem: "process 4711 is not its hypervisor"},
		"another domain of the same name": {pid: "4711", stat: libvirtStat("q", "9"), cmdline: "qemu\x00-name\x00guest=web\x00-uuid\x00" + strings.Replace(string(someID), "1", "2", 1), problem: "is not its hypervisor"},
		"a UUID that is cut off":          {pid: "4711", stat: libvirtStat("q", "9"), cmdline: "qemu\x00-uuid", problem: "is not its hypervisor"},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			h := libvirtHost{root: root, run: filepath.Join(root, "run")}
			for path, content := range map[string]string{"run/web.pid": c.pid, "proc/4711/stat": c.stat, "proc/4711/cmdline": c.cmdline} {
				if content == "" {
					continue
				}
				path = filepath.Join(root, path)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			got, err := h.find("web", someID)
			if c.problem != "" {
				if err == nil || !strings.Contains(err.Error(), c.problem) || got != (hypervisor{}) {
					t.Errorf("got %+v, %v; want %q", got, err, c.problem)
				}
				return
			}
			if want := (hypervisor{pid: 4711, start: 3378500}); err != nil || got != want {
				t.Errorf("got %+v, %v; want %+v", got, err, want)
			}
			if !h.alive(got) {
				t.Error("it is not alive")
			}
			got.start++
			if h.alive(got) {
				t.Error("one with another start is alive")
			}
		})
	}
}

// A process of this machine began between two looks at its clock.
func TestStartOfAProcess(t *testing.T) {
	before := hostNow().Boot
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	after := hostNow().Boot
	h := libvirtHost{root: "/"}
	start, err := h.started(cmd.Process.Pid)
	if got := int64(start) * tickMicros; err != nil || got < before-tickMicros || got > after {
		t.Errorf("got %d, %v; want between %d and %d", got, err, before, after)
	}
	if boot := h.bootID(); len(boot) != 36 {
		t.Errorf("got boot %q", boot)
	}
	if boot := (&libvirtHost{root: t.TempDir()}).bootID(); boot != "" {
		t.Errorf("got boot %q where there is none", boot)
	}
}

func FuzzStartTime(f *testing.F) {
	f.Add([]byte(libvirtStat("qemu", "3378500")))
	f.Add([]byte(libvirtStat(") (", "18446744073709551615")))
	f.Add([]byte(")"))
	f.Fuzz(func(t *testing.T, stat []byte) {
		n, err := startTime(stat)
		if err == nil && (n > 1<<63-1 || !strings.Contains(string(stat), fmt.Sprint(n))) {
			t.Errorf("got %d of %q", n, stat)
		}
	})
}
