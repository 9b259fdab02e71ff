package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// A data directory holds everything that a process keeps, for its user alone:
//
//	lock         flock: one process at a time; names its holder
//	ledger.db    the ledger, tokens and audit log, with -wal and -shm beside it
//	ledger-base.db  what pruned records of its journal came to, where it was pruned
//	directory.db what agents tell of their instances, with -wal and -shm; may be lost
//	ledger.key   the key that signs that, mode 0600
//	nats/        JetStream's streams
//	spool/       the agent's events that have no receipt yet
//	owners.json  whose this host's machines are, as the server told it; may be lost
//	images.json  images that several of this host's machines share; may be lost
//	admin.token  the administrator's bearer token, mode 0600
//	notify.key   the key that secrets of channels are sealed with, mode 0600
//	queue.key    the seed of the server's key for an external queue, mode 0600
//	agent.key    the seed of an enrolled host's key, mode 0600
//	enrolment.json  the server that let the host in, and its queue
//	server.json  where the running server answers; absent when none runs
//	agent/       the data directory of `odometer agent`, where none was named
//	replay/      the same of `odometer replay`
type dataDir struct {
	path string
	lock *os.File
}

func (d *dataDir) file(name string) string { return filepath.Join(d.path, name) }

const (
	ledgerFile = "ledger.db"
	natsDir    = "nats"
	spoolDir   = "spool"
	imagesFile = "images.json"
	ownersFile = "owners.json"
	tokenFile  = "admin.token"

	hostKeyFile   = "agent.key"
	enrolmentFile = "enrolment.json"
	queueKeyFile  = "queue.key"
	notifyKeyFile = "notify.key"

	serverFile = "server.json"
	lockFile   = "lock"
)

// defaultDataDir is /var/lib/odometer for root, as the Filesystem Hierarchy
// Standard has it, and the XDG data directory for everybody else. Below names
// what each kind of process has for its own, so that a server, an agent and a
// replay of one user do not meet.
func defaultDataDir(env func(string) (string, bool), below string) string {
	dir := "/var/lib/odometer"
	if os.Getuid() != 0 {
		base, ok := env("XDG_DATA_HOME")
		if !ok || !filepath.IsAbs(base) {
			home, _ := env("HOME")
			base = filepath.Join(home, ".local", "share")
		}
		dir = filepath.Join(base, "odometer")
	}
	return filepath.Join(dir, below)
}

// holder is what the lock file says about the process that holds it.
type holder struct {
	PID     int       `json:"pid"`
	Command string    `json:"command"`
	Since   time.Time `json:"since"`
}

// lockDataDir takes the lock of a data directory that is there already, and
// creates and changes nothing. Where there is no directory or no lock file yet
// nobody can hold it, and it returns a dataDir that holds nothing either.
func lockDataDir(path, command string) (*dataDir, error) {
	d := &dataDir{path: path}
	err := d.take(command, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return d, nil
	}
	return d, err
}

// create makes the directory, mode 0700, and takes its lock unless that is
// done already.
func (d *dataDir) create(command string) error {
	if err := os.MkdirAll(d.path, 0o700); err != nil {
		return advise(fmt.Errorf("create the data directory: %w", err), "--data-dir names another")
	}
	if d.lock != nil {
		return nil
	}
	return d.take(command, os.O_CREATE)
}

// take locks the lock file and writes this process's name into it.
func (d *dataDir) take(command string, create int) error {
	f, err := os.OpenFile(d.file(lockFile), os.O_RDWR|create, 0o600)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return err
	case errors.Is(err, syscall.ENOTDIR):
		return advise(fmt.Errorf("open the data directory: %w", err), "--data-dir names another")
	case err != nil:
		return advise(fmt.Errorf("data directory %s is not writable: %w", d.path, err), "--data-dir names another, or run as the user who owns it")
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return fmt.Errorf("lock the data directory %s: %w", d.path, err)
		}
		return advise(fmt.Errorf("data directory %s is in use by %s", d.path, describeHolder(f)), "stop that first, or name another with --data-dir")
	}
	text, _ := json.Marshal(holder{PID: os.Getpid(), Command: command, Since: time.Now().UTC().Truncate(time.Second)})
	if err := errors.Join(f.Truncate(0), writeAt(f, append(text, '\n'))); err != nil {
		f.Close()
		return advise(fmt.Errorf("data directory %s is not writable: %w", d.path, err), "--data-dir names another")
	}
	d.lock = f
	return nil
}

func writeAt(f *os.File, b []byte) error {
	_, err := f.WriteAt(b, 0)
	return err
}

// describeHolder names the process that holds the lock. What it reads may be
// half written; the lock itself is what counts.
func describeHolder(f *os.File) string {
	var h holder
	text, _ := io.ReadAll(io.LimitReader(f, 4096))
	if json.Unmarshal(text, &h) != nil || h.PID == 0 {
		return "another process"
	}
	return fmt.Sprintf("`odometer %s` (process %d, since %s)", h.Command, h.PID, h.Since.Format(time.RFC3339))
}

// release gives the lock back. The file stays: removing it would let two
// processes hold locks on two files of one name.
func (d *dataDir) release() error {
	if d.lock == nil {
		return nil
	}
	f := d.lock
	d.lock = nil
	return errors.Join(f.Truncate(0), f.Close())
}

// serverInfo is what server.json says, for clients of the same user.
type serverInfo struct {
	PID       int       `json:"pid"`
	Version   string    `json:"version"`
	HTTP      string    `json:"http"`           // http://127.0.0.1:8640
	NATS      string    `json:"nats,omitempty"` // nats://127.0.0.1:8642
	StartedAt time.Time `json:"started_at"`
}

func (d *dataDir) writeServerInfo(info serverInfo) error {
	text, err := json.MarshalIndent(info, "", "  ")
	if err == nil {
		err = writeFile(d.file(serverFile), append(text, '\n'))
	}
	if err != nil {
		return fmt.Errorf("say where the server is: %w", err)
	}
	return nil
}

func (d *dataDir) removeServerInfo() error {
	err := os.Remove(d.file(serverFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// readServerInfo reads what the server of a data directory says of itself.
// After a crash it may be out of date.
func readServerInfo(dir string) (serverInfo, error) {
	var info serverInfo
	text, err := os.ReadFile(filepath.Join(dir, serverFile))
	if err == nil {
		err = json.Unmarshal(text, &info)
	}
	return info, err
}

// writeFile replaces path with data, mode 0600, so that after a crash at any
// instant the old or the new content is there in full.
func writeFile(path string, data []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.tmp") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.Write(data)
	// The content before the name: a name must never lead to half a file.
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// tilde shortens a path below the home directory for people.
func tilde(path string, env func(string) (string, bool)) string {
	home, _ := env("HOME")
	if rest, ok := strings.CutPrefix(path, home+"/"); ok && home != "" && home != "/" {
		return "~/" + rest
	}
	return path
}
