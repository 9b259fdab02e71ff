package inventory

import (
	"path"
	"strings"

	"example.org/odometer"
)

// parseCloudHypervisor reads Cloud Hypervisor's command line, see its
// docs/device_model.md, memory.md and cpu.md. A machine that is made over the
// API has none of it there.
func parseCloudHypervisor(args []string) *guest {
	g := newGuest(cloudHypervisor)
	values := longOptions(args[1:])
	if _, ok := values["version"]; ok {
		g.probe = true
	}
	for _, v := range values["api-socket"] {
		o, _ := parseOptions(v, "path")
		g.socket = o.get("path")
	}
	if g.socket != "" {
		g.monitors = []string{g.socket}
		base := path.Base(g.socket)
		g.label = strings.TrimSuffix(base, path.Ext(base))
	}
	for _, v := range values["platform"] {
		g.uuid = uuidOf(bracketed(v, "").get("uuid"))
	}
	booted := false
	for _, name := range []string{"kernel", "firmware", "disk", "payload"} {
		booted = booted || len(values[name]) > 0
	}
	if !booted {
		// What it has by default it has only when the command line starts it.
		g.problem("it is configured over its API: memory and disks are not on the command line")
		return g
	}
	g.vcpus = 1 // what it takes where nothing is told
	for _, v := range values["cpus"] {
		o := bracketed(v, "boot")
		n, ok := parseCount(first(o.get("boot"), "1"))
		if !ok {
			n = odometer.Unknown
			g.problem("vCPUs: --cpus %q is not understood", v)
		}
		g.vcpus = n
	}
	g.memory = cloudMemory(g, values)
	for i, v := range values["disk"] {
		o := bracketed(v, "")
		d := cloudDisk(first(o.get("id"), nth("disk", i)), o.get("path"), o.on("readonly"), g)
		d.id = o.get("id")
		g.disks = append(g.disks, d)
	}
	for i, v := range values["net"] {
		o := bracketed(v, "")
		n := cloudNIC(first(o.get("id"), nth("net", i)), o.get("tap"), o.get("mac"), o.on("vhost_user"))
		n.id = o.get("id")
		g.nics = append(g.nics, n)
	}
	for i, v := range values["device"] {
		o := bracketed(v, "")
		g.devices = append(g.devices, hostDevice{name: first(o.get("id"), nth("vfio", i)), sysfs: o.get("path"), plug: plug{id: o.get("id")}})
	}
	return g
}

func cloudDisk(name, path string, readOnly bool, g *guest) guestDisk {
	d := guestDisk{Disk: odometer.Disk{Name: name, Provisioned: odometer.Unknown, Kind: odometer.DiskUnknown, Path: path, ReadOnly: readOnly}}
	if d.look = path != ""; !d.look {
		g.problem("disk %s: what lies behind its socket is not known", name)
	}
	return d
}

// cloudNIC is an interface whose tap Cloud Hypervisor made itself where none is
// named.
func cloudNIC(name, tap, mac string, vhostUser bool) guestNIC {
	n := guestNIC{NIC: odometer.NIC{Name: name, Kind: odometer.NICTap, Link: tap, MAC: strings.ToLower(mac)}, fd: -1, open: tap == ""}
	if vhostUser {
		n.Kind, n.Link, n.open = odometer.NICVhost, "", false
	}
	return n
}

// cloudMemory is --memory size=, or the zones where that is 0, with what of
// the hotplug area is plugged from the start.
func cloudMemory(g *guest, values map[string][]string) int64 {
	total := int64(512 << 20) // what it takes where nothing is told
	add := func(size string) {
		n, ok := parseSize(first(size, "0"), 1)
		if !ok || total == odometer.Unknown || total+n < total {
			g.problem("memory: %q is not understood", size)
			total = odometer.Unknown
			return
		}
		total += n
	}
	for _, v := range values["memory"] {
		o := bracketed(v, "size")
		total = 0
		add(o.get("size"))
		add(o.get("hotplugged_size"))
	}
	for _, v := range values["memory-zone"] {
		o := bracketed(v, "")
		add(o.get("size"))
		add(o.get("hotplugged_size"))
	}
	return total
}

// longOptions reads "--name value value", "--name=value" and repeated options.
func longOptions(args []string) map[string][]string {
	values := map[string][]string{}
	name := ""
	for _, a := range args {
		rest, ok := strings.CutPrefix(a, "--")
		switch {
		case ok:
			var value string
			var told bool
			name, value, told = strings.Cut(rest, "=")
			if values[name] == nil {
				values[name] = []string{}
			}
			if told {
				values[name] = append(values[name], value)
				name = ""
			}
		case name != "":
			values[name] = append(values[name], a)
		}
	}
	return values
}

// bracketed reads "key=value,key=[a,b]" with commas that stand in brackets or
// quotes not separating anything.
func bracketed(s, implied string) options {
	var list options
	depth, quoted, from := 0, false, 0
	member := func(m string) {
		key, value, ok := strings.Cut(m, "=")
		switch {
		case ok:
			list = append(list, option{key, strings.Trim(value, `"`)})
		case len(list) == 0 && implied != "":
			list = append(list, option{implied, m})
		case m != "":
			list = append(list, option{m, "on"})
		}
	}
	for i := range len(s) {
		switch s[i] {
		case '"':
			quoted = !quoted
		case '[':
			depth++
		case ']':
			depth--
		case ',':
			if depth <= 0 && !quoted {
				member(s[from:i])
				from = i + 1
			}
		}
	}
	member(s[from:])
	return list
}
