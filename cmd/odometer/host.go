package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"example.org/odometer"
	"example.org/odometer/agent"
	"example.org/odometer/meter"
	"example.org/odometer/sampler"
	"example.org/odometer/spool"
)

// meterFlags say what an agent meters, and how often.
type meterFlags struct {
	Interval   time.Duration // whole seconds, from 1
	InstanceID string        // what this machine is metered as
	UserID     string        // whom its usage is charged to, "" for nobody yet
	OrgID      string
	SpoolBytes int64  // on disk, of events without a receipt
	Source     string // what is metered here: auto, machine, vms or machine,vms
	VMFile     string // names virtual machines that nothing else finds, "" for none
}

// defaultInterval is the plan's: a period that a person still sees close, at
// 2,880 events a day.
const defaultInterval = 30 * time.Second

func (c *meterFlags) register(flags *pflag.FlagSet) {
	flags.DurationVar(&c.Interval, "interval", defaultInterval, "length of a period, in whole seconds; periods also close at UTC hours")
	flags.StringVar(&c.InstanceID, "instance-id", "", "what this machine is metered as (default: the host's name)")
	flags.StringVar(&c.UserID, "user-id", "", "user whom this machine's usage is charged to (default: unassigned)")
	flags.StringVar(&c.OrgID, "org-id", "", "organisation of that user")
	flags.Int64Var(&c.SpoolBytes, "spool-bytes", spool.DefaultMaxBytes, "disk space for events that have no receipt yet; beyond it they are joined into longer periods")
	flags.StringVar(&c.Source, "source", sourceAuto, "what is metered: machine (this one, from within), vms (the virtual machines on it, from outside) or machine,vms; auto is vms, and machine too where none runs at the start")
	flags.StringVar(&c.VMFile, "vm-file", "", "file that names virtual machines which nothing else finds")
}

// minSpoolBytes is what a spool needs to be able to join periods at all.
const minSpoolBytes = 1 << 20

func (c *meterFlags) check() error {
	errs := []error{checkInterval(c.Interval), c.checkSource()}
	errs = append(errs, checkID("instance-id", c.InstanceID, false), checkID("user-id", c.UserID, false), checkID("org-id", c.OrgID, false))
	if c.OrgID != "" && c.UserID == "" {
		errs = append(errs, errors.New("--org-id needs --user-id: usage is charged to a user"))
	}
	if c.SpoolBytes < minSpoolBytes {
		errs = append(errs, fmt.Errorf("--spool-bytes %d: at least %d are needed", c.SpoolBytes, minSpoolBytes))
	}
	return errors.Join(errs...)
}

func checkInterval(d time.Duration) error {
	if d < time.Second || d%time.Second != 0 || d > time.Hour {
		return fmt.Errorf("--interval %s: whole seconds from 1s to 1h are possible", d)
	}
	return nil
}

func (c *meterFlags) owner() odometer.Owner {
	return odometer.Owner{User: odometer.UserID(c.UserID), Org: odometer.OrgID(c.OrgID)}
}

// gcPercent lets the heap grow by half before it is collected: at rest it is
// small, and a small footprint is worth more than the processor time.
const gcPercent = 50

// confine makes the process a quiet and discreet guest: what it writes is for
// its own user, and its heap stays small.
func confine() {
	syscall.Umask(0o077)
	debug.SetGCPercent(gcPercent)
}

// hostName is the default of every id that names this machine.
func hostName() (string, error) {
	name, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("the host's name: %w", err)
	}
	if err := odometer.ValidID("the host's name", name); err != nil {
		return "", advise(err, "name it with --instance-id")
	}
	return name, nil
}

// host is the half of the flow that runs on every host:
//
//	sampler ─▶ meter ─▶ spool
type host struct {
	machine *sampler.Machine // also where only virtual machines are metered: /get shows it
	vms     *machines        // nil where they are not metered
	self    *measured        // the machine as it is metered, nil where it is not
	owners  *hostOwners
	spool   *spool.Spool
	agent   *agent.Agent
	started time.Time

	interval time.Duration // length of a period
}

// measured is this machine as a source of readings, which remembers what it was
// given.
type measured struct {
	*sampler.Machine
	instance odometer.InstanceID
	name     string
	vcpus    atomic.Int64
	memory   atomic.Int64 // bytes
}

func (m *measured) Sample(emit func(*odometer.Reading)) error {
	return m.Machine.Sample(func(r *odometer.Reading) {
		m.vcpus.Store(r.Gauges.VCPUs)
		m.memory.Store(r.Gauges.MemoryAllocated)
		emit(r)
	})
}

// own describes this machine as an instance, a zero one where it is not metered.
func (h *host) own() odometer.VM {
	if h.self == nil {
		return odometer.VM{}
	}
	return odometer.VM{
		Instance: h.self.instance, Name: h.self.name, Source: sourceMachine, State: odometer.Running,
		VCPUs: h.self.vcpus.Load(), Memory: h.self.memory.Load(),
	}
}

