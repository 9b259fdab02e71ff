package qmp

import (
	"context"
	"fmt"
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
