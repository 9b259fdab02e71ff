package main

import (
	"bytes"
	"encoding/csv"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"example.org/odometer"
	"example.org/odometer/api"
)

// lined reports whether an error names a line, or the first one, on each of its own.
func lined(err error, name string) bool {
	for line := range strings.Lines(err.Error()) {
		if !strings.HasPrefix(line, name+": ") {
			return false
		}
	}
	return true
}

// FuzzOwnerMap reads files that map owners. What is taken can be recorded; written
// again it is read as the same; what is refused is named by file and line.
func FuzzOwnerMap(f *testing.F) {
	for _, s := range []string{
		"attribute,value,user,org\nproject,web,u-ada,o-1\nproject, db ,u-bob,\n", "\ufeffattribute,value,user\r\nk,v,u\r\n", "attribute,value,user\nk,v,u\nk,v,w\n",
		"attribute,value,user\nk,v\n,,\n", "attribute,value,user\n\"k,v\n", "attribute,value,user\n\"a\nb\",v,u\n", "", "\n", "a,b\n",
	} {
		f.Add([]byte(s))
	}
	name := filepath.Join(f.TempDir(), "map.csv")
	f.Fuzz(func(t *testing.T, text []byte) {
		read := func(text []byte) (map[hint]mapped, error) {
			if err := os.WriteFile(name, text, 0o600); err != nil {
				t.Fatal(err)
			}
			return readOwnerMap(name)
		}
		of, err := read(text)
		if err != nil {
			if !lined(err, name) {
				t.Errorf("%q: got %q, want each line to name the file", text, err)
			}
			return
		}
		var again bytes.Buffer
		w := csv.NewWriter(&again)
		w.Write(ownerMapColumns)
		for _, h := range slices.SortedFunc(maps.Keys(of), func(a, b hint) int { return of[a].line - of[b].line }) {
			owner := of[h].owner
			o := odometer.Ownership{Instance: "vm", Owner: owner, Until: odometer.Forever}
			if err := o.Valid(); err != nil || h.attribute == "" || h.value == "" {
				t.Errorf("%q: got %s mapped to %v: %v", text, h, owner, err)
			}
			w.Write([]string{h.attribute, h.value, string(owner.User), string(owner.Org)})
		}
		w.Flush()
		twice, err := read(again.Bytes())
		if err != nil || !maps.EqualFunc(of, twice, func(a, b mapped) bool { return a.owner == b.owner }) {
			t.Errorf("%q: got %v, %v the second time, want %v", text, twice, err, of)
		}
	})
}

// FuzzReadOwners reads files that say whose instances are, as an import does.
func FuzzReadOwners(f *testing.F) {
	for _, s := range []string{
		"instance,user\nvm-1,u-ada\n", "user,instance,org,from,until,cause\nu,vm,o,-2d,now,it was sold\n", "instance,instance\n", "instance,user\nvm-1,\n,u\nvm/1,u\n",
		"instance,user,cause\nvm,u,\"a\nb\"\n", "instance,user\nvm\n", "",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		read := func(from io.Reader) ([]ownerLine, error) {
			return readOwners(from, "-", &ownerConfig{OwnershipRequest: api.OwnershipRequest{Cause: "it is so"}})
		}
		list, err := read(bytes.NewReader(text))
		if err != nil {
			if !lined(err, "-") {
				t.Errorf("%q: got %q, want each line to name the file", text, err)
			}
			return
		}
		var again bytes.Buffer
		w := csv.NewWriter(&again)
		w.Write(importColumns)
		last := 1
		for _, l := range list {
			o := odometer.Ownership{Instance: l.instance, Owner: odometer.Owner{User: l.ask.User}, Until: odometer.Forever}
			if l.ask.Org != nil {
				o.Owner.Org = *l.ask.Org
			}
			if err := o.Valid(); err != nil || l.ask.Cause == "" || l.number <= last || l.ask.Org != nil && *l.ask.Org == "" {
				t.Errorf("%q: line %s: got %+v: %v", text, strconv.Itoa(l.number), l.ask, err)
			}
			last = l.number
			w.Write([]string{string(l.instance), string(l.ask.User), string(o.Owner.Org), l.ask.From, l.ask.Until, l.ask.Cause})
		}
		w.Flush()
		twice, err := read(&again)
		if err != nil || !slices.EqualFunc(list, twice, func(a, b ownerLine) bool {
			return a.instance == b.instance && a.ask.User == b.ask.User && (a.ask.Org == nil) == (b.ask.Org == nil) && (a.ask.Org == nil || *a.ask.Org == *b.ask.Org) &&
				a.ask.From == b.ask.From && a.ask.Until == b.ask.Until && a.ask.Cause == b.ask.Cause
		}) {
			t.Errorf("%q: got %+v, %v the second time, want %+v", text, twice, err, list)
		}
	})
}
