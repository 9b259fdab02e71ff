package inventory

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"example.org/odometer"
	"gopkg.in/yaml.v3"
)

// static is one machine of a file, with where its process is found.
type static struct {
	guest
	instance   odometer.InstanceID
	attributes map[string]string
	owner      odometer.Owner
	links      []odometer.NIC
	gpus       []odometer.GPUDevice

	pid     int
	pidFile string
	cgroup  string
}

// runs reports whether the file says where to find its process.
func (s *static) runs() bool { return s.pid != 0 || s.pidFile != "" || s.cgroup != "" }

// parseStatic reads the file's content, see the package's documentation. name
// is the file's, for the error, which joins everything that is wrong with it.
func parseStatic(b []byte, name string, agent odometer.AgentID) ([]*static, error) {
	if t := bytes.TrimLeft(b, " \t\r\n"); len(t) > 0 && t[0] == '{' {
		// JSON is YAML but for tabs between its members; there are none in its
		// strings.
		b = bytes.ReplaceAll(b, []byte("\t"), []byte(" "))
	}
	d := yaml.NewDecoder(bytes.NewReader(b))
	var document, more yaml.Node
	if err := d.Decode(&document); err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if d.Decode(&more) == nil {
		return nil, fmt.Errorf("read %s:%d: there is more than one document", name, more.Line)
	}
	r := &staticReader{file: name, agent: agent, taken: map[string]string{}}
	var list []*static
	root := document.Content[0]
	r.members(root, "the file", map[string]func(*yaml.Node, string){
		"vms": func(n *yaml.Node, at string) {
			r.items(n, at, func(n *yaml.Node, at string) { list = append(list, r.machine(n, at)) })
		},
	})
	if len(r.errs) == 0 && !has(root, "vms") {
		r.fail(root, "the file", `has no member "vms"`)
	}
	if err := errors.Join(r.errs...); err != nil {
		return nil, err
	}
	return list, nil
}

// staticReader collects what is wrong with a file.
type staticReader struct {
	file  string
	agent odometer.AgentID
	taken map[string]string // what only one machine may have, and which has it
	errs  []error
}

func (r *staticReader) fail(n *yaml.Node, at, format string, args ...any) {
	r.errs = append(r.errs, fmt.Errorf("%s:%d: %s %s", r.file, n.Line, at, fmt.Sprintf(format, args...)))
}

// members reads a mapping, each member by its function. at names it.
func (r *staticReader) members(n *yaml.Node, at string, known map[string]func(n *yaml.Node, at string)) {
	if n.Kind != yaml.MappingNode {
		r.fail(n, at, "is not a mapping")
		return
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		read, ok := known[key.Value]
		switch {
		case key.Kind != yaml.ScalarNode || !ok:
			var names []string
			for name := range known {
				names = append(names, name)
			}
			slices.Sort(names)
			r.fail(key, at, "has the unknown member %q; it may have %s", key.Value, strings.Join(names, ", "))
		case seen[key.Value]:
			r.fail(key, at, "has the member %q twice", key.Value)
		case at == "the file":
			read(value, key.Value)
		default:
			read(value, at+"."+key.Value)
		}
		seen[key.Value] = true
	}
}

func (r *staticReader) items(n *yaml.Node, at string, read func(n *yaml.Node, at string)) {
	if n.Kind != yaml.SequenceNode {
		r.fail(n, at, "is not a list")
		return
	}
	for i, item := range n.Content {
		read(item, fmt.Sprintf("%s[%d]", at, i))
	}
}

func has(n *yaml.Node, key string) bool {
	for i := 0; i < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return true
		}
	}
	return false
}

// text reads a text; a number is one too, as it stands there.
func (r *staticReader) text(to *string) func(*yaml.Node, string) {
	return func(n *yaml.Node, at string) {
		if n.Kind != yaml.ScalarNode || n.Tag == "!!null" || n.Value == "" {
			r.fail(n, at, "is not a text")
			return
		}
		*to = n.Value
	}
}

// path reads an absolute path.
func (r *staticReader) path(to *string) func(*yaml.Node, string) {
	return func(n *yaml.Node, at string) {
		r.text(to)(n, at)
		if *to != "" && !path.IsAbs(*to) {
			r.fail(n, at, "is %q, which is not an absolute path", *to)
		}
	}
}

func (r *staticReader) flag(to *bool) func(*yaml.Node, string) {
	return func(n *yaml.Node, at string) {
		if n.Tag != "!!bool" || n.Decode(to) != nil {
			r.fail(n, at, "is neither true nor false")
		}
	}
}

// amount reads a whole number from 1 to most.
func (r *staticReader) amount(to *int64, most int64) func(*yaml.Node, string) {
	return func(n *yaml.Node, at string) {
		v, err := strconv.ParseInt(n.Value, 10, 64)
		if n.Kind != yaml.ScalarNode || err != nil || v < 1 || v > most {
			r.fail(n, at, "is not a number from 1 to %d", most)
			return
		}
		*to = v
	}
}

