package ledger

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.org/odometer"
)

// failAt returns a point at which the n-th passage fails, and what says where
// that was.
func failAt(n int, with error) (point func(string) error, where func() string) {
	passed, name := 0, ""
	return func(at string) error {
		if passed++; passed == n {
			name = fmt.Sprintf("point %d, %s", n, at)
			return with
		}
		return nil
	}, func() string { return name }
}

// dieAt returns a point at which the n-th passage kills the process.
func dieAt(n int) func(string) error {
	passed := 0
	return func(string) error {
		if passed++; passed == n {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
		return nil
	}
}

var errInterrupted = errors.New("interrupted")

// killed runs the test of that name again in a process of its own, with DIE_AT
// = n and what env adds, and reports whether it was killed; otherwise it must
// have gone through.
func killed(t *testing.T, test string, n int, env ...string) bool {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^"+test+"$")
	cmd.Env = append(append(os.Environ(), "DIE_AT="+strconv.Itoa(n)), env...)
	out, err := cmd.CombinedOutput()
	if err == nil {
		return false
	}
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
		t.Fatalf("point %d: %v: %s", n, err, out)
	}
	return true
}

// notShort skips what does one thing after the other in many runs.
func notShort(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("-short is set")
	}
}

// dying returns where the process is to die, 0 in the test itself.
func dying() int {
	n, _ := strconv.Atoi(os.Getenv("DIE_AT"))
	return n
}

// TestBackupWhileCommitsGoOn backs up a ledger that is written to all the
// time: each backup is one moment of it.
func TestBackupWhileCommitsGoOn(t *testing.T) {
	d := newDesk(t)
	m := newMeter("vm-a", "host-1", base)
	stop, done := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		defer func() { done <- n }()
		for {
			select {
			case <-stop:
				return
			default:
			}
			d.pos++
			e := m.next(sec, 1e5, 1)
			_, _, err := d.Commit(t.Context(), []odometer.Frame{{Agent: "host-1", Spool: goldenSpool, First: d.pos, Last: d.pos,
				Records: []odometer.Record{{First: d.pos, Position: d.pos, Event: e}}}})
			if err != nil {
				t.Error(err)
				return
			}
			n++
		}
	}()
	var last int64
	for i := range 5 {
		dir := filepath.Join(t.TempDir(), "backup")
		manifest, err := Backup(t.Context(), d.path, dir)
		if err != nil {
			t.Fatal(err)
		}
		if manifest.Entries < last || manifest.Ledger != d.id || manifest.Schema != SchemaVersion {
			t.Errorf("backup %d: got %+v after one of %d entries", i, manifest, last)
		}
		last = manifest.Entries
		r, err := Rebuild(t.Context(), filepath.Join(dir, backupLedger), nil)
		if err != nil || r.Total != 0 || r.Entries != manifest.Entries {
			t.Errorf("backup %d: got %+v, %v, want %d entries and no difference", i, r, err, manifest.Entries)
		}
		time.Sleep(20 * time.Millisecond)
	}
	close(stop)
	if n := <-done; int64(n) < last || last == 0 {
		t.Errorf("the last backup has %d entries, %d were booked", last, n)
	}
}

func TestBackupRefuses(t *testing.T) {
	d := newDesk(t)
	there := t.TempDir()
	if _, err := Backup(t.Context(), d.path, there); !errors.Is(err, odometer.ErrConflict) {
		t.Errorf("a directory that is there: got %v, want %v", err, odometer.ErrConflict)
	}
	if list, _ := os.ReadDir(there); len(list) != 0 {
		t.Errorf("the directory that was there has %v", list)
	}
	if _, err := Backup(t.Context(), d.path+".not", filepath.Join(there, "b")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no ledger: got %v, want %v", err, os.ErrNotExist)
	}
	if _, err := Backup(t.Context(), d.path, filepath.Join(there, "deeper", "b")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no directory to put it in: got %v, want %v", err, os.ErrNotExist)
	}
	if _, err := d.write.Exec(`INSERT INTO meta (key, value) VALUES ('migration', '{"from":1,"to":2,"step":"x"}')`); err != nil {
		t.Fatal(err)
	}
	if _, err := Backup(t.Context(), d.path, filepath.Join(there, "b")); !errors.Is(err, ErrMigrating) {
		t.Errorf("in the middle of a migration: got %v, want %v", err, ErrMigrating)
	}
}

