package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"example.org/odometer"
	"example.org/odometer/agent"
	"example.org/odometer/api"
	"example.org/odometer/inventory"
	"example.org/odometer/sampler"
)

// What --source may name.
const (
	sourceAuto    = "auto"    // vms, and machine too where none runs at the start
	sourceMachine = "machine" // this machine, from within
	sourceVMs     = "vms"     // the virtual machines on it, from outside
)

// How often a source is listed although it told of no change. Processes tell
// nothing, and are cheap; libvirt is slow, and tells.
const (
	processesEvery = time.Second
	libvirtEvery   = 30 * time.Second
)

// machines are the virtual machines on this host: who they are and what they
// use.
type machines struct {
	watch     *inventory.Watch
	sources   []inventory.Source
	processes inventory.Source // the last of them
	vms       *sampler.VMs
	found     atomic.Pointer[[]odometer.VM] // another one when something is different; nil before the first
	images    string                        // the file of the images that they share
	shared    []sampler.SharedImage         // as that has them, nil where it has to be written
	logger    *slog.Logger
}

// known returns the virtual machines as they were told last: the same list as
// before while nothing is different. A nil m has none.
func (m *machines) known() *[]odometer.VM {
	if m == nil {
		return nil
	}
	return m.found.Load()
}

// openMachines looks for virtual machines by their processes and in libvirt, and
// in the file of --vm-file, which may name others. Before is when each was last
// read, images the file of the images that they share.
func openMachines(id odometer.AgentID, c *meterFlags, before sampler.Previous, images string, logger *slog.Logger) (*machines, error) {
	m := &machines{images: images, logger: logger}
	sources, err := machineSources(id, c, logger)
	if err != nil {
		return nil, err
	}
	var watched []inventory.Watched
	for _, s := range sources {
		w := inventory.Watched{Source: s}
		switch s.Name() {
		case "libvirt":
			w.Every = libvirtEvery
		case "processes":
			w.Every = processesEvery
		}
		m.sources, watched = append(m.sources, s), append(watched, w)
	}
	m.processes = m.sources[len(m.sources)-1]
	m.vms = sampler.OpenVMs(sampler.VMsOptions{Agent: id, Previous: before, Shared: m.readImages(), Period: c.Interval, Logger: logger})
	m.watch = inventory.NewWatch(inventory.WatchOptions{
		Sources: watched, Agent: id, Clock: sampler.SystemClock{}, Logger: logger,
		Changed: func(vms []odometer.VM, changes []odometer.Change) {
			for _, c := range changes {
				logger.Info("a virtual machine", "instance", c.Instance, "what", c.Kind, "device", c.Device, "detail", c.Detail)
			}
			m.vms.Note(changes)
			m.vms.Update(vms)
			m.found.Store(&vms)
		},
	})
	return m, nil
}

// machineSources opens what finds virtual machines, the one that knows best
// first.
func machineSources(id odometer.AgentID, c *meterFlags, logger *slog.Logger) (list []inventory.Source, err error) {
	defer func() {
		if err != nil {
			for _, s := range list {
				s.Close()
			}
		}
	}()
	if c.VMFile != "" {
		f, err := inventory.OpenFile(inventory.FileOptions{Path: c.VMFile, Agent: id})
		if err != nil {
			return list, advise(fmt.Errorf("the file of virtual machines: %w", err), "correct it, or leave --vm-file out")
		}
		list = append(list, f)
	}
	if libvirtIsHere() {
		list = append(list, inventory.NewLibvirt(inventory.LibvirtOptions{Clock: sampler.SystemClock{}, Logger: logger}))
	}
	p, err := inventory.OpenProcesses(inventory.ProcessesOptions{Agent: id, Clock: sampler.SystemClock{}})
	if err != nil {
		return list, fmt.Errorf("look for virtual machines: %w", err)
	}
	return append(list, p), nil
}

// libvirtIsHere reports whether a libvirt daemon has a socket here.
func libvirtIsHere() bool { return anyFile("/run/libvirt/*-sock") }

