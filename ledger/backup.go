package ledger

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"example.org/odometer"
)

// A backup is a directory with a copy of the ledger as of one moment,
// ledger.db, where its journal was pruned the base of it, ledger-base.db, and
// manifest.json, which says what it is and by what it is
// checked. It is written beside its name, under NAME.partial, synced, and
// renamed: a backup that bears its name is complete.

const (
	backupLedger   = "ledger.db"
	backupBase     = "ledger-base.db" // where the journal was pruned
	backupManifest = "manifest.json"
	backupFormat   = 1
	partial        = ".partial"   // of a backup that is being made
	restoring      = ".restoring" // of a ledger that is being brought back
)

// Manifest says what a backup holds.
type Manifest struct {
	Format     int                `json:"format"` // 1
	Made       time.Time          `json:"made"`
	Ledger     odometer.LedgerID  `json:"ledger_id"`
	Generation uint64             `json:"generation"`
	Schema     int                `json:"schema_version"`
	Records    int64              `json:"records"`
	Entries    int64              `json:"entries"`
	Partitions []ManifestJournal  `json:"partitions"`
	Files      []ManifestFileInfo `json:"files"`
}

// ManifestJournal is the end of one partition's journal.
type ManifestJournal struct {
	Partition int    `json:"partition"`
	Position  int64  `json:"position"`
	Entry     uint64 `json:"entry"` // the last entry's number
	Hash      string `json:"hash"`  // of the last record, hexadecimal
}

// ManifestFileInfo is a file of the backup.
type ManifestFileInfo struct {
	Name   string `json:"name"`
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"` // hexadecimal
}

// Backup copies one moment of the ledger at path into the new directory dir.
// It may run beside the server, which goes on committing; it changes nothing.
// When it returns nil the backup is complete and durable; otherwise there is
// no dir, though perhaps a dir.partial, which the next attempt removes. A dir
// that is there is refused, wrapping [odometer.ErrConflict]. A ledger of an
// older version is copied as it is.
func Backup(ctx context.Context, path, dir string) (*Manifest, error) {
	m, err := backup(ctx, path, dir, func(string) error { return nil })
	if err != nil {
		return nil, fmt.Errorf("back up %s: %w", path, err)
	}
	return m, nil
}

func backup(ctx context.Context, path, dir string, at func(string) error) (_ *Manifest, err error) {
	dir = filepath.Clean(dir)
	if exists(dir) {
		return nil, fmt.Errorf("%s is there already: %w", dir, odometer.ErrConflict)
	}
	if _, err := os.Stat(path); err != nil {
		return nil, err
	}
	db, err := connect(path, "ro", 1)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	if err := copyable(ctx, db); err != nil {
		return nil, err
	}
	if err := os.RemoveAll(dir + partial); err != nil {
		return nil, err
	}
	if err := os.Mkdir(dir+partial, 0o700); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			os.RemoveAll(dir + partial)
		}
	}()
	file := filepath.Join(dir+partial, backupLedger)
	made := time.Now().UTC()
	if err := copyDatabase(ctx, db, file, at); err != nil {
		return nil, err
	}
	m, err := describe(ctx, file)
	if err != nil {
		return nil, err
	}
	m.Made = made.Truncate(time.Millisecond)
	names := []string{backupLedger}
	base, err := baseOf(ctx, path, db)
	if err != nil {
		return nil, err
	}
	if base != "" {
		// After the ledger: what the base has by then, the ledger has at least.
		if err := copyBase(ctx, base, filepath.Join(dir+partial, backupBase)); err != nil {
			return nil, fmt.Errorf("the base of the pruned journal: %w", err)
		}
		names = append(names, backupBase)
	}
	for _, name := range names {
		info := ManifestFileInfo{Name: name}
		if info.Bytes, info.SHA256, err = hashFile(ctx, filepath.Join(dir+partial, name), io.Discard); err != nil {
			return nil, err
		}
		m.Files = append(m.Files, info)
	}
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return nil, err
	}
	if err := writeSynced(filepath.Join(dir+partial, backupManifest), append(text, '\n')); err != nil {
		return nil, err
	}
	if err := syncDir(dir + partial); err != nil {
		return nil, err
	}
	if err := at("written"); err != nil {
		return nil, err
	}
	// The content before the name. Two that take the same name at once: one
	// finds it taken.
	if err := unix.Renameat2(unix.AT_FDCWD, dir+partial, unix.AT_FDCWD, dir, unix.RENAME_NOREPLACE); err != nil {
		return nil, fmt.Errorf("name the backup %s: %w", dir, err)
	}
	if err := at("named"); err != nil {
		return nil, err
	}
	return m, syncDir(filepath.Dir(dir))
}

