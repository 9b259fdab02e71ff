package threshold

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"example.org/odometer"
)

// TestWhoSeesAViolation compares what is listed with what the vocabulary says that each
// view sees, for holders, owners, members and guests, of thresholds shared and not.
func TestWhoSeesAViolation(t *testing.T) {
	w := newWatchtower(t)
	r := rand.New(rand.NewPCG(6, 1))
	users, orgs := []odometer.UserID{"", "u-ada", "u-bob"}, []odometer.OrgID{"", "acme", "zeta"}
	vms := []odometer.InstanceID{"", "vm-1", "vm-2"}
	var all []odometer.Violation
	for i := range 300 {
		at := begin.Add(time.Duration(r.IntN(10)) * time.Hour).UnixMicro()
		v := odometer.Violation{
			ID: odometer.NewViolationID("thr_a", "warning", fmt.Sprint(i), ""), Change: 1, Standing: odometer.StandingOpen, Crossed: at, Shared: r.IntN(2) == 0,
			Instance: vms[r.IntN(3)], Owner: odometer.Owner{User: users[r.IntN(3)], Org: orgs[r.IntN(3)]},
		}
		if r.IntN(2) == 0 {
			v.Holder.User = users[r.IntN(3)]
		} else {
			v.Holder.Org = orgs[r.IntN(3)]
		}
		all = append(all, v)
	}
	if err := w.save(t.Context(), &fold{changes: slices.Clone(all)}, 0); err != nil {
		t.Fatal(err)
	}
	kinds := map[string]int{}
	for range 60 {
		c := odometer.Caller{Scopes: []odometer.Scope{odometer.ScopeRead}}
		switch r.IntN(4) {
		case 0:
			c.Org = orgs[1+r.IntN(2)]
		case 1, 2:
			c.User = users[1+r.IntN(2)]
			for _, org := range orgs[1:] {
				if role := []odometer.Role{"", odometer.RoleMember, odometer.RoleBilling, odometer.RoleOwner}[r.IntN(4)]; role != "" {
					c.Memberships = append(c.Memberships, odometer.Membership{Org: org, User: c.User, Role: role})
				}
			}
			for _, vm := range vms[1:] {
				if r.IntN(2) == 0 {
					g := odometer.Grant{Instance: vm, User: c.User, Level: odometer.LevelReadOnly, Since: begin.Add(time.Duration(r.IntN(10)) * time.Hour)}
					if r.IntN(2) == 0 {
						g.Of = odometer.Owner{User: users[r.IntN(3)], Org: orgs[1+r.IntN(2)]}
					}
					c.Grants = append(c.Grants, g)
				}
			}
		}
		view := c.View()
		var want []odometer.ViolationID
		for _, v := range slices.Backward(all) {
			sees := v.SeenBy(view)
			if sees {
				want = append(want, v.ID)
				kinds[fmt.Sprint("shared ", v.Shared, ", all ", view.All())]++
			}
			if changes, err := w.Violation(t.Context(), view, v.ID); (err == nil) != sees || !sees && !errors.Is(err, odometer.ErrNotFound) {
				t.Fatalf("%+v asks for %+v: got %v, %v, want it seen %v", c, v, changes, err, sees)
			}
		}
		list, err := w.Violations(t.Context(), odometer.ViolationQuery{View: &view, Limit: 1000})
		if err != nil {
			t.Fatal(err)
		}
		var got []odometer.ViolationID
		for _, v := range list {
			got = append(got, v.ID)
		}
		if !slices.Equal(got, want) {
			t.Fatalf("%+v: got %d violations, want %d", c, len(got), len(want))
		}
	}
	if len(kinds) != 4 {
		t.Errorf("got %v, want both kinds seen by both", kinds)
	}
}

// TestAViolationIsItsHolders: whose machine it is sees what is reached of an operator's
// threshold where that is shared, and nobody what is reached of another's.
func TestAViolationIsItsHolders(t *testing.T) {
	w := newWatchtower(t)
	w.run()
	make := func(name string, holder odometer.Bound, shared bool) {
		d := twoLevels(odometer.Threshold{Scope: odometer.Scoped{All: true}, Resource: odometer.ResourceCPU, Condition: odometer.ConditionPeriod, Unit: odometer.UnitPercent})
		d.Name, d.Holder, d.Shared, d.Levels = name, holder, shared, d.Levels[:1]
		w.create(d)
	}
	make("the operator's", odometer.Bound{}, false)
	make("told to everybody", odometer.Bound{}, true)
	make("ada's", odometer.Bound{User: "u-ada"}, false)
	make("acme's", odometer.Bound{Org: "acme"}, false)
	w.use("vm-1", ada, 30*time.Second, cpu(85))
	w.settled()
	reads := []odometer.Scope{odometer.ScopeRead}
	for _, c := range []struct {
		says string
		by   odometer.Caller
		want []string
	}{
		{"the operator", odometer.Caller{Scopes: reads}, []string{"acme's", "ada's", "the operator's", "told to everybody"}},
		{"whose machine it is", odometer.Caller{Scopes: reads, Bound: odometer.Bound{User: "u-ada"}}, []string{"ada's", "told to everybody"}},
		{"whose organisation it is", odometer.Caller{Scopes: reads, Bound: odometer.Bound{Org: "acme"}}, []string{"acme's", "told to everybody"}},
		{"another", odometer.Caller{Scopes: reads, Bound: odometer.Bound{User: "u-eve"}}, nil},
	} {
		view := c.by.View()
		list, err := w.Violations(t.Context(), odometer.ViolationQuery{View: &view, Limit: 10})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, v := range list {
			got = append(got, v.Name)
		}
		if slices.Sort(got); !slices.Equal(got, c.want) {
			t.Errorf("%s: got %q, want %q", c.says, got, c.want)
		}
	}
}

