package sampler

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"example.org/odometer"
	"golang.org/x/sys/unix"
)

// statfsPatience is how long a sample waits for the filesystems. A healthy
// one answers in microseconds; what takes longer hangs, is left to its own
// goroutine and keeps its last value until it answers.
const statfsPatience = 100 * time.Millisecond

// statfsFunc is statfs(2) with a path that ends in a zero byte.
type statfsFunc func(path []byte, st *unix.Statfs_t) error

// storage measures what filesystems occupy without ever standing still: each
// has a goroutine that makes the system calls which may hang.
type storage struct {
	list  []*filesystem
	wake  chan struct{} // a filesystem has answered
	timer *time.Timer
	poll  [1]unix.PollFd
}

// filesystem is one that counts.
type filesystem struct {
	device string
	points []string // where it is mounted
	statfs statfsFunc
	ask    chan struct{} // capacity 1; closed when it is not wanted any more
	busy   atomic.Bool   // asked and not answered
	asked  bool          // by the present sample, which alone looks at this
	gone   chan struct{} // closed when its goroutine has ended

	// Written by its goroutine.
	occupied atomic.Int64 // bytes, Unknown before the first answer
	failure  atomic.Pointer[error]
	path     []byte
	st       unix.Statfs_t
}

func (s *storage) init() {
	s.wake = make(chan struct{}, 1)
	s.timer = time.NewTimer(time.Hour)
	s.timer.Stop()
}

// replace takes over a scan's filesystems, keeping those it has already.
func (s *storage) replace(list []*filesystem, statfs statfsFunc) {
	old := s.list
	s.list = list
	for i, fs := range list {
		same := slices.IndexFunc(old, func(o *filesystem) bool {
			return o.device == fs.device && slices.Equal(o.points, fs.points)
		})
		if same >= 0 {
			list[i] = old[same]
			old = slices.Delete(slices.Clone(old), same, same+1)
			continue
		}
		fs.statfs, fs.ask, fs.gone = statfs, make(chan struct{}, 1), make(chan struct{})
		fs.occupied.Store(odometer.Unknown)
		go fs.serve(s.wake)
	}
	for _, o := range old {
		close(o.ask)
	}
}

// refresh asks every filesystem that answered the last time and waits for the
// answers, statfsPatience at most.
func (s *storage) refresh() {
	waiting := false
	for _, fs := range s.list {
		if fs.asked = fs.busy.CompareAndSwap(false, true); fs.asked {
			fs.ask <- struct{}{}
			waiting = true
		}
	}
	if !waiting {
		return
	}
	s.timer.Reset(statfsPatience)
	defer s.timer.Stop()
	for s.waiting() {
		select {
		case <-s.wake:
		case <-s.timer.C:
			return
		}
	}
}

// waiting reports whether one that was asked by this sample has not answered.
func (s *storage) waiting() bool {
	for _, fs := range s.list {
		if fs.asked && fs.busy.Load() {
			return true
		}
	}
	return false
}

// used returns the bytes that all filesystems occupy together, without those
// that never answered; Unknown when none did.
func (s *storage) used() int64 {
	return total(s.list, func(fs *filesystem) int64 { return fs.occupied.Load() })
}

// total adds up what is known of some amounts, none of them negative; Unknown
// where nothing is, or the sum does not fit.
func total[T any](list []T, amount func(T) int64) int64 {
	sum := odometer.Unknown
	for _, one := range list {
		if n := amount(one); n != odometer.Unknown {
			sum = max(sum, 0)
			if sum += n; sum < 0 {
				return odometer.Unknown
			}
		}
	}
	return sum
}

// describe completes the status of the source.
func (s *storage) describe(st *SourceStatus) {
	var points, problems []string
	for _, fs := range s.list {
		if fs.occupied.Load() != odometer.Unknown {
			points = append(points, fs.points[0])
		}
		if fs.busy.Load() {
			problems = append(problems, fs.points[0]+" does not answer; what it last occupied is held")
		} else if err := fs.failure.Load(); err != nil {
			problems = append(problems, (*err).Error())
		}
	}
	st.Detail = strings.Join(points, ", ")
	st.OK = len(points) > 0
	st.Problem = strings.Join(problems, "; ")
}

func (s *storage) close() {
	s.timer.Reset(statfsPatience)
	defer s.timer.Stop()
	for _, fs := range s.list {
		close(fs.ask)
	}
	for _, fs := range s.list {
		select {
		case <-fs.gone:
		case <-s.timer.C:
			return
		}
	}
	s.list = nil
}

// serve answers until it is not asked any more.
func (fs *filesystem) serve(wake chan<- struct{}) {
	defer close(fs.gone)
	for range fs.ask {
		fs.fail(fs.measure())
		fs.busy.Store(false)
		select {
		case wake <- struct{}{}:
		default: // somebody woke the waiter already and it will look at all
		}
	}
}

// fail records how the last attempt went.
func (fs *filesystem) fail(err error) {
	if err == nil {
		fs.failure.Store(nil)
		return
	}
	said := err // escapes; a parameter that did would cost every attempt an allocation
	fs.failure.Store(&said)
}

var errFileMounts = errors.New("mounted here over single files only")

func (fs *filesystem) measure() error {
	if fs.path == nil {
		for _, p := range fs.points {
			if info, err := os.Stat(p); err != nil {
				return err
			} else if info.IsDir() {
				fs.path = append([]byte(p), 0)
				break
			}
		}
		if fs.path == nil {
			return fmt.Errorf("%s: %w", fs.points[0], errFileMounts)
		}
	}
	if err := fs.statfs(fs.path, &fs.st); err != nil {
		return fmt.Errorf("statfs %s: %w", fs.path[:len(fs.path)-1], err)
	}
	n, ok := occupied(uint64(fs.st.Blocks), uint64(fs.st.Bfree), int64(fs.st.Frsize))
	if !ok {
		return fmt.Errorf("statfs %s: %d of %d blocks of %d bytes are free: that cannot be", fs.path[:len(fs.path)-1], fs.st.Bfree, fs.st.Blocks, fs.st.Frsize)
	}
	fs.occupied.Store(n)
	return nil
}

// occupied returns (blocks − free) × size, not ok where that makes no sense.
func occupied(blocks, free uint64, size int64) (int64, bool) {
	if free > blocks || size <= 0 {
		return 0, false
	}
	hi, lo := bits.Mul64(blocks-free, uint64(size))
	return int64(lo), hi == 0 && lo <= math.MaxInt64
}
