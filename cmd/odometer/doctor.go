package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"example.org/odometer"
	"example.org/odometer/api"
	"example.org/odometer/api/client"
	"example.org/odometer/sampler"
)

// doctorConfig is what `odometer doctor` is told.
type doctorConfig struct {
	serverFlags
	HTTP string // where serve would listen
	NATS string
	JSON bool
}

// finding is the result of one check.
type finding struct {
	Check  string `json:"check"`
	Status string `json:"status"` // "ok", "note", "warn" or "fail"
	Detail string `json:"detail"`
	Next   string `json:"next,omitempty"` // what to do
}

const (
	checkOK   = "ok"
	checkNote = "note" // a fact that is nobody's fault
	checkWarn = "warn" // it works, and something is not as it should be
	checkFail = "fail" // odometer does not work here
)

func newDoctor(s streams) *cobra.Command {
	var c doctorConfig
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check clock, disk, ports and permissions, and what can be measured here",
		Long: `Check clock, disk, ports and permissions, and say what can be measured here,
what cannot, and why. For the disk it writes and syncs a small file in the data
directory and removes it; it changes nothing else.

Exit code 0: odometer works here. 1: it does not.`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			findings := diagnose(cmd.Context(), c)
			failed := slices.ContainsFunc(findings, func(f finding) bool { return f.Status == checkFail })
			var err error
			if c.JSON {
				err = printJSON(s.out, map[string]any{"ok": !failed, "checks": findings})
			} else {
				err = showFindings(s, findings)
			}
			if err == nil && failed {
				err = silent(exitFailed)
			}
			return err
		},
	}
	c.register(cmd.Flags(), s.env)
	cmd.Flags().StringVar(&c.HTTP, "http", defaultHTTP, "where `odometer serve` would listen")
	cmd.Flags().StringVar(&c.NATS, "nats", defaultNATS, "where its queue would listen")
	cmd.Flags().BoolVar(&c.JSON, "json", false, "as JSON")
	return cmd
}

func showFindings(s streams, findings []finding) error {
	var b strings.Builder
	for _, f := range findings {
		fmt.Fprintf(&b, "%-4s  %-16s %s\n", f.Status, f.Check, printable(f.Detail))
		if f.Next != "" {
			fmt.Fprintf(&b, "%-4s  %-16s → %s\n", "", "", f.Next)
		}
	}
	_, err := s.out.Write([]byte(b.String()))
	return err
}

// diagnose makes every check, in the order in which they build on each other.
func diagnose(ctx context.Context, c doctorConfig) []finding {
	var out []finding
	out = append(out, checkClock(), checkBootClock())
	dir, usable := checkDataDir(c.DataDir)
	out = append(out, dir...)
	if usable != "" {
		out = append(out, checkSync(usable))
	}
	info, running := runningServer(c.DataDir)
	for _, p := range []struct{ name, addr, mine string }{{"port http", c.HTTP, info.HTTP}, {"port queue", c.NATS, info.NATS}} {
		out = append(out, checkPort(p.name, p.addr, running, strings.HasSuffix(p.mine, "//"+p.addr)))
	}
	out = append(out, checkSources()...)
	out = append(out, checkMachines(ctx)...)
	return append(out, checkServer(ctx, c, running))
}

// earliest is before the first release: a clock that shows less was never set.
var earliest = time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)

func checkClock() finding {
	f := finding{Check: "clock", Status: checkOK}
	var tx unix.Timex
	_, err := unix.Adjtimex(&tx)
	now := time.Now().UTC()
	switch {
	case now.Before(earliest):
		f.Status = checkFail
		f.Detail = fmt.Sprintf("shows %s: it was never set, and the ledger holds events of such a clock", now.Format(time.RFC3339))
		f.Next = "set the clock, and run chrony or systemd-timesyncd"
	case err != nil:
		f.Status, f.Detail = checkNote, "the kernel does not say whether it is synchronised: "+err.Error()
	case !clockSynchronised(&tx):
		f.Status = checkWarn
		f.Detail = "nothing keeps it right, as far as the kernel knows; spans are measured by the boot clock and stay true, their labels drift"
		f.Next = "run chrony or systemd-timesyncd (in a container the host does)"
	default:
		f.Detail = fmt.Sprintf("synchronised, estimated error %s", time.Duration(tx.Esterror)*time.Microsecond)
	}
	return f
}

func clockSynchronised(tx *unix.Timex) bool { return tx.Status&unix.STA_UNSYNC == 0 }