// TestChannelsAreTheHolders has channels that a threshold names be looked for in the
// transaction that names them, by requests and by the file.
func TestChannelsAreTheHolders(t *testing.T) {
	w := newWatchtower(t)
	w.Close()
	const has, hasNot = odometer.ChannelID("chn_aaaaaaaaaaaaaaaa"), odometer.ChannelID("chn_bbbbbbbbbbbbbbbb")
	path := filepath.Join(t.TempDir(), "thresholds.yaml")
	fails := errors.New("the disk is gone")
	w.options.File = path
	w.options.Channels = func(ctx context.Context, tx *sql.Tx, h odometer.Bound, list []odometer.ChannelID) error {
		var n int
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM sqlite_master WHERE name = 'channels_came'`).Scan(&n); err != nil {
			return err
		}
		if list[0] == "chn_cccccccccccccccc" {
			return fails
		}
		if list[0] != has && n == 0 || h != (odometer.Bound{}) {
			return odometer.ThresholdProblem{Field: "channels[0]", Why: "its holder has it not"}
		}
		return nil
	}
	w.open()
	w.run()
	d := twoLevels(odometer.Threshold{Name: "busy", Scope: odometer.Scoped{All: true}, Resource: odometer.ResourceCPU, Condition: odometer.ConditionPeriod, Unit: odometer.UnitPercent, Action: odometer.ActionNotify})
	named := func(id odometer.ChannelID, h odometer.Bound) odometer.Threshold {
		d.Channels, d.Holder = []odometer.ChannelID{id}, h
		return d
	}
	if _, err := w.Create(t.Context(), admin, named(hasNot, odometer.Bound{}), odometer.Once{}); !errors.Is(err, odometer.ErrInvalid) {
		t.Errorf("one that there is not: got %v, want ErrInvalid", err)
	}
	if _, err := w.Create(t.Context(), admin, named(has, odometer.Bound{Org: "acme"}), odometer.Once{}); !errors.Is(err, odometer.ErrInvalid) {
		t.Errorf("another holder's: got %v, want ErrInvalid", err)
	}
	made := w.create(named(has, odometer.Bound{}))
	set := named(hasNot, odometer.Bound{})
	set.ID = made.ID
	if _, err := w.Update(t.Context(), admin, set, 0); !errors.Is(err, odometer.ErrInvalid) {
		t.Errorf("changed to one that there is not: got %v, want ErrInvalid", err)
	}
	if is, err := w.Get(t.Context(), admin.Caller, made.ID); err != nil || !slices.Equal(is.Channels, []odometer.ChannelID{has}) || is.Version != 1 {
		t.Errorf("got %+v, %v, want it as it was", is, err)
	}
	for id, want := range map[odometer.ChannelID]string{has: "busy", hasNot: ""} {
		tx, err := w.db.Begin()
		if err != nil {
			t.Fatal(err)
		}
		name, err := w.NamerIn(t.Context(), tx, odometer.Bound{}, id)
		other, bad := w.NamerIn(t.Context(), tx, odometer.Bound{Org: "acme"}, id)
		tx.Rollback()
		if name != want || other != "" || err != nil || bad != nil {
			t.Errorf("who names %s: got %q, %v and %q, %v", id, name, err, other, bad)
		}
	}

	text := func(id string) {
		t.Helper()
		yaml := "thresholds:\n- {name: of the file, scope: {all: true}, resource: cpu, condition: period, levels: [{name: warning, value: 80}], channels: [" + id + "]}\n"
		at := w.clock()
		if err := errors.Join(os.WriteFile(path+".new", []byte(yaml), 0o600), os.Chtimes(path+".new", at, at), os.Rename(path+".new", path)); err != nil {
			t.Fatal(err)
		}
		w.pass(fileLook)
	}
	text(string(hasNot))
	w.await("the file is said to name what there is not", func() bool { return errors.Is(w.Stats().File, odometer.ErrInvalid) })
	if got, want := w.Stats().File.Error(), path+": thresholds[0]: channels[0]: its holder has it not"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	w.create(named(has, odometer.Bound{})) // all else goes on
	if _, err := w.db.Exec(`CREATE TABLE channels_came (n INT)`); err != nil {
		t.Fatal(err)
	}
	w.pass(fileLook)
	w.await("it is taken over when they are there", func() bool { return w.Stats().File == nil && w.Stats().Thresholds == 3 })
	text("chn_cccccccccccccccc")
	w.await("a failure is not the file's", func() bool { return errors.Is(w.Stats().Err, fails) })
	text(string(has))
	w.await("it goes on", func() bool { return w.Stats().Err == nil })
}
