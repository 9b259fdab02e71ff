package audit_test

import (
	"context"
	"crypto/ed25519"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"example.org/odometer/audit"
	"example.org/odometer/ledger"
)

var pruneKey = ed25519.NewKeyFromSeed([]byte("0123456789abcdef0123456789abcdef"))

// prune publishes everything and removes the journal of the days before now.
func (s *teller) prune() *ledger.PruneReport {
	s.t.Helper()
	ctx := context.Background()
	for {
		entries, at, err := s.l.FeedAfter(ctx, "usage", 1000)
		if err != nil {
			s.t.Fatal(err)
		}
		if len(entries) == 0 {
			break
		}
		if err := s.l.FeedAdvance(ctx, "usage", at, "", 0, 0); err != nil {
			s.t.Fatal(err)
		}
	}
	r, err := s.l.Prune(ctx, ledger.PruneOptions{Before: s.now, Key: pruneKey})
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

// TestRandomStoriesArePruned prunes ledgers in the middle of random stories:
// the audit starts from the signed heads and finds an honest ledger honest.
func TestRandomStoriesArePruned(t *testing.T) {
	stories := 3
	if testing.Short() {
		stories = 1
	}
	for seed := range stories {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			n := newNovelist(t, uint64(seed)+1000)
			removed := int64(0)
			for i := range 150 {
				n.chapter()
				if i%40 == 39 {
					removed += n.s.prune().Records
				}
			}
			n.s.close()
			whole := run(t, n.s.dir)
			if !whole.OK {
				t.Fatalf("audit of an honest ledger: got %s, want ok", show(whole))
			}
			if removed == 0 || whole.Pruned.Records < removed || whole.Pruned.Key == "" || whole.Pruned.Before == "" {
				t.Errorf("pruned: got %+v, removed %d", whole.Pruned, removed)
			}
			rebuilt, err := ledger.Rebuild(t.Context(), n.s.dir+"/ledger.db", nil)
			if err != nil {
				t.Fatal(err)
			}
			if rebuilt.Total != 0 || rebuilt.Pruned != whole.Pruned.Records {
				t.Errorf("rebuild: got %d differences %q, %d records pruned, want none and %d", rebuilt.Total, rebuilt.Differences, rebuilt.Pruned, whole.Pruned.Records)
			}
		})
	}
}

// baseForgeries change what is kept of a pruned journal.
var baseForgeries = []struct {
	name, want string
	forge      func(t *testing.T, base, main *sql.DB)
}{
	{"a sum in the base", "head", func(t *testing.T, base, _ *sql.DB) {
		statement(t, base, `UPDATE days SET hours = substr(hours, 1, length(hours) - 1) || x'02' WHERE rowid = (SELECT min(rowid) FROM days)`)
	}},
	{"a watermark in the base", "head", func(t *testing.T, base, _ *sql.DB) {
		statement(t, base, `DELETE FROM state WHERE id = (SELECT min(id) FROM state)`)
	}},
	{"a digest in the base is gone", "head", func(t *testing.T, base, _ *sql.DB) {
		statement(t, base, `DELETE FROM digests WHERE rowid = (SELECT min(rowid) FROM digests)`)
	}},
	{"what was reversed", "head", func(t *testing.T, base, _ *sql.DB) {
		statement(t, base, `UPDATE reversals SET entry = entry + 1 WHERE rowid = (SELECT min(rowid) FROM reversals)`)
	}},
	{"who owned what", "head", func(t *testing.T, base, _ *sql.DB) {
		statement(t, base, `UPDATE ownership SET usr = 'u-mallory' WHERE rowid = (SELECT min(rowid) FROM ownership)`)
	}},
	{"what happened", "head", func(t *testing.T, base, _ *sql.DB) {
		statement(t, base, `UPDATE lifecycle SET at_us = at_us + 1 WHERE rowid = (SELECT min(rowid) FROM lifecycle)`)
	}},
	{"what the head says", "head", func(t *testing.T, base, _ *sql.DB) {
		statement(t, base, `UPDATE heads SET body = CAST(replace(CAST(body AS TEXT), '"recorded":', '"recorded":1') AS BLOB)`)
	}},
	{"the signature", "head", func(t *testing.T, base, _ *sql.DB) {
		statement(t, base, `UPDATE heads SET signature = zeroblob(64)`)
	}},
	{"the key", "head", func(t *testing.T, base, _ *sql.DB) {
		statement(t, base, `UPDATE heads SET key = zeroblob(32)`)
	}},
	{"another ledger's head", "head", func(t *testing.T, base, _ *sql.DB) {
		statement(t, base, `UPDATE heads SET partition = partition + 1, position = position + 1 WHERE partition = (SELECT max(partition) FROM heads)`)
	}},
	{"a sum of the pruned time in the ledger", "hours", func(t *testing.T, _, main *sql.DB) {
		statement(t, main, `DELETE FROM days WHERE rowid = (SELECT min(rowid) FROM days)`)
	}},
	{"the first record that is left is gone", "journal_position", func(t *testing.T, _, main *sql.DB) {
		statement(t, main, `DELETE FROM journal WHERE id = (SELECT min(j.id) FROM journal j JOIN heads h ON h.partition = j.partition AND j.position > h.position
			WHERE j.position < (SELECT max(k.position) FROM journal k WHERE k.partition = j.partition))`)
	}},
}

// prunedStory is a ledger with a pruned journal in a directory of its own.
func prunedStory(t *testing.T) string {
	t.Helper()
	n := newNovelist(t, 77)
	n.s.story()
	for range 60 {
		n.chapter()
	}
	n.s.now = n.s.now.AddDate(0, 0, 3)
	n.s.tick()
	n.s.tick()
	if r := n.s.prune(); r.Records == 0 {
		t.Fatal("nothing was pruned")
	}
	for range 30 {
		n.chapter()
	}
	n.s.close()
	return n.s.dir
}

func openBase(t *testing.T, dir string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "ledger-base.db")+"?_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func TestAForgedBaseIsFound(t *testing.T) {
	story := prunedStory(t)
	fresh := func(t *testing.T) string {
		dir := t.TempDir()
		for _, name := range []string{"ledger.db", "ledger-base.db"} {
			copyFile(t, filepath.Join(dir, name), filepath.Join(story, name))
		}
		return dir
	}
	if r := run(t, fresh(t)); !r.OK {
		t.Fatalf("audit of an honest ledger: got %s, want ok", show(r))
	}
	for _, c := range baseForgeries {
		t.Run(c.name, func(t *testing.T) {
			dir := fresh(t)
			base, main := openBase(t, dir), open(t, dir)
			c.forge(t, base, main)
			if err := errors.Join(base.Close(), main.Close()); err != nil {
				t.Fatal(err)
			}
			r, err := audit.Run(t.Context(), audit.Options{DataDir: dir})
			if err != nil {
				t.Fatal(err)
			}
			if r.OK || r.FindingCounts[c.want] == 0 {
				t.Errorf("got %s, want a finding %s", show(r), c.want)
			}
		})
	}
	t.Run("the base is missing", func(t *testing.T) {
		dir := fresh(t)
		if err := os.Remove(filepath.Join(dir, "ledger-base.db")); err != nil {
			t.Fatal(err)
		}
		if r, err := audit.Run(t.Context(), audit.Options{DataDir: dir}); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "ledger-base.db") {
			t.Errorf("got %v, %v, want an error that names what is missing", r, err)
		}
	})
}
