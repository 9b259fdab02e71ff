package inventory

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"example.org/odometer"
)

// Cloud Hypervisor and Firecracker serve HTTP at a unix socket, many clients and
// one request after the other. They tell nothing unasked.

// maxAnswer is more than a machine with hundreds of devices answers.
const maxAnswer = 4 << 20

// api asks one machine over HTTP.
type api struct {
	c      *control
	socket string
}

// get asks for one thing, over a connection of its own.
func (a api) get(ctx context.Context, path string, answer any) error {
	conn, err := a.c.dial(ctx, a.socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	conn.SetDeadline(deadline)
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost"+path, nil)
	if err != nil {
		return err
	}
	req.Close = true
	req.Header.Set("Accept", "application/json")
	if err = req.Write(conn); err == nil {
		err = read(conn, req, answer)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return errSilent
	}
	if err != nil {
		return fmt.Errorf("GET %s: %w", path, err)
	}
	return nil
}

func read(conn io.Reader, req *http.Request, answer any) error {
	res, err := http.ReadResponse(bufio.NewReader(conn), req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	switch {
	case err != nil:
		return err
	case len(b) > maxAnswer:
		return fmt.Errorf("it answers with more than %d bytes", maxAnswer)
	case res.StatusCode != http.StatusOK:
		return fmt.Errorf("it answers %d: %.200q", res.StatusCode, b)
	}
	return json.Unmarshal(b, answer)
}

// askAPI makes of what describes a machine what asks for that again and again.
func askAPI(describe func(context.Context, api) (*guest, odometer.State, error)) func(context.Context, *control) time.Duration {
	return func(ctx context.Context, c *control) time.Duration {
		limited, cancel := context.WithTimeout(ctx, c.pace.patience)
		defer cancel()
		g, state, err := describe(limited, api{c, c.sockets[0]})
		switch {
		case ctx.Err() != nil:
			return 0
		case errors.Is(err, errLine):
			return c.failed(errSilent)
		case err != nil:
			return c.failed(err)
		}
		c.answered(&live{whole: g}, state, 0) // no event is told
		return c.pace.ask
	}
}

// cloudInfo is the part of Cloud Hypervisor's answer to vm.info that matters
// here, see VmInfo in vmm/src/api/openapi/cloud-hypervisor.yaml of its source.
type cloudInfo struct {
	State  string `json:"state"`              // Created, Running, Shutdown, Paused, BreakPoint
	Actual *int64 `json:"memory_actual_size"` // what the balloon leaves
	Config struct {
		CPUs struct {
			Boot *int64 `json:"boot_vcpus"` // as many as there are now
		} `json:"cpus"`
		Memory cloudRAM `json:"memory"`
		Disks  []struct {
			ID       string `json:"id"`
			Path     string `json:"path"`
			ReadOnly bool   `json:"readonly"`
		} `json:"disks"`
		Nets []struct {
			ID        string `json:"id"`
			Tap       string `json:"tap"`
			MAC       string `json:"mac"`
			VhostUser bool   `json:"vhost_user"`
		} `json:"net"`
		Devices []struct {
			ID   string `json:"id"`
			Path string `json:"path"`
		} `json:"devices"`
	} `json:"config"`
}

// cloudRAM is what was given, with what was plugged in later.
type cloudRAM struct {
	Size       *int64     `json:"size"`
	Hotplugged *int64     `json:"hotplugged_size"`
	Zones      []cloudRAM `json:"zones"`
}

// bytes is the sum, [odometer.Unknown] where nothing tells it or it makes no
// sense.
func (m *cloudRAM) bytes() int64 {
	if m.Size == nil {
		return odometer.Unknown
	}
	sum := int64(0)
	add := func(n int64) {
		if n < 0 || n > 1<<60 || sum == odometer.Unknown {
			sum = odometer.Unknown
			return
		}
		sum += n
	}
	add(*m.Size)
	if m.Hotplugged != nil {
		add(*m.Hotplugged)
	}
	for i := range m.Zones {
		add(m.Zones[i].bytes())
	}
	return sum
}

// describeCloud asks Cloud Hypervisor. Its counters (vm.counters) are not
// asked for: the host's own are the same, and do not begin anew with a restore.
func describeCloud(command *guest) func(context.Context, api) (*guest, odometer.State, error) {
	return func(ctx context.Context, a api) (*guest, odometer.State, error) {
		var info cloudInfo
		if err := a.get(ctx, "/api/v1/vm.info", &info); err != nil {
			return nil, "", err
		}
		return info.machine(command)
	}
}

// machine is what the answer tells. A device keeps the name that it has by the
// command line, where it was given no id there: Cloud Hypervisor calls it by one
// that it made up, "_disk0".
func (info *cloudInfo) machine(command *guest) (*guest, odometer.State, error) {
	g := newGuest(cloudHypervisor)
	var state odometer.State
	switch info.State {
	case "Running", "BreakPoint":
		state = odometer.Running
	case "Created", "Paused", "Shutdown":
		state = odometer.Paused // its process is there, and no processor runs
	default:
		return nil, "", fmt.Errorf("the state of its machine is %q", info.State)
	}
	if n := info.Config.CPUs.Boot; n != nil && *n >= 0 {
		g.vcpus = *n
	}
	if n := info.Config.Memory.bytes(); n >= 0 {
		g.memory = n
		if left := info.Actual; left != nil && *left >= 0 {
			g.balloon = max(0, n-*left)
		}
	}
	disks := 0 // of the command line that were found
	for _, d := range info.Config.Disks {
		disk := cloudDisk(d.ID, d.Path, d.ReadOnly, g)
		for i := disks; i < len(command.disks) && strings.HasPrefix(d.ID, "_"); i++ {
			if c := command.disks[i]; c.id == "" && c.Path == d.Path {
				disk.Name, disks = c.Name, i+1
				break
			}
		}
		g.disks = append(g.disks, disk)
	}
	nics := 0
	for _, n := range info.Config.Nets {
		nic := cloudNIC(n.ID, n.Tap, n.MAC, n.VhostUser)
		for i := nics; i < len(command.nics) && strings.HasPrefix(n.ID, "_"); i++ {
			if c := command.nics[i]; c.id == "" && sameNIC(c.NIC, nic.NIC) {
				nic.Name, nics = c.Name, i+1
				break
			}
		}
		g.nics = append(g.nics, nic)
	}
	devices := 0
	for _, d := range info.Config.Devices {
		device := hostDevice{name: d.ID, sysfs: d.Path}
		for i := devices; i < len(command.devices) && strings.HasPrefix(d.ID, "_"); i++ {
			if c := command.devices[i]; c.id == "" && c.sysfs == d.Path {
				device.name, devices = c.name, i+1
				break
			}
		}
		g.devices = append(g.devices, device)
	}
	return g, state, nil
}

// describeFirecracker asks Firecracker for what its configuration file would
// have, which of a machine that was made over the API nothing else tells.
func describeFirecracker(ctx context.Context, a api) (*guest, odometer.State, error) {
	var instance struct {
		State string `json:"state"` // Not started, Running, Paused
	}
	if err := a.get(ctx, "/", &instance); err != nil {
		return nil, "", err
	}
	var state odometer.State
	switch instance.State {
	case "Running":
		state = odometer.Running
	case "Not started", "Paused":
		state = odometer.Paused
	default:
		return nil, "", fmt.Errorf("the state of its machine is %q", instance.State)
	}
	var config json.RawMessage
	if err := a.get(ctx, "/vm/config", &config); err != nil {
		return nil, "", err
	}
	g := newGuest(firecracker)
	g.config = "its configuration"
	if err := parseFirecrackerConfig(g, config); err != nil {
		return nil, "", err
	}
	return g, state, nil
}
