package odometer

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

// Description is what is told of a [VM] to people on other machines: who it is
// and what it was given, without what is its host's own business (its process,
// sockets and the paths of its images). It travels and is kept as JSON, apart
// from usage, and nothing of it enters the ledger: it can be erased.
//
// In JSON a number that nobody told is null. A list has the devices that are
// known; an empty one does not say that there are none.
type Description struct {
	Instance   InstanceID        `json:"instance_id"`
	Name       string            `json:"name"`   // empty for none
	Source     string            `json:"source"` // which inventory found it
	State      State             `json:"state"`
	Attributes map[string]string `json:"attributes"` // null for none

	VCPUs  *int64            `json:"vcpus"`
	Memory *int64            `json:"memory_bytes"`
	Disks  []DescribedDisk   `json:"disks"`
	NICs   []DescribedNIC    `json:"interfaces"`
	GPUs   []DescribedDevice `json:"gpus"`
	// Cut is there where more is known than fits a description: [Describe] has
	// left the end out.
	Cut bool `json:"cut,omitempty"`
}

// DescribedDisk is a disk of a [Description].
type DescribedDisk struct {
	Name        string   `json:"name"`
	Kind        DiskKind `json:"kind"`
	Format      string   `json:"format"`
	Provisioned *int64   `json:"provisioned_bytes"`
	ReadOnly    bool     `json:"read_only"`
}

// DescribedNIC is a network interface of a [Description].
type DescribedNIC struct {
	Name string  `json:"name"`
	Kind NICKind `json:"kind"`
	Link string  `json:"link"` // the interface on the host, empty where there is none
	MAC  string  `json:"mac"`
}

// DescribedDevice is a graphics or compute device of a [Description].
type DescribedDevice struct {
	Name    string  `json:"name"`
	Kind    GPUKind `json:"kind"`
	Address string  `json:"address"`
}

// What a description may have. More than any machine is given, and so little
// that a description with all of it still travels in one message.
const (
	MaxAttributes      = 64  // of a description
	MaxDevices         = 256 // disks, interfaces and GPUs each
	MaxDescribedText   = 256 // bytes of a name, a key or a value
	describedTextEnds  = "…"
	describedTextLimit = MaxDescribedText - len(describedTextEnds)
)

// Describe returns what is told of v. Of what is more than a description may
// have it leaves the end out, attributes in the order of their keys, and says
// so in Cut.
func Describe(v *VM) Description {
	d := Description{
		Instance: v.Instance, State: v.State, VCPUs: told(v.VCPUs), Memory: told(v.Memory),
		Disks: []DescribedDisk{}, NICs: []DescribedNIC{}, GPUs: []DescribedDevice{},
	}
	d.Name, d.Source = d.text(v.Name), d.text(v.Source)
	for _, key := range first(&d, slices.Sorted(maps.Keys(v.Attributes)), MaxAttributes) {
		if d.Attributes == nil {
			d.Attributes = map[string]string{}
		}
		d.Attributes[d.text(key)] = d.text(v.Attributes[key])
	}
	for _, x := range first(&d, v.Disks, MaxDevices) {
		d.Disks = append(d.Disks, DescribedDisk{d.text(x.Name), x.Kind, d.text(x.Format), told(x.Provisioned), x.ReadOnly})
	}
	for _, x := range first(&d, v.NICs, MaxDevices) {
		d.NICs = append(d.NICs, DescribedNIC{d.text(x.Name), x.Kind, d.text(x.Link), d.text(x.MAC)})
	}
	for _, x := range first(&d, v.GPUs, MaxDevices) {
		d.GPUs = append(d.GPUs, DescribedDevice{d.text(x.Name), x.Kind, d.text(x.Address)})
	}
	return d
}

// Valid returns nil when d is one that [Describe] could have made, and
// otherwise an error wrapping [ErrInvalid]: for whoever receives it.
func (d *Description) Valid() error {
	if err := ValidID("instance", string(d.Instance)); err != nil {
		return err
	}
	invalid := func(format string, args ...any) error {
		return fmt.Errorf("description of %s: %s: %w", d.Instance, fmt.Sprintf(format, args...), ErrInvalid)
	}
	switch {
	case !d.State.Valid():
		return invalid("state %q is none of running, paused, stopped", d.State)
	case len(d.Attributes) > MaxAttributes:
		return invalid("%d attributes, at most %d are allowed", len(d.Attributes), MaxAttributes)
	case max(len(d.Disks), len(d.NICs), len(d.GPUs)) > MaxDevices:
		return invalid("more than %d devices of a kind", MaxDevices)
	}
	for _, n := range []*int64{d.VCPUs, d.Memory} {
		if n != nil && *n < 0 {
			return invalid("%d is no amount", *n)
		}
	}
	texts := []string{d.Name, d.Source}
	for key, value := range d.Attributes {
		texts = append(texts, key, value)
	}
	for _, x := range d.Disks {
		if x.Provisioned != nil && *x.Provisioned < 0 {
			return invalid("%d is no amount", *x.Provisioned)
		}
		texts = append(texts, x.Name, string(x.Kind), x.Format)
	}
	for _, x := range d.NICs {
		texts = append(texts, x.Name, string(x.Kind), x.Link, x.MAC)
	}
	for _, x := range d.GPUs {
		texts = append(texts, x.Name, string(x.Kind), x.Address)
	}
	for _, s := range texts {
		if len(s) > MaxDescribedText || !utf8.ValidString(s) {
			return invalid("a text is longer than %d bytes or no UTF-8", MaxDescribedText)
		}
	}
	return nil
}

// Shorten leaves attributes and devices out, and says so in Cut: for a message
// that has no room for more.
func (d *Description) Shorten() {
	d.Attributes, d.Disks, d.NICs, d.GPUs = nil, []DescribedDisk{}, []DescribedNIC{}, []DescribedDevice{}
	d.Cut = true
}

// text returns s as a description may have it.
func (d *Description) text(s string) string {
	s = strings.ToValidUTF8(s, "\ufffd")
	if len(s) <= MaxDescribedText {
		return s
	}
	d.Cut = true
	end := describedTextLimit
	for !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + describedTextEnds
}

// first returns the first most of list.
func first[T any](d *Description, list []T, most int) []T {
	if len(list) <= most {
		return list
	}
	d.Cut = true
	return list[:most]
}

// told returns nil for what is [Unknown].
func told(n int64) *int64 {
	if n < 0 {
		return nil
	}
	return &n
}
