package threshold

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"example.org/odometer"
	"gopkg.in/yaml.v3"
)

// fileLook is how often it is looked whether the file of thresholds is another one.
const fileLook = 2 * time.Second

// maxFile bounds a file of thresholds, in bytes: some ten thousand of them.
const maxFile = 8 << 20

// ReadFile reads the thresholds of a YAML file: a list under `thresholds`, each as JSON
// has it ([odometer.ParseThreshold]). Names are unique; they are the operator's. All that
// is wrong is told at once, by place and field.
func ReadFile(path string) ([]odometer.Threshold, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxFile {
		return nil, fmt.Errorf("%s has %d bytes, at most %d are read: %w", path, info.Size(), maxFile, odometer.ErrInvalid)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	list, err := parseFile(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return list, nil
}

func parseFile(text []byte) (list []odometer.Threshold, err error) {
	var file map[string]any
	if err := yaml.Unmarshal(text, &file); err != nil {
		return nil, fmt.Errorf("%w: %w", err, odometer.ErrInvalid)
	}
	for name := range file {
		if name != "thresholds" {
			return nil, fmt.Errorf("%q is no field of it, only thresholds: %w", name, odometer.ErrInvalid)
		}
	}
	items, ok := file["thresholds"].([]any)
	if !ok && file["thresholds"] != nil {
		return nil, fmt.Errorf("thresholds is no list: %w", odometer.ErrInvalid)
	}
	var errs []error
	names := map[string]int{}
	for i, item := range items {
		err := expressible("", item)
		var d odometer.Threshold
		var body []byte
		if err == nil {
			body, err = json.Marshal(item)
		}
		if err == nil {
			d, err = odometer.ParseThreshold(body)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("thresholds[%d]: %w", i, err))
			continue
		}
		if first, twice := names[d.Name]; twice {
			errs = append(errs, fmt.Errorf("thresholds[%d].name: %q is that of thresholds[%d]: %w", i, d.Name, first, odometer.ErrInvalid))
		}
		names[d.Name] = i
		sum := sha256.Sum256([]byte("threshold of the file " + d.Name))
		d.ID, d.Managed = odometer.ThresholdID("thr_"+strings.ToLower(base32.StdEncoding.EncodeToString(sum[:10]))), managedByFile
		list = append(list, d)
	}
	return list, errors.Join(errs...)
}

// expressible refuses what YAML can say and JSON cannot, by the field that has it.
func expressible(field string, v any) error {
	var errs []error
	switch v := v.(type) {
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(v)) {
			errs = append(errs, expressible(strings.TrimPrefix(field+"."+name, "."), v[name]))
		}
	case []any:
		for i := range v {
			errs = append(errs, expressible(fmt.Sprintf("%s[%d]", field, i), v[i]))
		}
	case map[any]any:
		errs = append(errs, odometer.ThresholdProblem{Field: field, Why: "has a field whose name is no text"})
	case float64:
		if !odometer.Finite(v) {
			errs = append(errs, odometer.ThresholdProblem{Field: field, Why: fmt.Sprintf("%v is no number", v)})
		}
	}
	return errors.Join(errs...)
}

// fileSeen is a file as it was looked at last.
type fileSeen struct {
	at   time.Time // when
	mod  time.Time
	size int64
	err  string
}

// watchFile takes the file of thresholds over where it is another one than before. One
// that cannot be read or is wrong leaves things as they are, and is told of once.
func (f *follower) watchFile(ctx context.Context) error {
	now := f.clock()
	if f.o.File == "" || now.Sub(f.file.at) < fileLook {
		return nil
	}
	f.file.at = now
	info, err := os.Stat(f.o.File)
	if err == nil && info.ModTime().Equal(f.file.mod) && info.Size() == f.file.size {
		return nil
	}
	if err == nil {
		f.file.mod, f.file.size = info.ModTime(), info.Size()
		var list []odometer.Threshold
		if list, err = ReadFile(f.o.File); err == nil {
			err = f.takeOver(ctx, list)
			if err != nil {
				f.file.mod = time.Time{} // once more: what it lacks may come
			}
			if err != nil && !errors.Is(err, odometer.ErrInvalid) {
				return fmt.Errorf("take the file of thresholds over: %w", err)
			}
		}
	}
	f.count(func(s *Stats) { s.File = err })
	if err != nil {
		if err.Error() != f.file.err {
			f.logger.Error("the file of thresholds is not taken over; what it had before counts", "err", err)
		}
		f.file.err = err.Error()
		return nil
	}
	f.file.err = ""
	f.changed()
	return nil
}

// takeOver has the thresholds of the file be those of a list. Where they name channels
// that there are not, it tells all of them, and nothing is changed.
func (t *Thresholds) takeOver(ctx context.Context, list []odometer.Threshold) error {
	by := odometer.Actor{Caller: odometer.Caller{Name: "file of thresholds", Scopes: []odometer.Scope{odometer.ScopeAdmin}}}
	return t.transact(ctx, func(tx *sql.Tx) error {
		now := t.clock()
		var wrong []error
		for i := range list {
			err := t.channels(ctx, tx, &list[i])
			if err != nil && !errors.Is(err, odometer.ErrInvalid) {
				return err
			}
			if err != nil {
				wrong = append(wrong, fmt.Errorf("%s: thresholds[%d]: %w", t.o.File, i, err))
			}
		}
		if err := errors.Join(wrong...); err != nil {
			return err
		}
		left, err := ofFile(ctx, tx)
		if err != nil {
			return err
		}
		for i := range list {
			d := &list[i]
			is, there := left[d.ID]
			delete(left, d.ID)
			if there && string(is.AppendJSON(nil)) == string(d.AppendJSON(nil)) {
				continue
			}
			action := odometer.ActionThresholdUpdate
			if d.Version, d.Created, d.Changed, d.CreatedBy = is.Version+1, is.Created, now, by.Name; !there {
				action, d.Created = odometer.ActionThresholdCreate, now
				// One of that name may have been in the file before.
				if _, err := tx.ExecContext(ctx, `DELETE FROM threshold_thresholds WHERE id = ? AND deleted_us > 0`, string(d.ID)); err != nil {
					return err
				}
				err = insert(ctx, tx, d)
			} else {
				err = update(ctx, tx, d)
			}
			if err == nil {
				err = t.note(ctx, tx, by, action, d)
			}
			if err != nil {
				return err
			}
		}
		for id, d := range left {
			if err := remove(ctx, tx, id, now.UnixMicro()); err != nil {
				return err
			}
			if err := t.note(ctx, tx, by, odometer.ActionThresholdDelete, &d); err != nil {
				return err
			}
		}
		return nil
	})
}

// ofFile returns the thresholds of the file that are stored.
func ofFile(ctx context.Context, tx *sql.Tx) (map[odometer.ThresholdID]odometer.Threshold, error) {
	rows, err := tx.QueryContext(ctx, `SELECT `+columns+` FROM threshold_thresholds WHERE managed = ? AND deleted_us = 0`, managedByFile)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	list := map[odometer.ThresholdID]odometer.Threshold{}
	for rows.Next() {
		d, _, err := scanThreshold(rows)
		if err != nil {
			return nil, err
		}
		list[d.ID] = d
	}
	return list, rows.Err()
}