func checkBootClock() finding {
	f := finding{Check: "boot clock", Status: checkOK}
	boot, err1 := sampler.BootID()
	var a, b unix.Timespec
	err2 := errors.Join(unix.ClockGettime(unix.CLOCK_BOOTTIME, &a), unix.ClockGettime(unix.CLOCK_BOOTTIME, &b))
	if err := errors.Join(err1, err2); err != nil {
		f.Status, f.Detail = checkFail, strings.ReplaceAll(err.Error(), "\n", "; ")
		f.Next = "use a kernel with CLOCK_BOOTTIME (2.6.39 or later) and /proc mounted"
		return f
	}
	f.Detail = fmt.Sprintf("up %s, boot %s", time.Duration(a.Nano()).Round(time.Second), boot)
	return f
}

// checkDataDir looks at the data directory, or at where it would be made, and
// returns a directory in which the disk can be tried, "" for none.
func checkDataDir(path string) (out []finding, usable string) {
	f := finding{Check: "data directory", Status: checkOK}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		parent := existingParent(path)
		if unix.Access(parent, unix.W_OK|unix.X_OK) != nil {
			f.Status, f.Detail = checkFail, fmt.Sprintf("%s is not there and %s is not writable", path, parent)
			f.Next = "--data-dir names another"
			return []finding{f}, ""
		}
		f.Status, f.Detail, usable = checkNote, fmt.Sprintf("%s is not there yet; `odometer serve` makes it in %s", path, parent), parent
	case err != nil:
		f.Status, f.Detail, f.Next = checkFail, err.Error(), "--data-dir names another"
		return []finding{f}, ""
	case !info.IsDir():
		f.Status, f.Detail, f.Next = checkFail, path+" is not a directory", "--data-dir names another"
		return []finding{f}, ""
	case unix.Access(path, unix.W_OK|unix.X_OK) != nil:
		f.Status, f.Detail = checkFail, path+" is not writable for this user"
		f.Next = "run as the user who owns it, or name another with --data-dir"
		return []finding{f}, ""
	case info.Mode().Perm()&0o077 != 0:
		f.Status, f.Detail = checkWarn, fmt.Sprintf("%s may be entered by other users (mode %04o)", path, info.Mode().Perm())
		f.Next, usable = "chmod 700 "+path, path
	default:
		f.Detail, usable = path, path
	}
	out = append(out, f)
	var st unix.Statfs_t
	if err := unix.Statfs(usable, &st); err == nil {
		out = append(out, checkSpace(&st))
	}
	if info, err := os.Stat(filepath.Join(path, tokenFile)); err == nil && info.Mode().Perm()&0o077 != 0 {
		out = append(out, finding{"token", checkFail, fmt.Sprintf("admin.token may be read by other users (mode %04o)", info.Mode().Perm()),
			"chmod 600 " + filepath.Join(path, tokenFile)})
	}
	return out, usable
}

const (
	// A disk with less than lowSpace free is filled by a day of a busy host.
	lowSpace = 1 << 30
	// Below noSpace JetStream and SQLite begin to fail.
	noSpace = 64 << 20
)

func checkSpace(st *unix.Statfs_t) finding {
	free := st.Bavail * uint64(st.Bsize)
	f := finding{Check: "disk space", Status: checkOK, Detail: humanBytes(float64(free)) + " free"}
	switch {
	case st.Type == unix.TMPFS_MAGIC || st.Type == unix.RAMFS_MAGIC:
		f.Status, f.Detail = checkWarn, f.Detail+", and it is memory: nothing here survives a reboot"
		f.Next = "--data-dir names a directory on a disk"
	case free < noSpace:
		f.Status, f.Next = checkFail, "make room"
	case free < lowSpace:
		f.Status, f.Next = checkWarn, "make room"
	}
	return f
}

func existingParent(path string) string {
	for {
		path = filepath.Dir(path)
		if _, err := os.Stat(path); err == nil || path == "/" || path == "." {
			return path
		}
	}
}

const (
	syncRounds = 25
	syncBytes  = 4096
	// slowSync leaves less than a hundred commits a second. They are grouped,
	// so that slow is not wrong.
	slowSync = 10 * time.Millisecond
)

