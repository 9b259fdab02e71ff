package account

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"example.org/odometer"
)

func webServer(id odometer.InstanceID) odometer.Registered {
	return odometer.Registered{Instance: id, Name: "canary shop", Labels: map[string]string{"tier": "web", "rack": "r1"}}
}

// TestTheLifeOfAnInstancesRecord: it is kept, found, changed by the version that was
// seen, erased and kept again, over restarts.
func TestTheLifeOfAnInstancesRecord(t *testing.T) {
	ctx := t.Context()
	w := newEstate(t, AccountsOptions{})
	found := func(name, label string) (ids []odometer.InstanceID) {
		t.Helper()
		w.restart()
		list, err := w.FindRegistered(ctx, "", name, label, 10)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range list {
			ids = append(ids, r.Instance)
		}
		return ids
	}
	is := func(what string, got []odometer.InstanceID, want ...odometer.InstanceID) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", what, got, want)
		}
	}
	once := odometer.Once{Key: "k"}
	made, err := w.Register(ctx, admin, once, webServer("vm-1"))
	if err != nil || made.Version != 1 || made.Created.IsZero() || !made.Deleted.IsZero() {
		t.Fatalf("got %+v, %v", made, err)
	}
	if again, err := w.Register(ctx, admin, once, webServer("vm-1")); err != nil || again.Version != 1 || !maps.Equal(again.Labels, made.Labels) {
		t.Errorf("the same once more: got %+v, %v, want it answered as before", again, err)
	}
	if _, err := w.Register(ctx, admin, odometer.Once{}, webServer("vm-1")); !errors.Is(err, odometer.ErrConflict) {
		t.Errorf("what is kept already: got %v, want ErrConflict", err)
	}
	if _, err := w.Register(ctx, admin, odometer.Once{}, odometer.Registered{Instance: "vm-2"}); err != nil {
		t.Error(err)
	}
	is("all", found("", ""), "vm-1", "vm-2")
	is("by name", found("canary shop", ""), "vm-1")
	is("by label", found("", "rack:r1"), "vm-1")
	is("by another label", found("", "rack:r2"))
	if _, err := w.SetRegistered(ctx, admin, owned("vm-1", "", ""), 7, odometer.Registered{}); !errors.Is(err, odometer.ErrStale) {
		t.Errorf("of another version: got %v, want ErrStale", err)
	}
	if _, err := w.SetRegistered(ctx, admin, owned("vm-9", "", ""), 1, odometer.Registered{}); !errors.Is(err, odometer.ErrStale) {
		t.Errorf("of a version of nothing: got %v, want ErrStale", err)
	}
	set, err := w.SetRegistered(ctx, admin, owned("vm-1", "", ""), 1, odometer.Registered{Name: "canary", Labels: map[string]string{"rack": "r2"}})
	if err != nil || set.Version != 2 || !set.Created.Equal(made.Created) {
		t.Errorf("got %+v, %v", set, err)
	}
	is("by the label of before", found("", "tier:web"))
	is("by the label of now", found("", "rack:r2"), "vm-1")
	if _, err := w.DeleteRegistered(ctx, admin, "vm-1", 1); !errors.Is(err, odometer.ErrStale) {
		t.Errorf("delete another version: got %v, want ErrStale", err)
	}
	if gone, err := w.DeleteRegistered(ctx, admin, "vm-1", 2); err != nil || gone.Name != "" || gone.Labels != nil || gone.Deleted.IsZero() {
		t.Errorf("got %+v, %v", gone, err)
	}
	if _, err := w.DeleteRegistered(ctx, admin, "vm-1", odometer.AnyVersion); !errors.Is(err, odometer.ErrNotFound) {
		t.Errorf("delete what is deleted: got %v, want ErrNotFound", err)
	}
	is("after it was deleted", found("", ""), "vm-2")
	files, err := filepath.Glob(w.o.Path + "*")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if b, err := os.ReadFile(file); err != nil || bytes.Contains(b, []byte("canary")) {
			t.Errorf("%s has the name of what was deleted, or %v", filepath.Base(file), err)
		}
	}
	if again, err := w.Register(ctx, admin, odometer.Once{}, webServer("vm-1")); err != nil || again.Version != 4 || !again.Deleted.IsZero() {
		t.Errorf("keep it again: got %+v, %v", again, err)
	}
	kept, err := w.Registered(ctx, []odometer.InstanceID{"vm-1", "vm-3"})
	if err != nil || len(kept) != 1 || kept["vm-1"].Labels["tier"] != "web" {
		t.Errorf("got %+v, %v", kept, err)
	}
	for _, bad := range []odometer.Registered{
		{}, {Instance: "a b"}, {Instance: "vm-3", Name: "a\nb"}, {Instance: "vm-3", Name: NewSecret()},
		{Instance: "vm-3", Labels: map[string]string{"": "x"}}, {Instance: "vm-3", Labels: map[string]string{"a:b": "x"}}, {Instance: "vm-3", Labels: map[string]string{"a": NewSecret()}},
		{Instance: "vm-3", Labels: map[string]string{"a": "\x00"}}, {Instance: "vm-3", Labels: many(odometer.MaxLabels + 1)},
	} {
		if _, err := w.Register(ctx, admin, odometer.Once{}, bad); !errors.Is(err, odometer.ErrInvalid) {
			t.Errorf("%+v: got %v, want ErrInvalid", bad, err)
		}
	}
}