var sizeText = regexp.MustCompile(`^([0-9]+) ?(|KiB|MiB|GiB|TiB|PiB)$`)

// bytes reads a size: a number of bytes, or one with KiB, MiB, GiB, TiB, PiB.
func (r *staticReader) bytes(to *int64) func(*yaml.Node, string) {
	return func(n *yaml.Node, at string) {
		m := sizeText.FindStringSubmatch(n.Value)
		if n.Kind == yaml.ScalarNode && m != nil {
			unit := int64(1) << (10 * slices.Index([]string{"", "KiB", "MiB", "GiB", "TiB", "PiB"}, m[2]))
			if v, err := strconv.ParseInt(m[1], 10, 64); err == nil && v > 0 && v <= math.MaxInt64/unit {
				*to = v * unit
				return
			}
		}
		r.fail(n, at, `is not a size such as 8589934592 or "8 GiB"`)
	}
}

// id reads an identifier.
func (r *staticReader) id(to *string) func(*yaml.Node, string) {
	return func(n *yaml.Node, at string) {
		r.text(to)(n, at)
		if *to == "" {
			return
		}
		if err := odometer.ValidID(at, *to); err != nil {
			r.errs = append(r.errs, fmt.Errorf("%s:%d: %w", r.file, n.Line, err))
		}
	}
}

func (r *staticReader) oneOf(to *string, values ...string) func(*yaml.Node, string) {
	return func(n *yaml.Node, at string) {
		r.text(to)(n, at)
		if *to != "" && !slices.Contains(values, *to) {
			r.fail(n, at, "is %q; it may be %s", *to, strings.Join(values, ", "))
		}
	}
}

// only says that no other machine may have the same.
func (r *staticReader) only(n *yaml.Node, at, what, value string) {
	if value == "" {
		return
	}
	if other, ok := r.taken[what+value]; ok {
		r.fail(n, at, "has the %s %s, which %s has", what, value, other)
		return
	}
	r.taken[what+value] = at
}

func (r *staticReader) machine(n *yaml.Node, at string) *static {
	s := &static{guest: *newGuest("static")}
	var id, user, org string
	var pid int64
	r.members(n, at, map[string]func(*yaml.Node, string){
		"id": r.id(&id), "name": r.text(&s.name), "control": r.path(&s.socket),
		"pid": r.amount(&pid, math.MaxInt32), "pid_file": r.path(&s.pidFile), "cgroup": r.path(&s.cgroup),
		"vcpus": r.amount(&s.vcpus, 1<<20), "memory": r.bytes(&s.memory),
		"owner": func(n *yaml.Node, at string) {
			r.members(n, at, map[string]func(*yaml.Node, string){"user": r.id(&user), "org": r.id(&org)})
			if n.Kind == yaml.MappingNode && !has(n, "user") {
				r.fail(n, at, "names no user")
			}
		},
		"attributes": func(n *yaml.Node, at string) {
			if n.Kind != yaml.MappingNode {
				r.fail(n, at, "is not a mapping")
				return
			}
			s.attributes = map[string]string{}
			for i := 0; i+1 < len(n.Content); i += 2 {
				key, value := n.Content[i].Value, ""
				if _, twice := s.attributes[key]; twice {
					r.fail(n.Content[i], at, "has the member %q twice", key)
				}
				r.text(&value)(n.Content[i+1], at+"."+key)
				s.attributes[key] = value
			}
		},
		"disks": func(n *yaml.Node, at string) {
			r.items(n, at, func(n *yaml.Node, at string) { s.disks = append(s.disks, r.disk(n, at)) })
		},
		"nics": func(n *yaml.Node, at string) {
			r.items(n, at, func(n *yaml.Node, at string) { s.links = append(s.links, r.nic(n, at)) })
		},
		"gpus": func(n *yaml.Node, at string) {
			r.items(n, at, func(n *yaml.Node, at string) { s.gpus = append(s.gpus, r.gpu(n, at)) })
		},
	})
	s.pid, s.owner = int(pid), odometer.Owner{User: odometer.UserID(user), Org: odometer.OrgID(org)}
	switch {
	case id != "" && uuidOf(id) != "" && strings.Count(id, "-") == 4:
		s.instance = odometer.InstanceID(uuidOf(id)) // as every other source writes it
	case id != "":
		s.instance = odometer.InstanceID(id)
	case s.name != "":
		s.instance = Identity(r.agent, s.name)
	case n.Kind == yaml.MappingNode:
		r.fail(n, at, "has neither an id nor a name")
	}
	found := 0
	for _, where := range []struct{ what, value string }{
		{"pid", map[bool]string{true: strconv.Itoa(s.pid)}[s.pid != 0]}, {"pid_file", s.pidFile}, {"cgroup", s.cgroup},
	} {
		if where.value != "" {
			found++
		}
		r.only(n, at, where.what, where.value)
	}
	if found > 1 {
		r.fail(n, at, "has more than one of pid, pid_file and cgroup")
	}
	r.only(n, at, "identity", string(s.instance))
	names := map[string]bool{}
	for _, name := range slices.Concat(
		each(s.disks, func(d guestDisk) string { return "disk " + d.Name }),
		each(s.links, func(d odometer.NIC) string { return "interface " + d.Name }),
		each(s.gpus, func(d odometer.GPUDevice) string { return "GPU " + d.Name })) {
		if names[name] {
			r.fail(n, at, "has the %s twice", name)
		}
		names[name] = true
	}
	return s
}

