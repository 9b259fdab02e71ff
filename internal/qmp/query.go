package qmp

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Status is whether the machine runs.
type Status struct {
	Running bool   `json:"running"`
	State   string `json:"status"` // "running", "paused", "prelaunch", "shutdown", "suspended", "internal-error", …
}

// Status asks query-status.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var s Status
	err := c.Execute(ctx, "query-status", nil, &s)
	return s, err
}

// CPU is a virtual processor.
type CPU struct {
	Index  int `json:"cpu-index"`
	Thread int `json:"thread-id"` // on the host, in QEMU's PID namespace
}

// CPUs asks query-cpus-fast, which interrupts no processor.
func (c *Client) CPUs(ctx context.Context) ([]CPU, error) {
	var list []CPU
	err := c.Execute(ctx, "query-cpus-fast", nil, &list)
	return list, err
}

// BlockStats counts what the machine asked of a disk since QEMU started.
// Neither metadata of the image's format nor the files behind it are in it. A
// reboot inside changes nothing; a disk that is unplugged takes its counters
// along.
type BlockStats struct {
	Device string // of -drive: "drive0"; "" for -blockdev
	Node   string // of the image at the top, "" for none
	QDev   string // path or id of the disk's device
	// Bytes and completed operations, as the machine issued them.
	ReadBytes, WriteBytes           uint64
	ReadOperations, WriteOperations uint64
}

// BlockStats asks query-blockstats.
func (c *Client) BlockStats(ctx context.Context) ([]BlockStats, error) {
	var answer []struct {
		Device string `json:"device"`
		Node   string `json:"node-name"`
		QDev   string `json:"qdev"`
		Stats  struct {
			ReadBytes       uint64 `json:"rd_bytes"`
			WriteBytes      uint64 `json:"wr_bytes"`
			ReadOperations  uint64 `json:"rd_operations"`
			WriteOperations uint64 `json:"wr_operations"`
		} `json:"stats"`
	}
	if err := c.Execute(ctx, "query-blockstats", nil, &answer); err != nil {
		return nil, err
	}
	list := make([]BlockStats, len(answer))
	for i, a := range answer {
		list[i] = BlockStats{a.Device, a.Node, a.QDev, a.Stats.ReadBytes, a.Stats.WriteBytes, a.Stats.ReadOperations, a.Stats.WriteOperations}
	}
	return list, nil
}

// Balloon asks query-balloon: how many bytes of memory the balloon leaves to
// the machine. Without a balloon, or before the machine's driver has loaded
// where QEMU wants one, that is an [*Error] of class DeviceNotActive.
func (c *Client) Balloon(ctx context.Context) (int64, error) {
	var answer struct {
		Actual *int64 `json:"actual"`
	}
	if err := c.Execute(ctx, "query-balloon", nil, &answer); err != nil {
		return 0, err
	}
	if answer.Actual == nil || *answer.Actual < 0 {
		return 0, fmt.Errorf("query-balloon: QEMU's answer has no size")
	}
	return *answer.Actual, nil
}

// SetBalloon asks the machine to come to the size of so many bytes. QEMU says
// yes at once; the machine follows as far as it can, see BALLOON_CHANGE.
func (c *Client) SetBalloon(ctx context.Context, bytes int64) error {
	return c.Execute(ctx, "balloon", map[string]int64{"value": bytes}, nil)
}

// BlockNode is a node of QEMU's block layer: an image, or the file behind it.
type BlockNode struct {
	Name        string
	Driver      string // "qcow2", "raw", "file", "host_device", "rbd", …
	File        string // what it is opened from, as QEMU writes it: a path, or "json:{…}"
	ReadOnly    bool
	VirtualSize int64  // bytes that it holds for who reads it; -1 unknown
	ActualSize  int64  // bytes that it occupies, without what it is backed by; -1 unknown
	BackingFile string // "" for none
}

