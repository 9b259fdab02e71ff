package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"example.org/odometer"
	"example.org/odometer/internal/port"
)

// agentMemory measures the most memory that `odometer agent` had resident while
// it metered 1000 machines for a server until a period of each had its receipt,
// and what processor time it took meanwhile, its looks for machines that come
// and go included.
func agentMemory(b *bench) error {
	n, interval := 1000, tickPeriod
	if b.quick {
		n, interval = 50, time.Second
	}
	program, err := b.program()
	if err != nil {
		return err
	}
	p, err := b.newPark(n)
	if err != nil {
		return b.without("agent_1000", err)
	}
	return errors.Join(b.agentOf(program, p, interval), p.close())
}

func (b *bench) agentOf(program string, p *park, interval time.Duration) error {
	file, dir := b.place("vms.yaml"), b.place("data")
	if err := errors.Join(os.WriteFile(file, vmFile(p.vms), 0o600), os.Mkdir(dir, 0o700)); err != nil {
		return err
	}
	server, err := serving(program, dir)
	if err != nil {
		return err
	}
	defer server.kill()
	address, err := port.Free()
	if err != nil {
		return err
	}
	token, err := server.token()
	if err != nil {
		return err
	}
	a := &process{http: address}
	a.cmd = exec.Command(program, "agent", "--id", "bench", "--data-dir", filepath.Join(dir, "agent"),
		"--server", "http://"+server.http, "--token-file", filepath.Join(dir, "admin.token"), "--http", address,
		"--source", "vms", "--vm-file", file, "--interval", interval.String(), "--log-level", "error")
	a.cmd.Stderr = os.Stderr
	if err := a.cmd.Start(); err != nil {
		return err
	}
	defer a.kill()
	begin := time.Now()
	for {
		receipted, err := a.metric(token, "odometer_publisher_events_receipted_total")
		// Other records say that each was found and its epoch began.
		if err == nil && time.Since(begin) > interval+interval/3 && receipted >= 2*len(p.vms) {
			break
		}
		if time.Since(begin) > 3*interval+time.Minute {
			return errors.Join(fmt.Errorf("%d records of %d machines are receipted after %v", receipted, len(p.vms), time.Since(begin)), err)
		}
		time.Sleep(interval / 10) // seldom, since an answer costs the agent something, too
	}
	most, err := a.peak()
	if err != nil {
		return err
	}
	own, err := a.resident("RssFile")
	if err != nil {
		return err
	}
	samples, err := a.metric(token, "odometer_sampler_samples_total")
	if err != nil {
		return err
	}
	spent, err := a.spent()
	if err != nil {
		return err
	}
	b.cost("agent_1000_memory", float64(most)/(1<<20), "MiB", 0)
	b.cost("agent_1000_processor", 100*spent.Seconds()/time.Since(begin).Seconds(), "%", 0)
	b.note("agent_1000: %d MiB of it are the program's own file; %d readings in %v, the start included", own>>20, samples, time.Since(begin).Round(time.Second))
	return nil
}

// vmFile names machines in the form of --vm-file.
func vmFile(vms []odometer.VM) []byte {
	var text strings.Builder
	text.WriteString("vms:\n")
	for _, vm := range vms {
		fmt.Fprintf(&text, "  - {name: %q, id: %q, pid: %d, vcpus: %d, memory: %d, nics: [{name: %s, link: %s}]}\n",
			"m-"+vm.Run, vm.Instance, vm.PID, vm.VCPUs, vm.Memory, vm.NICs[0].Name, vm.NICs[0].Link)
	}
	return []byte(text.String())
}

// metric returns a figure of the program's GET /metrics.
func (p *process) metric(token, name string) (int, error) {
	request, err := http.NewRequest(http.MethodGet, "http://"+p.http+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	request.Header.Set("Authorization", "Bearer "+token)
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return 0, err
	}
	found := regexp.MustCompile(`(?m)^` + name + ` (\S+)$`).FindSubmatch(text)
	if found == nil {
		return 0, fmt.Errorf("GET /metrics: %s: no %s in it", answer.Status, name)
	}
	v, err := strconv.ParseFloat(string(found[1]), 64)
	return int(v), err
}

// spent returns the processor time of the program so far.
func (p *process) spent() (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	const tick = 10 * time.Millisecond // USER_HZ is 100
	_, rest, _ := strings.Cut(string(text), ") ")
	f := strings.Fields(rest) // from the third on, see proc_pid_stat(5)
	if len(f) < 13 {
		return 0, errors.New("/proc/PID/stat is too short")
	}
	user, err1 := strconv.Atoi(f[11])
	system, err2 := strconv.Atoi(f[12])
	return time.Duration(user+system) * tick, errors.Join(err1, err2)
}