// copyable returns nil for a ledger whose tables this program knows, of
// whatever version, unless it is on its way between two.
func copyable(ctx context.Context, db queryer) error {
	if err := readable(ctx, db); err != nil && !errors.Is(err, ErrOlder) {
		return err
	}
	return nil
}

// describe makes the manifest of the ledger in a file that nobody writes to.
func describe(ctx context.Context, file string) (*Manifest, error) {
	db, err := sql.Open("sqlite", "file:"+file+"?mode=ro&immutable=1")
	if err != nil {
		return nil, err
	}
	defer db.Close()
	m := &Manifest{Format: backupFormat, Partitions: []ManifestJournal{}}
	if m.Schema, _, err = schemaOf(ctx, db); err != nil {
		return nil, err
	}
	if m.Generation, err = generationOf(ctx, db); err != nil {
		return nil, err
	}
	if err := db.QueryRowContext(ctx, `SELECT value, (SELECT count(*) FROM journal) FROM meta WHERE key = 'ledger_id'`).Scan(&m.Ledger, &m.Records); err != nil {
		return nil, err
	}
	rows, err := db.QueryContext(ctx, `SELECT partition, position, entry, hash FROM `+journalEnds+` ORDER BY partition`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var j ManifestJournal
		var hash []byte
		if err := rows.Scan(&j.Partition, &j.Position, &j.Entry, &hash); err != nil {
			return nil, err
		}
		j.Hash = hex.EncodeToString(hash)
		m.Entries += int64((odometer.EntryID{Number: j.Entry}).Ordinal())
		m.Partitions = append(m.Partitions, j)
	}
	return m, rows.Err()
}

// hashFile copies a file to w and returns its size and hash.
func hashFile(ctx context.Context, path string, w io.Writer) (size int64, sum string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, "", err
	}
	defer f.Close()
	h := sha256.New()
	b := make([]byte, 1<<20)
	for {
		n, err := f.Read(b)
		h.Write(b[:n])
		if _, err := w.Write(b[:n]); err != nil {
			return 0, "", err
		}
		size += int64(n)
		if err == io.EOF {
			return size, hex.EncodeToString(h.Sum(nil)), nil
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return 0, "", err
		}
	}
}

func writeSynced(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}

// readManifest reads what a backup says of itself.
func readManifest(dir string) (*Manifest, error) {
	text, err := os.ReadFile(filepath.Join(dir, backupManifest))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s is no backup: %w", dir, err)
	}
	m := new(Manifest)
	if err == nil {
		err = json.Unmarshal(text, m)
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s of %s: %w", backupManifest, dir, err)
	case m.Format != backupFormat || m.Schema > SchemaVersion:
		return nil, fmt.Errorf("a backup of format %d with tables of version %d, this program knows %d and %d: %w", m.Format, m.Schema, backupFormat, SchemaVersion, ErrNewer)
	case len(m.Files) < 1 || m.Files[0].Name != backupLedger || len(m.Files) > 2 || len(m.Files) == 2 && m.Files[1].Name != backupBase:
		return nil, fmt.Errorf("%s of %s names other files than %s and %s: %w", backupManifest, dir, backupLedger, backupBase, odometer.ErrInvalid)
	}
	return m, nil
}