func each[T any](list []T, f func(T) string) []string {
	var out []string
	for _, x := range list {
		out = append(out, f(x))
	}
	return out
}

func (r *staticReader) disk(n *yaml.Node, at string) guestDisk {
	d := guestDisk{Disk: odometer.Disk{Provisioned: odometer.Unknown}}
	var kind string
	r.members(n, at, map[string]func(*yaml.Node, string){
		"name": r.text(&d.Name), "path": r.text(&d.Path), "size": r.bytes(&d.Provisioned), "read_only": r.flag(&d.ReadOnly),
		"format": r.text(&d.Format), "kind": r.oneOf(&kind, string(odometer.DiskFile), string(odometer.DiskBlock), string(odometer.DiskNetwork)),
	})
	d.Kind = odometer.DiskKind(kind)
	if n.Kind != yaml.MappingNode {
		return d
	}
	if d.Name == "" || d.Path == "" {
		r.fail(n, at, "needs a name and a path")
		return d
	}
	place, local := location(d.Path)
	switch {
	case local && !path.IsAbs(place):
		r.fail(n, at, "has the path %q, which is neither absolute nor elsewhere", d.Path)
	case local && d.Kind == odometer.DiskNetwork:
		r.fail(n, at, "is of kind network and has the path %s of this host", d.Path)
	case !local && (d.Kind == odometer.DiskFile || d.Kind == odometer.DiskBlock):
		r.fail(n, at, "is of kind %s and lies elsewhere: %s", d.Kind, d.Path)
	case local:
		d.Path, d.look = path.Clean(place), true
	default:
		d.Kind, d.Path = odometer.DiskNetwork, place
	}
	if !d.ReadOnly {
		r.only(n, at, "disk", d.Path)
	}
	return d
}

func (r *staticReader) nic(n *yaml.Node, at string) odometer.NIC {
	var c odometer.NIC
	kind := string(odometer.NICTap)
	r.members(n, at, map[string]func(*yaml.Node, string){
		"name": r.text(&c.Name), "link": r.text(&c.Link), "mac": r.text(&c.MAC), "address": r.text(&c.Address),
		"kind": r.oneOf(&kind, string(odometer.NICTap), string(odometer.NICMacvtap), string(odometer.NICVhost), string(odometer.NICDirect), string(odometer.NICUser)),
	})
	c.Kind, c.MAC, c.Address = odometer.NICKind(kind), strings.ToLower(c.MAC), strings.ToLower(c.Address)
	if n.Kind != yaml.MappingNode {
		return c
	}
	linked := c.Kind == odometer.NICTap || c.Kind == odometer.NICMacvtap
	switch {
	case c.Name == "":
		r.fail(n, at, "needs a name")
	case linked && c.Link == "":
		r.fail(n, at, "is of kind %s and names no link", c.Kind)
	case c.Kind == odometer.NICUser && c.Link != "":
		r.fail(n, at, "is of kind %s, which has no link", c.Kind)
	case c.Address != "" && (c.Kind != odometer.NICDirect || !pciAddress.MatchString(c.Address)):
		r.fail(n, at, "has the address %s; only kind %s has one, of PCI (0000:3b:02.6)", c.Address, odometer.NICDirect)
	}
	if len(c.Link) > 15 {
		r.fail(n, at, "has the link %s; no interface has a name of more than 15 bytes", c.Link)
	}
	r.only(n, at, "link", c.Link)
	r.only(n, at, "interface", c.Address)
	return c
}

func (r *staticReader) gpu(n *yaml.Node, at string) odometer.GPUDevice {
	var g odometer.GPUDevice
	kind := string(odometer.GPUWhole)
	r.members(n, at, map[string]func(*yaml.Node, string){
		"name": r.text(&g.Name), "address": r.text(&g.Address),
		"kind": r.oneOf(&kind, string(odometer.GPUWhole), string(odometer.GPUVGPU), string(odometer.GPUMIG)),
	})
	g.Kind, g.Address = odometer.GPUKind(kind), strings.ToLower(g.Address)
	if n.Kind != yaml.MappingNode {
		return g
	}
	if g.Name == "" || !pciAddress.MatchString(g.Address) && !mdevUUID.MatchString(strings.TrimPrefix(g.Address, "mig-")) {
		r.fail(n, at, "needs a name and an address, of PCI (0000:65:00.0) or a UUID")
	}
	r.only(n, at, "GPU", g.Address)
	return g
}