func anyFile(pattern string) bool {
	found, _ := filepath.Glob(pattern) // the pattern is right
	return len(found) > 0
}

// libvirtHasDomains reports whether domains are defined here, be libvirt up or not.
func libvirtHasDomains() bool { return anyFile("/etc/libvirt/qemu/*.xml") }

// run watches the machines until ctx is done.
func (m *machines) run(ctx context.Context) error { return m.watch.Run(ctx) }

// readImages reads which images several machines shared before.
func (m *machines) readImages() []sampler.SharedImage {
	m.shared = nil
	text, err := os.ReadFile(m.images)
	if errors.Is(err, fs.ErrNotExist) {
		m.shared = []sampler.SharedImage{}
		return nil
	}
	if err == nil {
		err = json.Unmarshal(text, &m.shared)
	}
	if err != nil {
		m.shared = nil
		m.logger.Warn("which images machines shared before is not known: one that a single machine has left counts to it", "err", err)
	}
	return m.shared
}

// keepImages notes which images several machines share, until ctx is done. What
// cannot be written is tried again.
func (m *machines) keepImages(ctx context.Context) error {
	tick := time.NewTicker(processesEvery)
	defer tick.Stop()
	failed := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now := m.vms.Shared()
		if m.shared != nil && slices.Equal(now, m.shared) {
			continue
		}
		if now == nil {
			now = []sampler.SharedImage{}
		}
		text, err := json.MarshalIndent(now, "", "\t")
		if err == nil {
			err = writeFile(m.images, append(text, '\n'))
		}
		if err == nil {
			m.shared = now
		} else if !failed {
			m.logger.Warn("which images machines share cannot be noted", "err", err)
		}
		failed = err != nil
	}
}

// here returns which instances there are, once every source has said it twice;
// nothing when ctx ends before, or where libvirt has domains that it does not tell
// since it does not run.
func (m *machines) here(ctx context.Context) (ids []odometer.InstanceID, ok bool) {
	if !slices.ContainsFunc(m.sources, func(s inventory.Source) bool { return s.Name() == "libvirt" }) && libvirtHasDomains() {
		return nil, false
	}
	tick := time.NewTicker(processesEvery)
	defer tick.Stop()
	for said := 0; ; {
		select {
		case <-ctx.Done():
			return nil, false
		case <-tick.C:
		}
		said++
		if slices.ContainsFunc(m.watch.Status(), func(s inventory.SourceStatus) bool { return !s.OK }) {
			said = 0
		}
		found := m.found.Load()
		if found == nil || said < 2 { // what a list says is told after it is well
			continue
		}
		for _, v := range *found {
			ids = append(ids, v.Instance)
		}
		return ids, true
	}
}

// facts are what health says of finding the machines.
func (m *machines) facts() *api.InventoryFacts {
	f := &api.InventoryFacts{Machines: len(m.watch.List()), Problems: m.watch.Problems()}
	for _, s := range m.watch.Status() {
		if s.Problem != "" {
			f.Failed = append(f.Failed, s.Name+": "+s.Problem)
		}
		f.Problems = append(f.Problems, s.Problems...)
	}
	return f
}

