package inventory

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"sync/atomic"
	"time"

	"example.org/odometer"
	"example.org/odometer/internal/qmp"
)

// A monitor of QEMU serves one client at a time, and tells of a reboot, and of
// the moment of a pause, only who is connected. So a connection is held while
// nobody else wants it. Who comes meanwhile waits for a second at most, and for
// an hour after that the monitor is only visited: connected to, asked and left,
// which takes milliseconds. One that another client holds is left alone.

// errSilent says that a hypervisor does not answer.
var errSilent = errors.New("it does not answer")

// askMonitor asks the QEMU that was started with this command line, and holds
// its monitor as long as it may. It returns when to come again.
func askMonitor(command *guest) func(context.Context, *control) time.Duration {
	lines := 0  // how often in a row somebody stood in line and was not served
	silent := 0 // how often in a row nothing was said to who was in
	return func(ctx context.Context, c *control) time.Duration {
		socket, err := c.free(lineEvery)
		if !errors.Is(err, errLine) {
			lines = 0
		}
		if !errors.Is(err, errHeld) {
			c.mu.Lock()
			c.others = false
			c.mu.Unlock()
		}
		switch {
		case errors.Is(err, errHeld):
			return c.leave()
		case errors.Is(err, errLine):
			// Maybe this process itself was, and gave up: QEMU has not seen that yet.
			if lines++; lines < 2 {
				return lineEvery
			}
			c.failed(errSilent)
			return lineEvery
		case err != nil:
			return c.failed(err)
		}
		s := &session{c: c, again: make(chan struct{}, 1), first: true}
		limited, cancel := context.WithTimeout(ctx, c.pace.patience)
		conn, err := c.dial(limited, socket)
		if err == nil {
			s.client, err = qmp.New(limited, conn, s.event)
		}
		cancel()
		switch {
		case ctx.Err() != nil:
			return 0
		case errors.Is(err, qmp.ErrNoGreeting):
			// Somebody may have been quicker; then he is found in next time.
			if _, err := c.free(0); errors.Is(err, errHeld) && silent == 0 {
				silent++
				return c.leave()
			}
			return c.failed(errSilent)
		case errors.Is(err, qmp.ErrNoAnswer):
			return c.failed(errSilent)
		case err != nil:
			return c.failed(err)
		}
		silent = 0
		defer s.client.Close()
		return s.stay(ctx, command, socket)
	}
}

// leave leaves a monitor to the client that holds it, and returns when to see
// whether he still does.
func (c *control) leave() time.Duration {
	c.polite = time.Now().Add(c.pace.polite)
	if c.heldSince.IsZero() {
		c.heldSince = time.Now()
	}
	c.mu.Lock()
	c.others = true
	c.mu.Unlock()
	if time.Since(c.heldSince) >= c.pace.held {
		c.failed(errHeld)
		if _, state, _ := c.said(); state == odometer.Paused {
			// Who holds the monitor lets it go on, and nobody would see.
			c.turned(odometer.Running, saying{odometer.ChangeResumed, "another client holds its monitor: whether it is paused is not seen"})
		}
	}
	return c.pace.ask
}

// session is a connection to a monitor.
type session struct {
	c      *control
	client *qmp.Client
	again  chan struct{} // an event told that the machine is another
	pause  string        // why it is about to be paused

	first   bool        // nothing was asked yet
	changed atomic.Bool // an event told that more than devices and drives may be other
}

// settleFor is how long what an event told is waited for to come to rest.
const settleFor = time.Second

// stay asks until somebody else wants the monitor, or once where somebody did
// lately, or would not be seen.
func (s *session) stay(ctx context.Context, command *guest, socket string) time.Duration {
	c := s.c
	select {
	case <-c.yield: // which was meant for the session before
	default:
	}
	c.hold(socket, s.client.Done())
	defer c.hold("", nil)
	visits := !c.table.sees(c.pid)
	for {
		again := c.pace.ask
		err := s.ask(ctx, command)
		switch {
		case ctx.Err() != nil:
			return 0
		case s.client.Err() != nil:
			return c.failed(s.client.Err())
		case errors.Is(err, qmp.ErrNoAnswer):
			// The connection remains: it is answered when QEMU goes on.
			again = c.failed(errSilent)
		case err != nil:
			again = c.failed(err)
		}
		c.asked()
		if (visits || time.Now().Before(c.polite)) && !errors.Is(err, qmp.ErrNoAnswer) {
			return again
		}
		timer := time.NewTimer(again)
		due := time.Now().Add(again)
		for waiting := true; waiting; {
			select {
			case <-ctx.Done():
				timer.Stop()
				return 0
			case <-s.client.Done():
				timer.Stop()
				return c.failed(s.client.Err())
			case <-c.yield:
				timer.Stop()
				c.polite = time.Now().Add(c.pace.polite)
				return c.pace.ask
			case <-s.again: // once more, or as often as the machine likes: it is asked all the same
				if settled := time.Now().Add(settleFor); settled.Before(due) {
					due = settled
					timer.Reset(settleFor)
				}
			case <-timer.C:
				waiting = false
			}
		}
	}
}