func many(n int) map[string]string {
	labels := map[string]string{}
	for i := range n {
		labels[fmt.Sprint("k", i)] = "v"
	}
	return labels
}

// TestWhoNamesAnInstance: whose it is, who may for the organisation, who holds a grant
// that is high enough, and the operator; to who does not see it there is none.
func TestWhoNamesAnInstance(t *testing.T) {
	ctx := t.Context()
	w := newEstate(t, AccountsOptions{})
	w.give(admin, w.owns, "u-other", odometer.LevelOperator)
	w.give(admin, w.owns, "u-plain", odometer.LevelManager)
	reads := w.member
	reads.Scopes = []odometer.Scope{odometer.ScopeRead}
	for _, c := range []struct {
		says string
		by   odometer.Actor
		want error
	}{
		{"the operator", admin, nil},
		{"its owner", w.member, nil},
		{"an owner of the organisation", w.owner, nil},
		{"an admin of the organisation", w.admin, nil},
		{"who holds a grant of level manager", w.plain, nil},
		{"who holds a grant of level operator", w.other, odometer.ErrForbidden},
		{"billing", w.billing, odometer.ErrForbidden},
		{"another member", w.guest, odometer.ErrNotFound},
		{"its owner without the scope", reads, odometer.ErrForbidden},
	} {
		_, err := w.SetRegistered(ctx, c.by, w.owns, odometer.AnyVersion, webServer("ignored"))
		if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
			t.Errorf("%s: got %v, want %v", c.says, err, c.want)
		}
	}
	for _, by := range []odometer.Actor{w.owner, w.member, w.plain} {
		if _, err := w.Register(ctx, by, odometer.Once{}, webServer("vm-2")); !errors.Is(err, odometer.ErrForbidden) {
			t.Errorf("create: got %v, want ErrForbidden", err)
		}
		if _, err := w.DeleteRegistered(ctx, by, "vm-1", odometer.AnyVersion); !errors.Is(err, odometer.ErrForbidden) {
			t.Errorf("delete: got %v, want ErrForbidden", err)
		}
	}
	kept, err := w.Registered(ctx, []odometer.InstanceID{"vm-1"})
	if err != nil || kept["vm-1"].Of != w.owns.Owner {
		t.Errorf("got %+v, %v, want it in the name of its owner", kept, err)
	}
	lines, err := w.FindAudit(ctx, odometer.AuditQuery{Limit: 10, Action: "instance"})
	if err != nil || len(lines) != 5 || lines[0].Action != odometer.ActionInstanceUpdate || lines[0].Object != "vm-1" {
		t.Errorf("got %+v, %v, want a line of each change", lines, err)
	}
}

func TestEveryCommitOfInstancesFails(t *testing.T) {
	for _, c := range theFailures {
		t.Run(c.name, func(t *testing.T) {
			ctx := t.Context()
			w := newEstate(t, AccountsOptions{Driver: "account-failing"})
			version := func() int64 {
				kept, err := w.Registered(ctx, []odometer.InstanceID{"vm-1"})
				if err != nil {
					t.Fatal(err)
				}
				return kept["vm-1"].Version
			}
			lines := len(w.actions())
			for i, change := range []func() error{
				func() error { _, err := w.Register(ctx, admin, odometer.Once{}, webServer("vm-1")); return err },
				func() error {
					_, err := w.SetRegistered(ctx, w.owner, w.owns, odometer.AnyVersion, webServer(""))
					return err
				},
			} {
				c.fails.Store(true)
				err := change()
				c.fails.Store(false)
				if !errors.Is(err, errDisk) {
					t.Errorf("got %v, want it failed", err)
				}
				if want := map[bool]int64{true: int64(i + 1)}[c.stored]; version() != want || len(w.actions()) != lines+int(want) {
					t.Errorf("got version %d and %d lines more, want %d of both", version(), len(w.actions())-lines, want)
				}
			}
			kept, err := w.SetRegistered(ctx, w.owner, w.owns, odometer.AnyVersion, webServer(""))
			if err != nil {
				t.Fatal(err)
			}
			lines = len(w.actions())
			c.fails.Store(true)
			_, err = w.DeleteRegistered(ctx, admin, "vm-1", kept.Version)
			c.fails.Store(false)
			left, more := map[bool]int64{false: kept.Version}[c.stored], map[bool]int{true: 1}[c.stored]
			if !errors.Is(err, errDisk) || version() != left || len(w.actions()) != lines+more {
				t.Errorf("delete: got %v, version %d and %d lines more, want it failed, %d and %d", err, version(), len(w.actions())-lines, left, more)
			}
		})
	}
}
