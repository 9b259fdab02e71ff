package inventory

import (
	"encoding/json"
	"fmt"
	"path"
	"strconv"
	"strings"

	"example.org/odometer"
)

// firecrackerSocket is where its API listens when nothing is told.
const firecrackerSocket = "/run/firecracker.socket"

// nobodysID is the id of every Firecracker that was told none.
const nobodysID = "anonymous-instance"

// parseFirecracker reads Firecracker's command line, as a person or its jailer
// writes it. The rest stands in its configuration file, or in nothing that can
// be read where the machine was made over the API.
func parseFirecracker(args []string) *guest {
	g := newGuest(firecracker)
	values := longOptions(args[1:])
	last := func(name string) string {
		if v := values[name]; len(v) > 0 {
			return v[len(v)-1]
		}
		return ""
	}
	for _, name := range []string{"version", "help", "snapshot-version", "describe-snapshot"} {
		if _, ok := values[name]; ok {
			g.probe = true
		}
	}
	g.socket = first(last("api-sock"), firecrackerSocket)
	g.monitors = []string{g.socket}
	if _, ok := values["no-api"]; ok {
		g.socket, g.monitors = "", nil
	}
	g.label = last("id")
	if g.label == nobodysID {
		g.label = ""
	}
	if base := path.Base(last("api-sock")); g.label == "" && last("api-sock") != "" {
		g.label = strings.TrimSuffix(base, path.Ext(base))
	}
	if g.config = last("config-file"); g.config == "" {
		g.problem("it is configured over its API: memory and disks are not on the command line")
	}
	return g
}

// firecrackerConfig is the part of its configuration file that matters here,
// see docs/getting-started.md and the OpenAPI description of Firecracker.
type firecrackerConfig struct {
	Machine *struct {
		VCPUs  *int64 `json:"vcpu_count"`
		Memory *int64 `json:"mem_size_mib"`
	} `json:"machine-config"`
	Drives []struct {
		ID       string `json:"drive_id"`
		Path     string `json:"path_on_host"`
		ReadOnly bool   `json:"is_read_only"`
	} `json:"drives"`
	Interfaces []struct {
		ID   string `json:"iface_id"`
		MAC  string `json:"guest_mac"`
		Link string `json:"host_dev_name"`
	} `json:"network-interfaces"`
}

// parseFirecrackerConfig adds what a configuration file tells.
func parseFirecrackerConfig(g *guest, b []byte) error {
	var c firecrackerConfig
	if err := json.Unmarshal(b, &c); err != nil {
		return fmt.Errorf("read %s: %w", g.config, err)
	}
	g.vcpus, g.memory = 1, 128<<20 // what it takes where nothing is told
	if m := c.Machine; m != nil {
		if m.VCPUs != nil {
			g.vcpus = *m.VCPUs
		}
		if m.Memory != nil {
			g.memory = *m.Memory << 20
		}
	}
	if g.vcpus < 0 || g.vcpus > 1<<20 || g.memory < 0 || c.Machine != nil && c.Machine.Memory != nil && *c.Machine.Memory > 1<<40 {
		g.vcpus, g.memory = odometer.Unknown, odometer.Unknown
		g.problem("vCPUs and memory: machine-config of %s has values that no machine can have", g.config)
	}
	for i, d := range c.Drives {
		disk := guestDisk{look: d.Path != "", Disk: odometer.Disk{
			Name: first(d.ID, nth("drive", i)), Kind: odometer.DiskUnknown, Path: d.Path, Provisioned: odometer.Unknown, ReadOnly: d.ReadOnly}}
		if disk.look {
			disk.Format = "raw" // the only one that it knows
		} else {
			g.problem("disk %s: what lies behind its socket is not known", disk.Name)
		}
		g.disks = append(g.disks, disk)
	}
	for i, n := range c.Interfaces {
		g.nics = append(g.nics, guestNIC{fd: -1, open: n.Link == "", NIC: odometer.NIC{
			Name: first(n.ID, nth("net", i)), Kind: odometer.NICTap, Link: n.Link, MAC: strings.ToLower(n.MAC)}})
	}
	return nil
}

func nth(name string, i int) string { return name + strconv.Itoa(i) }