// openHost opens the machine and the spool below dir. Recall may be nil.
func openHost(dir *dataDir, id odometer.AgentID, c meterFlags, logger *slog.Logger,
	recall func(context.Context) ([]json.RawMessage, error), onPeriod func(*odometer.Event)) (_ *host, err error) {
	h := &host{started: time.Now(), interval: c.Interval}
	defer func() {
		if err != nil {
			h.close()
		}
	}()
	h.spool, err = spool.Open(spool.Options{Dir: dir.file(spoolDir), MaxBytes: c.SpoolBytes, Logger: logger})
	if err != nil {
		return nil, fmt.Errorf("open the spool: %w", err)
	}
	last := lastReadings(h.spool.Checkpoints())
	h.machine, err = sampler.OpenMachine(sampler.MachineOptions{
		Instance: odometer.InstanceID(c.InstanceID), Agent: id, Owner: c.owner().OrUnassigned(), Logger: logger,
		PreviousBoot: last[odometer.InstanceID(c.InstanceID)].BootID,
	})
	if err != nil {
		return nil, advise(fmt.Errorf("nothing of this machine can be measured: %w", err), "odometer doctor says more")
	}
	boot, err := sampler.BootID()
	if err != nil {
		logger.Warn("the kernel tells no boot id; a reboot is recognised by the clock", "err", err)
	}
	var source together
	if c.names(sourceVMs) {
		if h.vms, err = openMachines(id, &c, previous(last, boot), dir.file(imagesFile), logger); err != nil {
			return nil, err
		}
		source = append(source, h.vms.vms)
	}
	if c.names(sourceMachine) && (c.Source != sourceAuto || c.VMFile == "" && !h.vms.any(context.Background())) {
		h.self = &measured{Machine: h.machine, instance: odometer.InstanceID(c.InstanceID)}
		h.self.name, _ = os.Hostname() // for people: it may be unknown
		source = append(source, h.self)
	}
	h.owners = openOwners(dir.file(ownersFile), logger)
	h.agent, err = agent.New(agent.Options{
		Source: source, Owners: &h.owners.Owners,
		Meter: meter.New(meter.Options{
			Agent: id, Nonce: string(h.spool.ID()), Interval: dueAfter(c.Interval).Microseconds(), BootID: boot,
		}),
		Spool: h.spool, Interval: c.Interval, Logger: logger, Recall: recall, OnPeriod: onPeriod,
	})
	return h, err
}

// dueAfter is when a period of the interval closes: at the tick that is
// nearest to its end, since ticks come a few milliseconds early or late.
func dueAfter(interval time.Duration) time.Duration { return interval - agent.Tick/2 }

// run meters until ctx is done, after which what is open is closed and stored.
func (h *host) run(intake *phase) {
	if h.vms != nil {
		intake.run("inventory", h.vms.run)
		intake.run("shared images", h.vms.keepImages)
		intake.run("instances that are gone", func(ctx context.Context) error {
			if ids, ok := h.vms.here(ctx); ok {
				if h.self != nil {
					ids = append(ids, h.self.instance)
				}
				h.agent.Here(sampler.SystemClock{}.Now(), ids)
			}
			<-ctx.Done()
			return nil
		})
	}
	intake.run("agent", h.agent.Run)
}

func (h *host) close() error {
	var errs []error
	if h.vms != nil {
		errs = append(errs, h.vms.close())
	}
	if h.machine != nil {
		errs = append(errs, h.machine.Close())
	}
	if h.spool != nil {
		errs = append(errs, h.spool.Close())
	}
	return errors.Join(errs...)
}

// lastReceipt is what the spool remembers of the ledger: sending goes on from
// there.
func lastReceipt(s *spool.Spool, id odometer.AgentID) odometer.Receipt {
	st := s.Stats()
	return odometer.Receipt{Agent: id, Spool: s.ID(), Position: st.Acked, Ledger: st.Ledger, Generation: st.Generation}
}

// newLogger returns a logger that writes plain lines.
func newLogger(s streams, level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("--log-level %q: debug, info, warn and error are possible", level)
	}
	w := s.out
	if s.outTTY {
		// A person sees what matters from the console; the log adds what is
		// wrong.
		w, l = s.err, max(l, slog.LevelWarn)
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: l})), nil
}

const defaultLogLevel = "info"

// absolute makes a directory's name independent of where the process is.
func absolute(dir string) (string, error) {
	if dir == "" {
		return "", errors.New("--data-dir is empty; name a directory")
	}
	return filepath.Abs(dir)
}

// watch is what a console looks at. A nil host has nothing to look at.
func (h *host) watch() watched {
	if h == nil {
		none := func() uint64 { return 0 }
		return watched{
			open: func() []*odometer.Event { return nil }, stored: none, commits: none,
			entries: func() int64 { return -1 }, backlog: func() int64 { return 0 },
		}
	}
	return watched{
		open:    func() []*odometer.Event { return h.agent.Live().Open },
		stored:  func() uint64 { return h.spool.Stats().Last },
		commits: func() uint64 { return h.spool.Stats().Acked },
		entries: func() int64 { return -1 },
		backlog: func() int64 { return h.spool.Stats().Unacked },
	}
}