// told returns a ledger with the golden story in it, and a backup of it.
func toldAndBackedUp(t *testing.T) (d *desk, copied string) {
	t.Helper()
	d = newDesk(t)
	tellGolden(d)
	copied = filepath.Join(t.TempDir(), "backup")
	if _, err := Backup(t.Context(), d.path, copied); err != nil {
		t.Fatal(err)
	}
	return d, copied
}

func TestRestoreRefuses(t *testing.T) {
	_, copied := toldAndBackedUp(t)
	edit := func(t *testing.T, from, to string) {
		name := filepath.Join(copied, backupManifest)
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(b), from) {
			t.Fatalf("the manifest has no %q: %s", from, b)
		}
		t.Cleanup(func() { os.WriteFile(name, b, 0o600) })
		if err := os.WriteFile(name, []byte(strings.Replace(string(b), from, to, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	flip := func(t *testing.T, at int64) {
		f, err := os.OpenFile(filepath.Join(copied, backupLedger), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		change := func() {
			var b [1]byte
			if _, err := f.ReadAt(b[:], at); err != nil {
				t.Fatal(err)
			}
			b[0] ^= 4
			if _, err := f.WriteAt(b[:], at); err != nil {
				t.Fatal(err)
			}
		}
		change()
		t.Cleanup(change)
	}
	for _, c := range []struct {
		name    string
		prepare func(t *testing.T)
		want    error
	}{
		{"a bit of the copy has flipped", func(t *testing.T) { flip(t, 20_000) }, odometer.ErrInvalid},
		{"a bit near its end has flipped", func(t *testing.T) { flip(t, 150_000) }, odometer.ErrInvalid},
		{"the manifest is of another ledger", func(t *testing.T) { edit(t, goldenID, strings.Repeat("7", 32)) }, odometer.ErrInvalid},
		{"the manifest says another position", func(t *testing.T) { edit(t, `"position": `, `"position": 9`) }, odometer.ErrInvalid},
		{"the manifest is of a later format", func(t *testing.T) { edit(t, `"format": 1`, `"format": 2`) }, ErrNewer},
		{"the ledger is of a newer version", func(t *testing.T) {
			edit(t, fmt.Sprintf(`"schema_version": %d`, SchemaVersion), fmt.Sprintf(`"schema_version": %d`, SchemaVersion+1))
		}, ErrNewer},
		{"the manifest names another file", func(t *testing.T) { edit(t, `"name": "ledger.db"`, `"name": "../x"`) }, odometer.ErrInvalid},
		{"there is no manifest", func(t *testing.T) {
			name := filepath.Join(copied, backupManifest)
			if err := os.Rename(name, name+".gone"); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.Rename(name+".gone", name) })
		}, os.ErrNotExist},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.prepare(t)
			dir := t.TempDir()
			if _, err := Restore(t.Context(), copied, filepath.Join(dir, "ledger.db"), RestoreOptions{}); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if list, _ := os.ReadDir(dir); len(list) != 0 {
				t.Errorf("left behind: %v", list)
			}
		})
	}
	d := newDesk(t)
	if _, err := Restore(t.Context(), copied, d.path, RestoreOptions{}); !errors.Is(err, odometer.ErrConflict) {
		t.Errorf("over a ledger that is there: got %v, want %v", err, odometer.ErrConflict)
	}
}