func (m *machines) close() error {
	errs := []error{m.vms.Close()}
	for _, s := range m.sources {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}

// names reports whether --source names a source, which auto does with both.
func (c *meterFlags) names(source string) bool {
	return c.Source == sourceAuto || slices.Contains(strings.Split(c.Source, ","), source)
}

func (c *meterFlags) checkSource() error {
	if c.Source == sourceAuto {
		return nil
	}
	for name := range strings.SplitSeq(c.Source, ",") {
		if name != sourceMachine && name != sourceVMs {
			return fmt.Errorf("--source %q: %s, %s, both with a comma between them, or %s is expected", c.Source, sourceMachine, sourceVMs, sourceAuto)
		}
	}
	return nil
}

// any reports whether a hypervisor's process runs here, before run is called.
func (m *machines) any(ctx context.Context) bool {
	vms, err := m.processes.List(ctx)
	if err != nil {
		m.logger.Warn("cannot look for virtual machines", "err", err)
	}
	return len(vms) > 0
}

// readAt is when an instance was last read: in which boot, and at which boot time
// in microseconds.
type readAt struct {
	BootID string `json:"boot_id"`
	Boot   int64  `json:"boot_us"`
}

// lastReadings returns when each instance was last read, as the newest of its
// checkpoints has it.
func lastReadings(checkpoints []json.RawMessage) map[odometer.InstanceID]readAt {
	last := map[odometer.InstanceID]readAt{}
	for _, c := range checkpoints {
		var state struct {
			Instance odometer.InstanceID `json:"instance"`
			readAt
		}
		if json.Unmarshal(c, &state) == nil && state.Instance != "" {
			last[state.Instance] = state.readAt
		}
	}
	return last
}

// previous is what the sampler is told of them: where any was read in this boot
// only those, since times of different boots do not compare, and otherwise all.
func previous(last map[odometer.InstanceID]readAt, boot string) sampler.Previous {
	p := sampler.Previous{Readings: map[odometer.InstanceID]int64{}}
	for _, r := range last {
		if p.BootID != boot {
			p.BootID = r.BootID
		}
	}
	for id, r := range last {
		if r.BootID == boot || p.BootID != boot {
			p.Readings[id] = r.Boot
		}
	}
	return p
}

// together samples several sources, one after the other.
type together []agent.Source

func (t together) Sample(emit func(*odometer.Reading)) error {
	var errs []error
	for _, s := range t {
		errs = append(errs, s.Sample(emit))
	}
	return errors.Join(errs...)
}

// checkMachines says which virtual machines are found here, and what of them is
// measured.
func checkMachines(ctx context.Context) []finding {
	host, _ := os.Hostname() // only names what has no name
	logger := slog.New(slog.DiscardHandler)
	sources, err := machineSources(odometer.AgentID(host), new(meterFlags), logger)
	if err != nil {
		return []finding{{"virtual machines", checkWarn, err.Error(), ""}}
	}
	var out []finding
	var all []odometer.VM
	for _, s := range sources {
		defer s.Close()
		f := finding{Check: "finds by " + s.Name(), Status: checkOK}
		vms, err := s.List(ctx)
		if err != nil {
			f.Status, f.Detail = checkWarn, "not found: "+err.Error()
		} else if f.Detail = fmt.Sprintf("%d virtual machines", len(vms)); len(vms) == 0 {
			f.Status = checkNote
		}
		if r, ok := s.(inventory.Reporter); ok {
			if problems := r.Problems(); len(problems) > 0 {
				f.Status, f.Detail = checkWarn, f.Detail+"; "+strings.Join(problems, "; ")
			}
		}
		out = append(out, f)
		if p, ok := s.(*inventory.Processes); ok {
			if asked, answer, held := p.Asked(); asked > 0 {
				f := finding{"asks hypervisors", checkOK, fmt.Sprintf("%d of %d answer at their control sockets", answer, asked), ""}
				if held > 0 {
					f.Detail += fmt.Sprintf("; %d monitors are another client's, as an agent that runs is one", held)
				}
				if answer+held < asked {
					f.Status = checkWarn
				}
				out = append(out, f)
			}
		}
		if len(all) == 0 {
			all = vms
		}
	}
	if len(all) == 0 {
		return out
	}
	vms := sampler.OpenVMs(sampler.VMsOptions{Agent: odometer.AgentID(host), Logger: logger})
	defer vms.Close()
	vms.Update(all)
	if err := vms.Sample(func(*odometer.Reading) {}); err != nil {
		out = append(out, finding{"virtual machines", checkWarn, err.Error(), ""})
	}
	return append(out, sourceFindings("of VMs measures ", vms.Sources())...)
}
