package guest

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// undo is a shell that waits for the end of the test, or of its process
// however that comes, and then runs what it was told, the last first. What is
// made outside of the test's process does not outlive it.
type undo struct {
	t   testing.TB
	in  io.WriteCloser
	cmd *exec.Cmd
}

func newUndo(t testing.TB) *undo {
	t.Helper()
	u := &undo{t: t, cmd: exec.Command("sh", "-c", `eval "$(tac)"`)}
	u.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // not interrupted with the test
	var err error
	if u.in, err = u.cmd.StdinPipe(); err == nil {
		err = u.cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		u.in.Close()
		u.cmd.Wait() // what was gone already is no failure
	})
	return u
}

// add has a line of shell run in the end.
func (u *undo) add(format string, args ...any) {
	u.t.Helper()
	if _, err := fmt.Fprintf(u.in, format+"\n", args...); err != nil {
		u.t.Fatal(err)
	}
}

// kill has a process ended whose command line has mark in it: by then its id
// may be another's. The shell may compute the id.
//
// It is not left to the kernel, with a death signal, since that comes with the
// end of the thread that started the process, and not of the test's process.
func (u *undo) kill(pid, mark string) {
	u.t.Helper()
	u.add(`pid=%s && grep -q -- %s "/proc/$pid/cmdline" && kill -9 "$pid" && for i in 1 2 3 4 5 6 7 8 9; do kill -0 "$pid" && sleep 0.1; done`,
		pid, quote(mark))
}

// tempDir makes a directory whose path is short enough for sockets in it.
func (u *undo) tempDir() string {
	u.t.Helper()
	dir, err := os.MkdirTemp("", "odometer-guest-")
	if err != nil {
		u.t.Fatal(err)
	}
	u.add("rm -rf %s", quote(dir))
	return dir
}

// quote makes s one word of a shell's.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
