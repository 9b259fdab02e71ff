package sampler

import (
	"bytes"
	"fmt"
	"os"
	"time"

	"example.org/odometer"
	"golang.org/x/sys/unix"
)

// Clock tells the present moment. Boot never goes backwards.
type Clock interface {
	Now() odometer.Moment
}

// SystemClock is the host's own clock: CLOCK_BOOTTIME, which counts time spent
// suspended and which nobody can set, and CLOCK_REALTIME for the label.
type SystemClock struct{}

// sameMoment is how far apart the two clocks may have been read. A thread that
// was descheduled between the two would otherwise see a step of the wall clock
// that nobody made.
const sameMoment = 200 * time.Microsecond

// Now reads both clocks, within [sameMoment] of one another unless the host
// is too busy to grant that in four attempts.
func (SystemClock) Now() odometer.Moment {
	var at odometer.Moment
	for range 4 {
		before := bootNanos()
		at.Wall = time.Now().UnixMicro()
		after := bootNanos()
		at.Boot = before / 1000
		if after-before <= int64(sameMoment) {
			break
		}
	}
	return at
}

// bootNanos reads CLOCK_BOOTTIME, which every kernel since 2.6.39 has, so
// that its failure is not a condition to handle.
func bootNanos() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(fmt.Sprintf("read CLOCK_BOOTTIME: %v", err))
	}
	return ts.Nano()
}

// suspended returns how long the machine was suspended since boot, in
// microseconds, to within the time between two readings of a clock: boot time
// goes on meanwhile and CLOCK_MONOTONIC does not.
func (SystemClock) suspended() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic(fmt.Sprintf("read CLOCK_MONOTONIC: %v", err))
	}
	return (bootNanos() - ts.Nano()) / 1000
}

// sleepWatch tells whether the machine was suspended. The zero value begins to
// watch with the first question.
type sleepWatch struct{ suspended int64 }

// since reports whether the machine was suspended since the last call. A clock
// that is not the host's own was not.
func (w *sleepWatch) since(c Clock) bool {
	clock, ok := c.(interface{ suspended() int64 })
	if !ok {
		return false
	}
	before := w.suspended
	w.suspended = clock.suspended()
	return w.suspended-before > odometer.SecondMicros
}

const bootIDPath = "/proc/sys/kernel/random/boot_id"

// BootID returns the kernel's random identifier of this boot: counters with
// equal boot ids count from the same start.
func BootID() (string, error) { return readBootID(bootIDPath) }

func readBootID(path string) (string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read the boot id: %w", err)
	}
	id := string(bytes.TrimSpace(b))
	if id == "" {
		return "", fmt.Errorf("read the boot id: %s is empty", path)
	}
	return id, nil
}

// ticksPerSecond returns USER_HZ, the unit of /proc/stat, as the kernel tells
// it in the auxiliary vector; 100 where it does not.
func ticksPerSecond() uint64 {
	const atClkTck = 17 // AT_CLKTCK
	aux, err := unix.Auxv()
	if err == nil {
		for _, e := range aux {
			if e[0] == atClkTck && e[1] > 0 {
				return uint64(e[1])
			}
		}
	}
	return 100
}
