package guest

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// HoldPIDs keeps two kinds of tests of this host apart until the test ends, in
// whatever package they are: those in which a process is given the number of one
// that has ended (again), and those of a libvirtd, which signals machines by their
// numbers, be it long after they have ended. Together they would hit a stranger.
func HoldPIDs(t testing.TB, again bool) {
	t.Helper()
	f, err := os.Open("/run") // a lock on it leaves nothing behind
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() }) // which lets go
	how := unix.LOCK_SH
	if again {
		how = unix.LOCK_EX
	}
	for err = unix.EINTR; err == unix.EINTR; {
		err = unix.Flock(int(f.Fd()), how)
	}
	if err != nil {
		t.Fatal(err)
	}
}
