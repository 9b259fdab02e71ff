package trace

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// TestMain makes this program the one that is traced, too.
func TestMain(m *testing.M) {
	if dir := os.Getenv("TRACE_TEST_DIR"); dir != "" {
		if err := traced(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// traced does one of everything, in a known order, and then much at once.
func traced(dir string) error {
	file := func(name string) string { return filepath.Join(dir, name) }
	if err := os.MkdirAll(file("sub"), 0o700); err != nil { // 1, 2
		return err
	}
	f, err := os.Create(file("a")) // 3
	if err != nil {
		return err
	}
	_, err1 := f.Write([]byte("first"))            // 4
	_, err2 := f.WriteAt([]byte("F"), 0)           // 5
	err3 := f.Sync()                               // 6
	err4 := f.Truncate(3)                          // 7
	err5 := os.Rename(file("a"), file("sub/b"))    // 8
	d, err6 := os.Open(dir)                        // no change
	err7 := d.Sync()                               // 9
	err8 := os.WriteFile(file("gone"), nil, 0o600) // 10, 11
	err9 := os.Remove(file("gone"))                // 12
	err10 := os.WriteFile("/dev/null", nil, 0o600) // elsewhere
	_, err11 := f.Write([]byte("end"))             // 13, into sub/b, beyond its end
	if err := errors.Join(err1, err2, err3, err4, err5, err6, err7, err8, err9, err10, err11); err != nil {
		return err
	}
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for n := range 20 {
				fmt.Fprintf(f, "%d.%d ", i, n)
			}
		})
	}
	all.Wait()
	return f.Close()
}

// run traces this program in a fresh directory.
func run(t *testing.T, dir string, o Options) (syscall.WaitStatus, string) {
	t.Helper()
	t.Setenv("TRACE_TEST_DIR", dir)
	var out bytes.Buffer
	o.Dir, o.Stderr = dir, &out
	p, err := Start(o, os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	status, err := p.Wait()
	if err != nil {
		t.Fatal(err)
	}
	return status, out.String()
}

func TestEveryCallIsSeenInOrder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	var names []string
	var content []byte
	status, out := run(t, dir, Options{Data: true, After: func(c *Call) Verdict {
		if c.N != len(names)+1 {
			t.Errorf("call %d has the number %d", len(names)+1, c.N)
		}
		names = append(names, strings.TrimSpace(string(c.Op)+" "+c.Path+" "+c.To))
		if c.Op == Write {
			content = append(content, make([]byte, max(0, int(c.Offset)+len(c.Data)-len(content)))...)
			copy(content[c.Offset:], c.Data)
		}
		if c.Op == Truncate {
			content = content[:c.Size]
		}
		return Go
	}})
	if !status.Exited() || status.ExitStatus() != 0 {
		t.Fatalf("the program ended with %v\n%s", status, out)
	}
	want := []string{
		"mkdir .", "mkdir sub", "open a", "write a", "write a", "sync a", "truncate a", "rename a sub/b", "sync .",
		"open gone", "write gone", "unlink gone", "write sub/b",
	}
	if len(names) != len(want)+8*20 || !slices.Equal(names[:len(want)], want) {
		t.Errorf("calls: got %d: %q, want %d: %q …", len(names), names[:min(len(names), len(want))], len(want)+8*20, want)
	}
	got, err := os.ReadFile(filepath.Join(dir, "sub/b"))
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("what was recorded of eight threads' writes is not what the file holds: %d and %d bytes, %v", len(content), len(got), err)
	}
}

func TestKillLeavesExactlyTheCallsBefore(t *testing.T) {
	has := func(dir, name string) bool {
		_, err := os.Lstat(filepath.Join(dir, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		return err == nil
	}
	for n := 1; n <= 13; n++ {
		for _, after := range []bool{false, true} {
			dir := filepath.Join(t.TempDir(), fmt.Sprint(n, after))
			at := func(c *Call) Verdict {
				if c.N == n {
					return Kill
				}
				return Go
			}
			o := Options{Before: at}
			if after {
				o = Options{After: at}
			}
			status, out := run(t, dir, o)
			if !status.Signaled() || status.Signal() != syscall.SIGKILL {
				t.Fatalf("killed at call %d: the program ended with %v\n%s", n, status, out)
			}
			done := n - 1
			if after {
				done = n
			}
			for name, made := range map[string]int{"sub": 2, "sub/b": 8} {
				if got, want := has(dir, name), done >= made; got != want {
					t.Errorf("%d calls done: %s is there: %v, want %v", done, name, got, want)
				}
			}
			if got, want := has(dir, "a"), done >= 3 && done < 8; got != want {
				t.Errorf("%d calls done: a is there: %v, want %v", done, got, want)
			}
			if got, want := has(dir, "gone"), done == 10 || done == 11; got != want {
				t.Errorf("%d calls done: gone is there: %v, want %v", done, got, want)
			}
		}
	}
}

func TestProgramsThatDoNotStart(t *testing.T) {
	if _, err := Start(Options{Dir: t.TempDir()}, "/nowhere/program"); err == nil {
		t.Error("a program that does not exist: got no error")
	}
	if _, err := Start(Options{Dir: "/nowhere/at/all"}, os.Args[0]); err == nil {
		t.Error("a directory in one that does not exist: got no error")
	}
}

// TestATracerLeavesOtherProgramsAlone starts a program right before another one
// is traced: it is waited for by who started it, and does not die with the
// tracer.
func TestATracerLeavesOtherProgramsAlone(t *testing.T) {
	for i := range 10 {
		cmd := exec.Command("/bin/sh", "-c", "sleep 0.1; exit 4")
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := Launch(cmd); err != nil {
			t.Fatal(err)
		}
		p, err := Start(Options{Dir: filepath.Join(t.TempDir(), fmt.Sprint(i))}, "/bin/sh", "-c", "sleep 0.2; exit 3")
		if err != nil {
			t.Fatal(err)
		}
		if status, err := p.Wait(); err != nil || status.ExitStatus() != 3 {
			t.Errorf("the program that was traced ended with %v, %v", status, err)
		}
		if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 4 {
			t.Errorf("the program that was not traced ended with %v", err)
		}
	}
}
