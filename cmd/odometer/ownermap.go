package main

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"unicode"

	"example.org/odometer"
)

// ownerMap is a file that maps what hypervisors say of whose a machine is to users and
// organisations: CSV with the columns attribute, value, user and org. Where several lines
// speak of one machine the first one decides. It is read again when it was changed; while it
// has an error its last good version stands.
type ownerMap struct {
	path string

	mu      sync.Mutex // guards what follows
	of      map[hint]mapped
	read    fileState // of the file when it was read last
	problem error
}

// hint is what a hypervisor says of whose a machine is: an attribute of it.
type hint struct{ attribute, value string }

func (h hint) String() string { return h.attribute + " = " + h.value }

// mapped is whose the machines with a hint are, by a line of the file.
type mapped struct {
	owner odometer.Owner
	line  int
}

// openOwnerMap reads the file, which has to be right at the start.
func openOwnerMap(path string) (*ownerMap, error) {
	m := &ownerMap{path: path}
	if m.refresh(); m.problem != nil {
		return nil, advise(m.problem, "correct it, or leave --owner-map out")
	}
	return m, nil
}

// refresh reads the file again where it was changed, and reports whether it is another.
func (m *ownerMap) refresh() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	is, err := lookAt(m.path)
	if err == nil && m.of != nil && is == m.read {
		return false
	}
	var of map[hint]mapped
	if err == nil {
		m.read = is // before it is read: what changes meanwhile is seen next time
		of, err = readOwnerMap(m.path)
	}
	if m.problem = err; err != nil {
		return false
	}
	m.of = of
	return true
}

// err is why the file as it is cannot be used.
func (m *ownerMap) err() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.problem
}

// owner returns whose a machine with these attributes is, and by which of them.
func (m *ownerMap) owner(attributes map[string]string) (owner odometer.Owner, by hint, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	line := 0
	for name, value := range attributes {
		if to, there := m.of[hint{name, value}]; there && (!ok || to.line < line) {
			owner, by, line, ok = to.owner, hint{name, value}, to.line, true
		}
	}
	return owner, by, ok
}

// hints returns what the file maps, in no order.
func (m *ownerMap) hints() (list []hint) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for h := range m.of {
		list = append(list, h)
	}
	return list
}

var ownerMapColumns = []string{"attribute", "value", "user", "org"}

// readOwnerMap reads a file. All that is wrong with it is told at once.
func readOwnerMap(path string) (map[hint]mapped, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	of := map[hint]mapped{}
	return of, readCSV(path, f, func(head []string) error {
		if !slices.Equal(head, ownerMapColumns) && !slices.Equal(head, ownerMapColumns[:3]) {
			return fmt.Errorf("%s: its first line has to be %s", path, strings.Join(ownerMapColumns, ","))
		}
		return nil
	}, func(line int, fields []string) error {
		h := hint{fields[0], fields[1]}
		to := mapped{owner: odometer.Owner{User: odometer.UserID(fields[2])}, line: line}
		if len(fields) > 3 {
			to.owner.Org = odometer.OrgID(fields[3])
		}
		wrongs := []error{checkHint("attribute", h.attribute), checkHint("value", h.value), wrong("user", odometer.ValidID("user", string(to.owner.User)))}
		if to.owner.Org != "" {
			wrongs = append(wrongs, wrong("org", odometer.ValidID("org", string(to.owner.Org))))
		}
		if before, twice := of[h]; twice {
			wrongs = append(wrongs, fmt.Errorf("%s is mapped in line %d already", h, before.line))
		}
		of[h] = to
		return errors.Join(wrongs...)
	})
}

// readCSV reads a file by its first line and then by each of the others, whose fields
// have no spaces around them. What is wrong with the first ends it; all that is wrong
// with the others is told at once.
func readCSV(name string, from io.Reader, first func([]string) error, each func(line int, fields []string) error) error {
	r := csv.NewReader(from)
	head, err := r.Read()
	if err != nil {
		return fmt.Errorf("%s: read its first line: %w", name, err)
	}
	head[0] = strings.TrimPrefix(head[0], "\ufeff") // what spreadsheets begin a file with
	if err := first(head); err != nil {
		return err
	}
	var bad []error
	for {
		fields, err := r.Read()
		if errors.Is(err, io.EOF) {
			return errors.Join(bad...)
		}
		if err != nil {
			if bad = append(bad, fmt.Errorf("%s: %w", name, err)); !errors.Is(err, csv.ErrFieldCount) {
				return errors.Join(bad...)
			}
			continue
		}
		for i := range fields {
			fields[i] = strings.TrimSpace(fields[i])
		}
		line, _ := r.FieldPos(0)
		if err := each(line, fields); err != nil {
			bad = append(bad, fmt.Errorf("%s: line %d: %s", name, line, strings.ReplaceAll(err.Error(), "\n", "; ")))
		}
	}
}

// checkHint returns nil for what an attribute of a description may be, and its cause.
func checkHint(what, text string) error {
	switch {
	case text == "":
		return fmt.Errorf("%s: is missing", what)
	case len(text) > odometer.MaxDescribedText/2:
		return fmt.Errorf("%s: has more than %d bytes", what, odometer.MaxDescribedText/2)
	case strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }):
		return fmt.Errorf("%s: has a character in it that cannot be shown", what)
	}
	return nil
}