// BlockNodes asks query-named-block-nodes. The nodes of a backing chain are
// each in the list, and each once.
func (c *Client) BlockNodes(ctx context.Context) ([]BlockNode, error) {
	var answer []struct {
		Name        string `json:"node-name"`
		Driver      string `json:"drv"`
		File        string `json:"file"`
		ReadOnly    bool   `json:"ro"`
		BackingFile string `json:"backing_file"`
		Image       struct {
			VirtualSize *int64 `json:"virtual-size"`
			ActualSize  *int64 `json:"actual-size"`
		} `json:"image"`
	}
	// flat leaves out the images behind an image's own: they have nodes too.
	err := c.Execute(ctx, "query-named-block-nodes", map[string]bool{"flat": true}, &answer)
	if err != nil {
		return nil, err
	}
	size := func(n *int64) int64 {
		if n == nil || *n < 0 {
			return -1
		}
		return *n
	}
	list := make([]BlockNode, len(answer))
	for i, a := range answer {
		list[i] = BlockNode{
			a.Name, a.Driver, a.File, a.ReadOnly, size(a.Image.VirtualSize), size(a.Image.ActualSize), a.BackingFile,
		}
	}
	return list, nil
}

// Memory asks query-memory-size-summary: how many bytes the machine was
// started with, and how many are plugged in besides.
func (c *Client) Memory(ctx context.Context) (base, plugged int64, err error) {
	var answer struct {
		Base    *int64 `json:"base-memory"`
		Plugged int64  `json:"plugged-memory"`
	}
	if err := c.Execute(ctx, "query-memory-size-summary", nil, &answer); err != nil {
		return 0, 0, err
	}
	if answer.Base == nil || *answer.Base < 0 || answer.Plugged < 0 || *answer.Base+answer.Plugged < 0 {
		return 0, 0, fmt.Errorf("query-memory-size-summary: QEMU's answer has no size")
	}
	return *answer.Base, answer.Plugged, nil
}

// Drive is a disk or a drive with the medium that is in it.
type Drive struct {
	Name      string // of -drive: "drive0"; "" for -blockdev
	QDev      string // id of its device, or its path in QEMU's object tree; "" for none
	Removable bool   // the medium is: an optical or a floppy drive, a card reader

	Medium      bool   // whether there is one; what follows is its image
	Node        string // "" for none
	File        string // what it is opened from, as QEMU writes it: a path, or "json:{…}"
	Format      string // its driver: "qcow2", "raw", …
	ReadOnly    bool
	VirtualSize int64    // bytes that the machine sees; -1 unknown
	Backing     []string // the images below, nearest first, as File
}

// deepest is how many images may lie one over another.
const deepest = 256

// Drives asks query-block. What nothing in the machine is attached to is in it
// as well. QEMU looks at each file that is open for it.
func (c *Client) Drives(ctx context.Context) ([]Drive, error) {
	type image struct {
		File        string `json:"filename"`
		VirtualSize *int64 `json:"virtual-size"`
		Backing     *image `json:"backing-image"`
	}
	var answer []struct {
		Device    string `json:"device"`
		QDev      string `json:"qdev"`
		Removable bool   `json:"removable"`
		Inserted  *struct {
			Node     string `json:"node-name"`
			Driver   string `json:"drv"`
			File     string `json:"file"`
			ReadOnly bool   `json:"ro"`
			Image    image  `json:"image"`
		} `json:"inserted"`
	}
	if err := c.Execute(ctx, "query-block", nil, &answer); err != nil {
		return nil, err
	}
	list := make([]Drive, len(answer))
	for i, a := range answer {
		d := Drive{Name: a.Device, QDev: a.QDev, Removable: a.Removable, VirtualSize: -1}
		if in := a.Inserted; in != nil {
			d.Medium, d.Node, d.File, d.Format, d.ReadOnly = true, in.Node, in.File, in.Driver, in.ReadOnly
			if n := in.Image.VirtualSize; n != nil && *n >= 0 {
				d.VirtualSize = *n
			}
			for below := in.Image.Backing; below != nil && len(d.Backing) < deepest; below = below.Backing {
				d.Backing = append(d.Backing, below.File)
			}
		}
		list[i] = d
	}
	return list, nil
}

