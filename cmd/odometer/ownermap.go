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
	"time"
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
	size    int64
	written time.Time
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
	info, err := os.Stat(m.path)
	if err == nil && m.of != nil && info.Size() == m.size && info.ModTime().Equal(m.written) {
		return false
	}
	var of map[hint]mapped
	if err == nil {
		m.size, m.written = info.Size(), info.ModTime()
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
	r := csv.NewReader(f)
	head, err := r.Read()
	if err != nil {
		return nil, fmt.Errorf("%s: read its first line: %w", path, err)
	}
	head[0] = strings.TrimPrefix(head[0], "\ufeff") // what spreadsheets begin a file with
	if !slices.Equal(head, ownerMapColumns) && !slices.Equal(head, ownerMapColumns[:3]) {
		return nil, fmt.Errorf("%s: its first line has to be %s", path, strings.Join(ownerMapColumns, ","))
	}
	of, bad := map[hint]mapped{}, []error{}
	for {
		fields, err := r.Read()
		if errors.Is(err, io.EOF) {
			return of, errors.Join(bad...)
		}
		line, _ := r.FieldPos(0)
		if err != nil {
			if bad = append(bad, fmt.Errorf("%s: %w", path, err)); !errors.Is(err, csv.ErrFieldCount) {
				return nil, errors.Join(bad...)
			}
			continue
		}
		h := hint{strings.TrimSpace(fields[0]), strings.TrimSpace(fields[1])}
		to := mapped{owner: odometer.Owner{User: odometer.UserID(strings.TrimSpace(fields[2]))}, line: line}
		if len(fields) > 3 {
			to.owner.Org = odometer.OrgID(strings.TrimSpace(fields[3]))
		}
		wrongs := []error{checkHint("attribute", h.attribute), checkHint("value", h.value), wrong("user", odometer.ValidID("user", string(to.owner.User)))}
		if to.owner.Org != "" {
			wrongs = append(wrongs, wrong("org", odometer.ValidID("org", string(to.owner.Org))))
		}
		if before, twice := of[h]; twice {
			wrongs = append(wrongs, fmt.Errorf("%s is mapped in line %d already", h, before.line))
		}
		if err := errors.Join(wrongs...); err != nil {
			bad = append(bad, fmt.Errorf("%s: line %d: %s", path, line, strings.ReplaceAll(err.Error(), "\n", "; ")))
		}
		of[h] = to
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
