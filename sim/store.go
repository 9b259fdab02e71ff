package main

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"modernc.org/sqlite"
)

// store is where the ledger's files lie, and the driver through which the
// ledger reaches them. SQLite itself is the real one: what the store does is to
// fail its calls, and to make of its files what a process leaves that is killed
// while it writes.
type store struct {
	w    *world
	root string
	n    int

	full    bool // statements fail
	unknown bool // the next commit happens and says that it did not
	kill    int  // commits until the process is killed in one, 0 for never
	dead    bool
	left    *image
}

// image is the content of the ledger's files.
type image struct{ db, wal []byte }

func (s *store) path() string { return filepath.Join(s.root, fmt.Sprint(s.n), "ledger.db") }

func (s *store) faulty() bool { return s.full || s.unknown }

// look reads the files as they are.
func (s *store) look() *image {
	im := &image{}
	im.db, _ = os.ReadFile(s.path())
	im.wal, _ = os.ReadFile(s.path() + "-wal")
	return im
}

// image returns what the process left that was killed in a commit.
func (s *store) image() *image {
	im := s.left
	s.left = nil
	return im
}

// replace puts other files in place of the present ones, in another directory,
// so that nothing of an earlier process can touch them.
func (s *store) replace(im *image) error {
	stores.Delete(s.path())
	_ = os.RemoveAll(filepath.Dir(s.path()))
	s.n++
	s.dead, s.kill, s.left = false, 0, nil
	stores.Store(s.path(), s)
	if err := os.MkdirAll(filepath.Dir(s.path()), 0o700); err != nil {
		return err
	}
	if im == nil {
		return nil
	}
	if err := os.WriteFile(s.path(), im.db, 0o600); err != nil {
		return err
	}
	if len(im.wal) == 0 {
		return nil
	}
	return os.WriteFile(s.path()+"-wal", im.wal, 0o600)
}

// statement says whether a statement of the writer fails.
func (s *store) statement() error {
	switch {
	case s.dead:
		return errKilled
	case s.full:
		return errors.New("database or disk is full (13)")
	}
	return nil
}

// commit makes one commit and what is to become of it.
func (s *store) commit(real func() error) error {
	if err := s.statement(); err != nil {
		return err
	}
	if s.kill > 0 {
		if s.kill--; s.kill == 0 {
			return s.tear(real)
		}
	}
	err := real()
	if err == nil && s.unknown {
		s.unknown = false
		s.w.hit(commitUnknown)
		return errors.New("disk I/O error (10)")
	}
	return err
}

// tear makes a commit in the midst of which the process is killed: what it
// appended to the write-ahead log, or wrote over its beginning, is there up to
// some byte.
func (s *store) tear(real func() error) error {
	s.w.hit(serverKilledInCommit)
	before := s.look()
	err := real()
	after := s.look()
	s.dead = true
	first := 0
	for first < min(len(before.wal), len(after.wal)) && before.wal[first] == after.wal[first] {
		first++
	}
	cut := first + s.w.r.IntN(len(after.wal)-first+1)
	torn := append([]byte(nil), after.wal[:cut]...)
	if len(before.wal) > cut {
		torn = append(torn, before.wal[cut:]...)
	}
	s.left = &image{db: before.db, wal: torn}
	s.w.note("the server dies in a commit: %d of %d bytes of the log are new", cut-first, len(after.wal)-first)
	return errors.Join(err, errKilled)
}

// driverName is how the ledger asks for the store's driver.
const driverName = "odometer-sim"

func init() { sql.Register(driverName, &storeDriver{}) }

// stores are those of the worlds that run, by the path of their ledger.
var stores sync.Map

type storeDriver struct{ real sqlite.Driver }

func (d *storeDriver) Open(name string) (driver.Conn, error) {
	path, _, _ := strings.Cut(strings.TrimPrefix(name, "file:"), "?")
	s, ok := stores.Load(path)
	if !ok {
		return nil, fmt.Errorf("no simulation has its ledger at %s", path)
	}
	if s.(*store).dead {
		return nil, errKilled
	}
	c, err := d.real.Open(name)
	if err != nil {
		return nil, err
	}
	return &conn{c.(realConn), s.(*store)}, nil
}

type realConn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.QueryerContext
	driver.Pinger
	driver.SessionResetter
	driver.Validator
}

type conn struct {
	realConn
	s *store
}

func (c *conn) BeginTx(ctx context.Context, o driver.TxOptions) (driver.Tx, error) {
	if c.s.dead {
		return nil, errKilled
	}
	t, err := c.realConn.BeginTx(ctx, o)
	if err != nil {
		return nil, err
	}
	return &tx{t, c.s}, nil
}

func (c *conn) ExecContext(ctx context.Context, q string, args []driver.NamedValue) (driver.Result, error) {
	if err := c.s.statement(); err != nil {
		return nil, err
	}
	return c.realConn.ExecContext(ctx, q, args)
}

func (c *conn) PrepareContext(ctx context.Context, q string) (driver.Stmt, error) {
	st, err := c.realConn.PrepareContext(ctx, q)
	if err != nil {
		return nil, err
	}
	return &stmt{st.(realStmt), c.s}, nil
}

type realStmt interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
}

type stmt struct {
	realStmt
	s *store
}

func (t *stmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	if err := t.s.statement(); err != nil {
		return nil, err
	}
	return t.realStmt.ExecContext(ctx, args)
}

type tx struct {
	driver.Tx
	s *store
}

func (t *tx) Commit() error {
	err := t.s.commit(t.Tx.Commit)
	if err != nil {
		_ = t.Tx.Rollback() // of one that was not committed; otherwise there is nothing to roll back
	}
	return err
}
