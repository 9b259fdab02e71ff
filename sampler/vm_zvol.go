package sampler

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"example.org/odometer"
)

const (
	// zvolsEvery is how often ZFS is asked for all its volumes, by one run of
	// its command, while a machine has one.
	zvolsEvery = time.Minute
	// zvolsTimeout is for one run: a pool that hangs holds it up.
	zvolsTimeout = 20 * time.Second
	// zvolsHeld is for how long an answer stands where no other comes.
	zvolsHeld = 5 * zvolsEvery
)

// zvols knows what the volumes of ZFS occupy: "used", which is what there would
// be more room without the volume: its own blocks and those of its snapshots,
// what is reserved for it, and nothing that a clone shares with its origin.
type zvols struct {
	dev  string // where udev links datasets to devices
	list func(context.Context) ([]byte, error)
	life context.Context // ends with close
	end  context.CancelFunc

	mu      sync.Mutex
	asking  chan struct{} // closed when the run under way has ended, nil while there is none
	begun   time.Time     // the last run
	ended   time.Time     // the last that ended
	byName  map[string]int64
	problem error // of the last that ended
}

func newZvols(root string, list func(context.Context) ([]byte, error)) *zvols {
	z := &zvols{dev: filepath.Join(root, "dev/zvol"), list: list}
	z.life, z.end = context.WithCancel(context.Background())
	return z
}

// used returns what the volume behind a device, "zd16", occupies, at most about
// [zvolsEvery] old. It waits for the first answer only.
func (z *zvols) used(device string) (int64, error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.asking == nil && (z.begun.IsZero() || time.Since(z.begun) >= zvolsEvery) {
		z.begun, z.asking = time.Now(), make(chan struct{})
		go z.ask(z.asking)
	}
	if asking := z.asking; z.ended.IsZero() {
		z.mu.Unlock()
		<-asking
		z.mu.Lock()
	}
	n, ok := z.byName[device]
	switch {
	case z.problem != nil:
		return odometer.Unknown, fmt.Errorf("ask ZFS about %s: %w", device, z.problem)
	case !ok:
		return odometer.Unknown, fmt.Errorf("no volume of ZFS is linked to %s: %w", device, errSilentLayer)
	case time.Since(z.ended) >= zvolsHeld:
		return odometer.Unknown, fmt.Errorf("ask ZFS about %s: it does not answer", device)
	}
	return n, nil
}

func (z *zvols) ask(asking chan struct{}) {
	ctx, cancel := context.WithTimeout(z.life, zvolsTimeout)
	defer cancel()
	out, err := z.list(ctx)
	byName := map[string]int64{}
	for dataset, used := range parseZvols(out) {
		if to, err := os.Readlink(filepath.Join(z.dev, dataset)); err == nil {
			byName[filepath.Base(to)] = used
		}
	}
	z.mu.Lock()
	z.byName, z.problem, z.ended, z.asking = byName, err, time.Now(), nil
	z.mu.Unlock()
	close(asking)
}

func (z *zvols) close() { z.end() }

// parseZvols reads lines of a dataset and what it uses, separated by a tab.
func parseZvols(b []byte) map[string]int64 {
	all := map[string]int64{}
	for line := range strings.Lines(string(b)) {
		dataset, used, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		if n, err := strconv.ParseInt(used, 10, 64); ok && err == nil && n >= 0 {
			all[dataset] = n
		}
	}
	return all
}

// listZvols runs zfs. No library is needed, and its own interface to the
// kernel changes from version to version.
func listZvols(ctx context.Context) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "zfs", "list", "-H", "-p", "-t", "volume", "-o", "name,used")
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if failed := (*exec.ExitError)(nil); errors.As(err, &failed) {
		if said, _ := cutLine(bytes.TrimSpace(failed.Stderr)); len(said) > 0 {
			err = fmt.Errorf("%w: %s", err, said)
		}
	}
	return out, err
}