// TestRestoreBringsEverythingBack compares what the ledger answers before it
// was lost and after, and goes on with it.
func TestRestoreBringsEverythingBack(t *testing.T) {
	d, copied := toldAndBackedUp(t)
	want := d.account()
	d.restore(copied)
	got := d.account()
	if got.Generation <= want.Generation {
		t.Errorf("generation: got %d, want a later one than %d", got.Generation, want.Generation)
	}
	got.Generation = want.Generation
	compareAccounts(t, got, want)
	d.proven()
	aside, err := filepath.Glob(filepath.Join(filepath.Dir(d.path), "replaced-*", "ledger.db"))
	if err != nil || len(aside) != 1 {
		t.Fatalf("the ledger that was replaced: got %v, %v, want one", aside, err)
	}
	old := &desk{t: t, path: aside[0], now: d.now}
	old.reopen()
	defer old.Close()
	compareAccounts(t, old.account(), want)
}

// TestABackupOfAnOlderVersionIsRestored backs up a ledger that this version
// has not migrated yet, and brings it back.
func TestABackupOfAnOlderVersionIsRestored(t *testing.T) {
	copied := filepath.Join(t.TempDir(), "backup")
	m, err := Backup(t.Context(), unpackGolden(t, 1), copied)
	if err != nil || m.Schema != 1 {
		t.Fatalf("got %+v, %v, want a backup of version 1", m, err)
	}
	d := &desk{t: t, path: filepath.Join(t.TempDir(), "ledger.db"), now: goldenNow}
	if _, err := Restore(t.Context(), copied, d.path, RestoreOptions{Now: goldenNow}); err != nil {
		t.Fatal(err)
	}
	d.reopen()
	defer d.Close()
	got := d.account()
	if got.Generation <= 1 {
		t.Errorf("generation: got %d, want a later one than 1", got.Generation)
	}
	got.Generation = 1
	compareAccounts(t, got, goldenAccount(t, 1))
	d.proven()
}

// TestBackupIsInterrupted fails and kills a backup at every point: there is a
// complete one under its name or none, and the next attempt succeeds.
func TestBackupIsInterrupted(t *testing.T) {
	if n := dying(); n > 0 {
		if _, err := backup(t.Context(), os.Getenv("BACKUP_OF"), os.Getenv("BACKUP_TO"), dieAt(n)); err != nil {
			t.Fatal(err)
		}
		return
	}
	d := newDesk(t)
	tellGolden(d)
	check := func(dir, how string) {
		t.Helper()
		if !exists(dir) {
			if _, err := Backup(t.Context(), d.path, dir); err != nil {
				t.Fatalf("again after %s: %v", how, err)
			}
		}
		to := filepath.Join(t.TempDir(), "ledger.db")
		if _, err := Restore(t.Context(), dir, to, RestoreOptions{}); err != nil {
			t.Fatalf("after %s: %v", how, err)
		}
		if left, _ := filepath.Glob(dir + ".*"); len(left) != 0 {
			t.Fatalf("after %s: %v left behind", how, left)
		}
	}
	points := 0
	for n := 1; ; n++ {
		dir := filepath.Join(t.TempDir(), "backup")
		point, where := failAt(n, errInterrupted)
		_, err := backup(t.Context(), d.path, dir, point)
		if where() == "" {
			points = n - 1
			break
		}
		if !errors.Is(err, errInterrupted) {
			t.Fatalf("%s: got %v, want %v", where(), err, errInterrupted)
		}
		check(dir, where())
		dir = filepath.Join(t.TempDir(), "backup")
		if !killed(t, "TestBackupIsInterrupted", n, "BACKUP_OF="+d.path, "BACKUP_TO="+dir) {
			t.Fatalf("%s: not killed", where())
		}
		check(dir, "being killed at "+where())
	}
	t.Logf("%d points", points)
}