// RestoreOptions say how a backup is brought back.
type RestoreOptions struct {
	Now time.Time // time.Now when zero
	// Replace moves a ledger that is in the place aside, with its -wal and
	// -shm, into a directory replaced-TIME beside it; otherwise it is refused,
	// wrapping [odometer.ErrConflict].
	Replace bool

	point func(string) error // tests
}

// RestoreReport says what Restore did.
type RestoreReport struct {
	Manifest
	// Generation that begins when the ledger is next opened.
	Next uint64 `json:"next_generation"`
	// Replaced is where the ledger is that was there before, "" for none.
	Replaced string `json:"replaced,omitempty"`
}

// Restore brings the backup in dir back as the ledger at path, which nobody
// may have open. The copy is compared with its manifest before anything
// changes. When it returns nil the ledger is in its place, durably, and the
// next Open begins another generation of it, by which agents know to offer
// again what they sent since. After an error or a crash the old ledger is in
// its place, or moved aside with none in its place: Restore may be called
// again.
func Restore(ctx context.Context, dir, path string, o RestoreOptions) (*RestoreReport, error) {
	if o.Now.IsZero() {
		o.Now = time.Now()
	}
	if o.point == nil {
		o.point = func(string) error { return nil }
	}
	r, err := restore(ctx, dir, path, &o)
	if err != nil {
		return nil, fmt.Errorf("restore %s: %w", dir, err)
	}
	return r, nil
}

func restore(ctx context.Context, dir, path string, o *RestoreOptions) (_ *RestoreReport, err error) {
	m, err := readManifest(dir)
	if err != nil {
		return nil, err
	}
	if exists(path) && !o.Replace {
		return nil, fmt.Errorf("%s is there already: %w", path, odometer.ErrConflict)
	}
	tmp, base := path+restoring, basePath(path)
	seen := seenGeneration(ctx, path, m.Ledger)
	if left, err := pendingGeneration(ctx, tmp); err == nil { // of a restore that was interrupted, which had seen it
		seen = max(seen, left)
	}
	if err := errors.Join(removeDatabase(tmp), removeDatabase(base+restoring)); err != nil {
		return nil, err
	}
	moving := false
	defer func() {
		// Where the place may be empty by now, the copy stays and says that a
		// restore was interrupted.
		if err != nil && !moving {
			removeDatabase(tmp)
			removeDatabase(base + restoring)
		}
	}()
	if len(m.Files) > 1 {
		if err := copyChecked(ctx, filepath.Join(dir, backupBase), base+restoring, m.Files[1]); err != nil {
			return nil, err
		}
	}
	if err := bringBack(ctx, dir, tmp, m); err != nil {
		return nil, err
	}
	if err := o.point("copied"); err != nil {
		return nil, err
	}
	if err := restored(ctx, tmp, o.Now, seen); err != nil {
		return nil, err
	}
	r := &RestoreReport{Manifest: *m}
	if r.Next, err = pendingGeneration(ctx, tmp); err != nil {
		return nil, err
	}
	if err := removeBeside(tmp); err != nil { // empty since the last connection was closed
		return nil, err
	}
	if err := syncFile(tmp); err != nil {
		return nil, err
	}
	if err := o.point("prepared"); err != nil {
		return nil, err
	}
	if there := databaseNames(path, base); len(there) > 0 {
		moving = true
		if r.Replaced, err = moveAside(there, filepath.Dir(path), o.Now); err != nil {
			return nil, err
		}
		if err := o.point("moved aside"); err != nil {
			return nil, err
		}
	}
	// The ledger last: while it is not in its place, the restore is not done.
	if len(m.Files) > 1 {
		if err := os.Rename(base+restoring, base); err != nil {
			return nil, err
		}
		if err := syncDir(filepath.Dir(path)); err != nil {
			return nil, err
		}
	}
	if err := os.Rename(tmp, path); err != nil {
		return nil, err
	}
	if err := o.point("named"); err != nil {
		return nil, err
	}
	return r, syncDir(filepath.Dir(path))
}