// checkSync measures what a commit costs: writing a block and waiting until
// the disk has it.
func checkSync(dir string) finding {
	f := finding{Check: "fsync", Status: checkOK}
	took, err := measureSync(dir)
	if err != nil {
		f.Status, f.Detail, f.Next = checkFail, err.Error(), "nothing can be kept on this disk; --data-dir names another"
		return f
	}
	slices.Sort(took)
	median, worst := took[len(took)/2], took[len(took)-1]
	f.Detail = fmt.Sprintf("median %s, slowest %s of %d", median.Round(10*time.Microsecond), worst.Round(10*time.Microsecond), len(took))
	if median > slowSync {
		f.Status, f.Next = checkWarn, "a disk with a write cache that survives power loss is faster; nothing is lost either way"
	}
	return f
}

func measureSync(dir string) (took []time.Duration, err error) {
	file, err := os.CreateTemp(dir, "doctor.*.tmp")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close(), os.Remove(file.Name())) }()
	block := make([]byte, syncBytes)
	for range syncRounds {
		begin := time.Now()
		if _, err := file.Write(block); err != nil {
			return nil, err
		}
		if err := unix.Fdatasync(int(file.Fd())); err != nil {
			return nil, fmt.Errorf("fdatasync: %w", err)
		}
		took = append(took, time.Since(begin))
	}
	return took, nil
}

// runningServer says which server holds the data directory, by its lock.
func runningServer(dir string) (serverInfo, bool) {
	f, err := os.Open(filepath.Join(dir, lockFile))
	if err != nil {
		return serverInfo{}, false
	}
	defer f.Close()
	if syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB) == nil {
		return serverInfo{}, false // closing gives it back
	}
	info, err := readServerInfo(dir)
	return info, err == nil
}

func checkPort(name, addr string, running, mine bool) finding {
	f := finding{Check: name, Status: checkOK, Detail: addr + " is free"}
	if addr == "" || strings.Contains(addr, "://") {
		f.Status, f.Detail = checkNote, "an external queue is used"
		return f
	}
	l, err := net.Listen("tcp", addr)
	switch {
	case err == nil:
		l.Close()
	case running && mine:
		f.Detail = addr + " is the running server's"
	default:
		f.Status, f.Detail = checkFail, err.Error()
		f.Next = "stop what uses it, or choose another with --" + strings.TrimPrefix(strings.ReplaceAll(name, "queue", "nats"), "port ")
	}
	return f
}

// checkSources says what of this machine is measured.
func checkSources() []finding {
	machine, err := sampler.OpenMachine(sampler.MachineOptions{Instance: "doctor", Agent: "doctor"})
	if err == nil {
		defer machine.Close()
		err = machine.Sample(func(*odometer.Reading) {})
	}
	if err != nil {
		return []finding{{"measurement", checkFail, err.Error(), "run on Linux with /proc and /sys mounted"}}
	}
	return sourceFindings("measures ", machine.Sources())
}

// sourceFindings says of each source what it measures and what it cannot.
func sourceFindings(check string, sources []sampler.SourceStatus) (out []finding) {
	for _, src := range sources {
		f := finding{Check: check + src.Name, Status: checkOK, Detail: src.Detail}
		switch {
		case src.Problem != "" && src.Detail != "":
			f.Status, f.Detail = checkWarn, src.Detail+"; not measured: "+src.Problem
		case src.Problem != "":
			f.Status, f.Detail = checkWarn, "not measured: "+src.Problem
		case !src.OK && src.Detail == "":
			f.Status, f.Detail = checkNote, "there is none"
		case !src.OK:
			f.Status = checkNote
		}
		out = append(out, f)
	}
	return out
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

const doctorPatience = 5 * time.Second

func checkServer(ctx context.Context, c doctorConfig, running bool) finding {
	f := finding{Check: "server", Status: checkOK}
	server, err := c.client()
	if err != nil {
		return finding{"server", checkFail, err.Error(), ""}
	}
	ctx, cancel := context.WithTimeout(ctx, doctorPatience)
	defer cancel()
	st, err := server.Status(ctx)
	if err == nil {
		f.Detail = fmt.Sprintf("%s answers: odometer %s, %s", server.Server, st.Version, st.Health.Status)
		for _, name := range slices.Sorted(maps.Keys(st.Health.Components)) {
			if c := st.Health.Components[name]; c.Status != api.OK {
				f.Status = checkWarn
				f.Detail += fmt.Sprintf("; %s: %s", name, cmp.Or(deref(c.Details), string(c.Status)))
			}
		}
		return f
	}
	if _, unreachable := errors.AsType[*client.UnreachableError](err); unreachable && !running && c.Server == "" {
		f.Status, f.Detail, f.Next = checkNote, "none runs here", "odometer serve"
		return f
	}
	f.Status, f.Detail = checkFail, err.Error()
	return f
}