// A restore that is done again after the ledger was moved aside still begins a
// generation beyond that one's, within the same minute too.
func TestARestoreThatIsDoneAgainBeginsALaterGeneration(t *testing.T) {
	_, copied := toldAndBackedUp(t)
	path, now := filepath.Join(t.TempDir(), "ledger.db"), time.Now()
	first, err := Restore(t.Context(), copied, path, RestoreOptions{Now: now})
	if err != nil {
		t.Fatal(err)
	}
	l, err := Open(t.Context(), Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	_, err = Restore(t.Context(), copied, path, RestoreOptions{Now: now, Replace: true, point: func(at string) error {
		if at == "moved aside" {
			return errInterrupted
		}
		return nil
	}})
	if !errors.Is(err, errInterrupted) || exists(path) {
		t.Fatalf("got %v, want it interrupted with nothing in the place", err)
	}
	again, err := Restore(t.Context(), copied, path, RestoreOptions{Now: now, Replace: true})
	if err != nil {
		t.Fatal(err)
	}
	if again.Next <= first.Next {
		t.Errorf("generation %d begins where %d was", again.Next, first.Next)
	}
}

// TestRestoreIsInterrupted fails and kills a restore over a ledger that is
// there, at every point: that one is whole, in its place or aside, no other is
// begun in its place, and the next attempt succeeds.
func TestRestoreIsInterrupted(t *testing.T) {
	if n := dying(); n > 0 {
		_, err := Restore(t.Context(), os.Getenv("RESTORE_FROM"), os.Getenv("RESTORE_TO"), RestoreOptions{Replace: true, point: dieAt(n)})
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	_, copied := toldAndBackedUp(t)
	other := func() *desk { // a ledger of which a part lies in the write-ahead log
		d := newDesk(t)
		d.send(newMeter("vm-b", "host-1", base).next(30*sec, 7, 7))
		wal, err := os.ReadFile(d.path + "-wal")
		if err != nil || len(wal) == 0 {
			t.Fatalf("write-ahead log: %d bytes, %v, want some", len(wal), err)
		}
		main, err := os.ReadFile(d.path)
		if err != nil {
			t.Fatal(err)
		}
		d.Close()
		if err := errors.Join(os.WriteFile(d.path, main, 0o600), os.WriteFile(d.path+"-wal", wal, 0o600)); err != nil {
			t.Fatal(err)
		}
		return d
	}
	// is returns the instances that the ledger at path knows, -1 for no ledger.
	is := func(path string) int64 {
		if !exists(path) {
			return -1
		}
		l, err := Open(t.Context(), Options{Path: path})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		s, err := l.Stats(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return s.Instances
	}
	check := func(d *desk, how string) {
		t.Helper()
		aside, _ := filepath.Glob(filepath.Join(filepath.Dir(d.path), "replaced-*", "ledger.db"))
		switch {
		case !exists(d.path):
			if _, err := Open(t.Context(), Options{Path: d.path}); err == nil || !strings.Contains(err.Error(), "interrupted") {
				t.Fatalf("opening after %s: got %v, want it refused", how, err)
			}
			fallthrough
		case len(aside) == 1:
			if n := is(aside[0]); n != 1 {
				t.Fatalf("after %s the ledger that was there has %d instances, want 1", how, n)
			}
		default:
			if n := is(d.path); n != 1 {
				t.Fatalf("after %s the ledger in the place has %d instances, want 1", how, n)
			}
		}
		if _, err := Restore(t.Context(), copied, d.path, RestoreOptions{Replace: true}); err != nil {
			t.Fatalf("again after %s: %v", how, err)
		}
		if n := is(d.path); n < 8 {
			t.Fatalf("after %s and another restore: got %d instances, want those of the story", how, n)
		}
	}
	points := 0
	for n := 1; ; n++ {
		d := other()
		point, where := failAt(n, errInterrupted)
		_, err := Restore(t.Context(), copied, d.path, RestoreOptions{Replace: true, point: point})
		if where() == "" {
			points = n - 1
			break
		}
		if !errors.Is(err, errInterrupted) {
			t.Fatalf("%s: got %v, want %v", where(), err, errInterrupted)
		}
		if exists(d.path) == exists(d.path+restoring) {
			t.Fatalf("%s: a ledger in the place: %t, a half of one beside it: %t, want one of them", where(), exists(d.path), exists(d.path+restoring))
		}
		check(d, where())
		d = other()
		if !killed(t, "TestRestoreIsInterrupted", n, "RESTORE_FROM="+copied, "RESTORE_TO="+d.path) {
			t.Fatalf("%s: not killed", where())
		}
		check(d, "being killed at "+where())
	}
	t.Logf("%d points", points)
}