// bringBack copies the ledger of a backup to the file to and holds it to its
// manifest.
func bringBack(ctx context.Context, dir, to string, m *Manifest) error {
	if err := copyChecked(ctx, filepath.Join(dir, backupLedger), to, m.Files[0]); err != nil {
		return err
	}
	is, err := describe(ctx, to)
	if err != nil {
		return err
	}
	is.Made, is.Files = m.Made, m.Files
	a, errA := json.Marshal(is)
	b, errB := json.Marshal(m)
	if errA != nil || errB != nil || !bytes.Equal(a, b) {
		return errors.Join(errA, errB, fmt.Errorf("%s is not the ledger that the manifest describes: %w", backupLedger, odometer.ErrInvalid))
	}
	return nil
}

// copyChecked copies a file of a backup, durably, and holds it to its manifest.
func copyChecked(ctx context.Context, from, to string, want ManifestFileInfo) error {
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	size, sum, err := hashFile(ctx, from, f)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if size != want.Bytes || sum != want.SHA256 {
		return fmt.Errorf("%s is damaged: it has %d bytes with SHA-256 %s, the manifest says %d and %s: %w", want.Name, size, sum, want.Bytes, want.SHA256, odometer.ErrInvalid)
	}
	return nil
}

// seenGeneration returns the generation to which the ledger id at path has
// come; 0 where there is none, it is another or it cannot be read, which may
// be why it is being replaced.
func seenGeneration(ctx context.Context, path string, id odometer.LedgerID) uint64 {
	if !exists(path) {
		return 0
	}
	db, err := connect(path, "ro", 1)
	if err != nil {
		return 0
	}
	defer db.Close()
	var is string
	gen, err := generationOf(ctx, db)
	if err != nil || db.QueryRowContext(ctx, `SELECT value FROM meta WHERE key = 'ledger_id'`).Scan(&is) != nil || odometer.LedgerID(is) != id {
		return 0
	}
	return gen
}

func pendingGeneration(ctx context.Context, path string) (gen uint64, err error) {
	db, err := connect(path, "ro", 1)
	if err != nil {
		return 0, err
	}
	defer db.Close()
	err = db.QueryRowContext(ctx, `SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'restored'`).Scan(&gen)
	return gen, err
}

// beside are the files that SQLite keeps beside a database.
var beside = []string{"-wal", "-shm"}

func removeBeside(path string) error {
	var errs []error
	for _, suffix := range beside {
		if err := os.Remove(path + suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func removeDatabase(path string) error {
	err := os.Remove(path)
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, removeBeside(path))
}

// databaseNames returns the files that there are of databases.
func databaseNames(paths ...string) (there []string) {
	for _, path := range paths {
		for _, suffix := range append([]string{""}, beside...) {
			if exists(path + suffix) {
				there = append(there, path+suffix)
			}
		}
	}
	return there
}

// moveAside moves files into a new directory beside them.
func moveAside(files []string, dir string, now time.Time) (string, error) {
	into := filepath.Join(dir, "replaced-"+now.UTC().Format("20060102T150405Z"))
	for n, first := 2, into; exists(into); n++ {
		into = fmt.Sprintf("%s-%d", first, n)
	}
	if err := os.Mkdir(into, 0o700); err != nil {
		return "", err
	}
	// All names there before the first is gone here, so that the database is
	// never without its log. What a crash leaves here is moved by the next
	// attempt.
	for _, file := range files {
		if err := os.Link(file, filepath.Join(into, filepath.Base(file))); err != nil {
			return "", fmt.Errorf("move the ledger that is there aside: %w", err)
		}
	}
	if err := errors.Join(syncDir(into), syncDir(dir)); err != nil {
		return "", err
	}
	for _, file := range files {
		if err := os.Remove(file); err != nil {
			return "", fmt.Errorf("move the ledger that is there aside: %w", err)
		}
	}
	return into, syncDir(dir)
}

func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