// ask asks what the machine is. Each question costs QEMU a third of a
// millisecond of processor time, which its machine is charged with: so mostly it
// asks only for what no event tells, which devices there are and what is in the
// drives, and for everything when those are other devices, an event says so, or it
// was long ago.
func (s *session) ask(ctx context.Context, command *guest) error {
	c, q := s.c, s.client
	ctx, cancel := context.WithTimeout(ctx, c.pace.patience)
	defer cancel()
	c.mu.Lock()
	turns, state, before := c.turns, c.state, c.now
	c.mu.Unlock()
	if s.first { // after that it is told
		status, err := q.Status(ctx)
		if err != nil {
			return err
		}
		state = odometer.Running
		if !status.Running {
			state = odometer.Paused
		}
	}
	devices, err := q.Devices(ctx)
	if err = serious(err); err != nil {
		return err
	}
	drives, err := q.Drives(ctx)
	if err = serious(err); err != nil {
		return err
	}
	var now live
	if before != nil && time.Since(c.wholly) < c.pace.wholly && maps.Equal(devices, before.devices) && !s.changed.Swap(false) {
		now = *before
	} else if err = s.wholly(ctx, command, devices, &now); err != nil {
		return err
	}
	now.devices, now.drives = devices, drives
	s.first = false
	c.answered(&now, state, turns)
	return nil
}

// wholly asks for everything else. What QEMU refuses to say, because it is too
// old, is not known and no error.
func (s *session) wholly(ctx context.Context, command *guest, devices map[string]string, now *live) error {
	c, q := s.c, s.client
	*now = live{vcpus: odometer.Unknown, memory: odometer.Unknown, devices: devices}
	cpus, err := q.CPUs(ctx)
	if err == nil && len(cpus) > 0 {
		now.vcpus = int64(len(cpus))
	}
	if err = serious(err); err != nil {
		return err
	}
	base, plugged, err := q.Memory(ctx)
	if err == nil {
		now.memory = base + plugged
		if left, err := q.Balloon(ctx); err == nil { // the guest tells it: what makes no sense is not told
			now.balloon = max(0, now.memory-left)
		}
	}
	if err = serious(err); err != nil {
		return err
	}
	if now.nics, err = q.NICs(ctx); serious(err) != nil {
		return err
	}
	for _, id := range now.plugged(command) {
		d := hostDevice{name: id, plug: plug{id: id}}
		object := "/machine/peripheral/" + id
		if d.sysfs, err = q.Property(ctx, object, "sysfsdev"); err == nil && d.sysfs == "" {
			d.address, err = q.Property(ctx, object, "host")
		}
		if serious(err) != nil {
			return err
		}
		now.hosts = append(now.hosts, d)
	}
	c.wholly = time.Now()
	return nil
}

// serious is nil where QEMU said no, and the error otherwise.
func serious(err error) error {
	if _, no := errors.AsType[*qmp.Error](err); no {
		return nil
	}
	return err
}

// endings say how a machine ends, by the reason of the event SHUTDOWN; see
// ShutdownCause in QEMU's qapi/run-state.json.
var endings = map[string]saying{
	"guest-shutdown": {odometer.ChangeStopped, "it shut itself down"},
	"guest-reset":    {odometer.ChangeStopped, "it rebooted, which ends it"},
	"guest-panic":    {odometer.ChangeCrashed, "its kernel panicked"},
	"host-error":     {odometer.ChangeCrashed, "its host failed it"},
	"host-qmp-quit":  {odometer.ChangeStopped, "ended over its monitor"},
	"host-signal":    {odometer.ChangeStopped, "ended by a signal"},
	"host-ui":        {odometer.ChangeStopped, "ended at its display"},
}

// pauses say why a machine is about to be paused, by the events that come
// before STOP where their action says that it will be.
var pauses = map[string]string{
	"BLOCK_IO_ERROR": "by an I/O error",
	"WATCHDOG":       "by its watchdog",
	"GUEST_PANICKED": "its kernel panicked",
}

// event takes what QEMU tells unasked. It waits for nothing.
func (s *session) event(e qmp.Event) {
	c := s.c
	switch e.Name {
	case "STOP":
		c.turned(odometer.Paused, saying{odometer.ChangePaused, s.pause})
		s.pause = ""
	case "SUSPEND":
		c.turned(odometer.Paused, saying{odometer.ChangePaused, "it suspended itself to memory"})
	case "RESUME":
		s.goesOn()
		c.turned(odometer.Running, saying{odometer.ChangeResumed, ""})
	case "WAKEUP":
		c.turned(odometer.Running, saying{odometer.ChangeResumed, "woken up"})
	case "RESET":
		s.goesOn()
		detail := "reset by its host"
		if e.Guest {
			detail = ""
		}
		c.tell(odometer.ChangeRebooted, detail)
	case "SHUTDOWN":
		c.mu.Lock()
		c.because = endings[e.Reason]
		c.mu.Unlock()
		s.pause = endings[e.Reason].detail // with -no-shutdown it is kept, and paused
	case "BLOCK_IO_ERROR", "WATCHDOG", "GUEST_PANICKED":
		var data struct {
			Action string `json:"action"`
		}
		if json.Unmarshal(e.Data, &data) == nil && (data.Action == "stop" || data.Action == "pause") {
			s.pause = pauses[e.Name]
		}
	case "DEVICE_DELETED", "BALLOON_CHANGE", "MEMORY_DEVICE_SIZE_CHANGE", "ACPI_DEVICE_OST",
		"BLOCK_JOB_COMPLETED", "DEVICE_TRAY_MOVED":
		s.changed.Store(true)
		select {
		case s.again <- struct{}{}:
		default:
		}
	}
}

// goesOn forgets why it was about to end, which it has survived.
func (s *session) goesOn() {
	s.pause = ""
	s.c.mu.Lock()
	s.c.because = saying{}
	s.c.mu.Unlock()
}