// Object is a member of an object in QEMU's tree.
type Object struct {
	Name string `json:"name"`
	Type string `json:"type"` // "child<virtio-net-pci>" of an object, "string" and so on of a property
}

// Devices are the members of /machine/peripheral, which has the devices with an
// id, whether they were there from the start or were plugged in: their drivers
// by their ids.
func (c *Client) Devices(ctx context.Context) (map[string]string, error) {
	var list []Object
	if err := c.Execute(ctx, "qom-list", map[string]string{"path": "/machine/peripheral"}, &list); err != nil {
		return nil, err
	}
	devices := make(map[string]string, len(list))
	for _, o := range list {
		if driver, ok := strings.CutPrefix(o.Type, "child<"); ok {
			devices[o.Name] = strings.TrimSuffix(driver, ">")
		}
	}
	return devices, nil
}

// Property asks qom-get for a property that is a text.
func (c *Client) Property(ctx context.Context, path, name string) (string, error) {
	var s string
	err := c.Execute(ctx, "qom-get", map[string]string{"path": path, "property": name}, &s)
	return s, err
}

// NIC is a network interface of the machine and what is behind it.
type NIC struct {
	Name string // the id of its device, or the name that QEMU gave it: "virtio-net-pci.0"
	MAC  string
	// What it is joined to, "" for nothing: the id and type of its -netdev.
	Netdev, Type string // "tap", "user", "vhost-user", "vhost-vdpa", "hubport", …
	Link         string // of a tap: its name on the host, where QEMU opened it by that
	FD           int    // of a tap: the descriptor in QEMU's process, where that was passed; -1 otherwise
}

// NICs lists the network interfaces, each once, however many queues it has. No
// command of the protocol tells what is behind them: it asks the monitor for
// people, "info network".
func (c *Client) NICs(ctx context.Context) ([]NIC, error) {
	var text string
	if err := c.Execute(ctx, "human-monitor-command", map[string]string{"command-line": "info network"}, &text); err != nil {
		return nil, err
	}
	return parseNetwork(text), nil
}

// parseNetwork reads "info network": a line for each queue of an interface, and
// below it, after a backslash, what it is joined to. What is joined to no
// interface, and hubs, have lines as well. Each is "NAME: index=0,type=TYPE,"
// and what its driver has to say (net/net.c, net/tap.c in QEMU's source).
func parseNetwork(text string) []NIC {
	var list []NIC
	last := -1 // the interface that a line below belongs to
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		below := strings.HasPrefix(line, " \\ ")
		name, info, ok := strings.Cut(strings.TrimPrefix(line, " \\ "), ": ")
		about := map[string]string{}
		for field := range strings.SplitSeq(info, ",") {
			key, value, _ := strings.Cut(field, "=")
			if _, twice := about[key]; !twice {
				about[key] = value
			}
		}
		kind := about["type"]
		switch {
		case !ok || kind == "":
			last = -1
		case !below && kind == "nic":
			last = slices.IndexFunc(list, func(n NIC) bool { return n.Name == name })
			if last < 0 {
				last = len(list)
				list = append(list, NIC{Name: name, MAC: about["macaddr"], FD: -1})
			}
		case !below:
			last = -1
		case last >= 0 && list[last].Type == "":
			n := &list[last]
			n.Netdev, n.Type = name, kind
			if kind != "tap" {
				break
			}
			n.Link = about["ifname"]
			if fd, err := strconv.ParseUint(about["fd"], 10, 31); err == nil {
				n.FD = int(fd)
			}
		}
	}
	return list
}
