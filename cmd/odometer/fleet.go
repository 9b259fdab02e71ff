package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"example.org/odometer"
	"example.org/odometer/account"
	"example.org/odometer/api"
	"example.org/odometer/ledger"
	"example.org/odometer/queue"
)

// directoryFile is the directory of instances, apart from the ledger.
const directoryFile = "directory.db"

// openDirectory opens the directory of instances. Without it everything else
// runs: metering waits for no description. Why is then an error that says what
// to do about it.
func openDirectory(ctx context.Context, path string, o account.Options) (*account.Directory, error) {
	o.Path = path
	d, err := account.Open(ctx, o)
	switch {
	case errors.Is(err, account.ErrNewer):
		err = advise(err, "run the version that wrote it, or stop the server and move %s, %s-wal and %s-shm away: the agents tell it again", path, path, path)
	case errors.Is(err, account.ErrDamaged):
		err = advise(err, "stop the server and move %s, %s-wal and %s-shm away: the agents tell it again within a minute, and no usage is in it", path, path, path)
	}
	return d, err
}

// fleet joins what is known of the instances: what agents describe, what is
// open, and what is booked.
type fleet struct {
	directory *account.Directory           // nil where it could not be opened
	absent    error                        // why not
	putOut    func(odometer.AgentID) bool  // reports whether a host was; nil for none
	owners    *ownerTeller                 // nil where agents are not told whose their instances are
	described func([]odometer.Description) // is told what agents describe, and waits for nothing; may be nil
	ledger    *ledger.Ledger
	kept      *account.Accounts // what people keep of instances
	live      *liveView
	now       func() time.Time
	// transferred is told what was recorded without a request; may be nil.
	transferred func(context.Context, odometer.Ownership) error
}

// hear takes what a live message says of machines into the directory.
func (f *fleet) hear(m queue.LiveMessage) {
	if f.directory == nil {
		return
	}
	said, err := machinesOf(m.Data)
	if err != nil {
		return // what came before the fault is told again too
	}
	f.directory.Describe(m.Agent, m.Received, said.told, said.gone)
	if interval := time.Duration(said.interval) * time.Microsecond; checkInterval(interval) == nil {
		f.directory.SetInterval(m.Agent, interval)
	}
	if f.described != nil {
		f.described(said.told)
	}
	if said.owners != nil && f.owners != nil {
		f.owners.heard(m.Agent, *said.owners)
	}
}

// usable returns nil where there is a directory.
func (f *fleet) usable() error {
	if f.directory == nil {
		return fmt.Errorf("%w: %w", odometer.ErrUnavailable, f.absent)
	}
	return nil
}

// Instances implements [api.InstanceReader].
func (f *fleet) Instances(ctx context.Context, seen odometer.View, q api.InstanceQuery) ([]api.KnownInstance, error) {
	if err := f.usable(); err != nil {
		return nil, err
	}
	var list []api.KnownInstance
	for {
		some, err := f.some(ctx, seen, q)
		if err != nil {
			return nil, err
		}
		now := f.now().UnixMicro()
		owned, err := f.ledger.Owned(ctx, some.ids, now, now+1)
		if err != nil {
			return nil, err
		}
		kept, err := f.kept.Registered(ctx, some.ids)
		if err != nil {
			return nil, err
		}
		for _, id := range some.ids {
			k, err := f.join(ctx, seen, id, some.described[id], some.booked[id], owned[id], some.all)
			if err != nil {
				return nil, err
			}
			k.Record = recordOf(kept, seen, &k.Instance)
			if q.Matches(&k.Instance) && f.sees(seen, &k) {
				list = append(list, k)
			}
			if len(list) == q.Limit {
				return list, nil
			}
		}
		if some.last == "" {
			return list, nil
		}
		q.After = some.last
	}
}

// recordOf returns what people keep of an instance and a view is shown, nil for nothing.
func recordOf(kept map[odometer.InstanceID]odometer.Registered, seen odometer.View, i *api.Instance) *api.InstanceRecord {
	r, ok := kept[i.Description.Instance]
	if !ok || !r.Shown(seen, ownerOf(i)) {
		return nil
	}
	return new(api.RecordOf(&r))
}

// candidates are instances that may match a query, in order, with what was found
// of them on the way.
type candidates struct {
	ids       []odometer.InstanceID
	last      odometer.InstanceID // where to go on; "" where there are no more
	described map[odometer.InstanceID]*account.Instance
	booked    map[odometer.InstanceID]*ledger.InstanceRow
	all       both
}

// both says of the directory and of the ledger that they were asked for all they
// have, so that what they did not give they do not know.
type both struct{ directory, ledger bool }

// How many instances are looked at together: as many as are wanted, within these.
const (
	fleetLeast = 50
	fleetMost  = 500
)

// some returns the next candidates.
func (f *fleet) some(ctx context.Context, seen odometer.View, q api.InstanceQuery) (c candidates, err error) {
	c.described, c.booked = map[odometer.InstanceID]*account.Instance{}, map[odometer.InstanceID]*ledger.InstanceRow{}
	size := min(fleetMost, max(fleetLeast, q.Limit))
	whole := true // neither has more than it gave
	cut := func(n int, at odometer.InstanceID) {
		if n == size && (whole || at < c.last) {
			c.last, whole = at, false
		}
	}
	owned := q.User != "" || q.Org != "" || !seen.All() // which the ledger knows, and the open periods
	nobodys := q.State == "" || q.State == api.StateUnknown
	if !owned || q.Label != "" {
		name := q.Name
		if q.Label != "" {
			name = "" // it may be its host's
		}
		var found []odometer.Registered
		if q.Label != "" || q.Name != "" || nobodys && q.Agent == "" && q.Attribute == "" {
			if found, err = f.kept.FindRegistered(ctx, q.After, name, q.Label, size); err != nil {
				return c, err
			}
		}
		for i := range found {
			c.ids = append(c.ids, found[i].Instance)
			cut(i+1, found[i].Instance)
		}
		if q.Label != "" {
			return c, nil
		}
	}
	if q.State != api.StateUnknown && !owned {
		d := account.Query{After: q.After, Limit: size, Agent: q.Agent, Name: q.Name, Attribute: q.Attribute, Value: q.Value, Status: q.State}
		found, err := f.directory.Instances(ctx, d)
		if err != nil {
			return c, err
		}
		for i := range found {
			id := found[i].Description.Instance
			c.described[id] = &found[i]
			c.ids = append(c.ids, id)
			cut(i+1, id)
		}
		c.all.directory = q.State == "" && q.Agent == "" && q.Name == "" && q.Attribute == ""
	}
	if q.Name == "" && q.Attribute == "" && nobodys || owned {
		found, err := f.ledger.Instances(ctx, ledger.InstanceQuery{After: q.After, Limit: size, User: q.User, Org: q.Org, View: narrow(seen)})
		if err != nil {
			return c, err
		}
		for i := range found {
			id := found[i].Instance
			c.booked[id] = &found[i]
			// Where the directory has it too, that says where it is.
			if q.Agent == "" || found[i].Agent == q.Agent || owned {
				c.ids = append(c.ids, id)
			}
			cut(i+1, id)
		}
		c.all.ledger = !owned
	}
	if owned {
		for _, o := range f.live.Open(seen, "") {
			if o.Event.Instance > q.After {
				c.ids = append(c.ids, o.Event.Instance)
			}
		}
	}
	slices.Sort(c.ids)
	c.ids = slices.Compact(c.ids)
	if !whole {
		end, there := slices.BinarySearch(c.ids, c.last)
		if there {
			end++
		}
		c.ids = c.ids[:end]
	}
	return c, nil
}

// ownerOf returns whose an instance is now, the zero Owner where that is not known.
func ownerOf(i *api.Instance) (o odometer.Owner) {
	if i.User != nil {
		o.User = *i.User
	}
	if i.Org != nil {
		o.Org = *i.Org
	}
	return o
}

// sees reports whether what an instance uses now is seen.
func (f *fleet) sees(seen odometer.View, k *api.KnownInstance) bool {
	return seen.SeesUse(k.Description.Instance, ownerOf(&k.Instance), f.now().UnixMicro())
}

// Instance implements [api.InstanceReader].
func (f *fleet) Instance(ctx context.Context, seen odometer.View, id odometer.InstanceID) (k api.KnownInstance, elsewhere []api.InstanceElsewhere, err error) {
	if err := f.usable(); err != nil {
		return k, nil, err
	}
	found, err := f.directory.Instances(ctx, account.Query{Instance: id})
	if err != nil {
		return k, nil, err
	}
	var described *account.Instance
	if len(found) > 0 {
		described = &found[0]
		for i := range described.Others {
			c := &described.Others[i]
			state, before := stateOf(c)
			elsewhere = append(elsewhere, api.InstanceElsewhere{
				Agent: c.Agent, State: string(state), LastState: before, FirstSeen: *known(c.First), DescribedAt: *known(c.Described), GoneSince: known(c.Gone),
			})
		}
	}
	owned, err := f.ledger.Ownership(ctx, id)
	if err != nil {
		return k, nil, err
	}
	if k, err = f.join(ctx, seen, id, described, nil, owned, both{directory: true}); err != nil {
		return k, nil, err
	}
	kept, err := f.kept.Registered(ctx, []odometer.InstanceID{id})
	if err != nil {
		return k, nil, err
	}
	k.Record = recordOf(kept, seen, &k.Instance)
	if k.Agent == "" && k.Record == nil || !f.sees(seen, &k) {
		return api.KnownInstance{}, nil, odometer.ErrNotFound
	}
	return k, elsewhere, nil
}

// join makes one instance of what the directory, the ledger and the live messages
// have of it, with those of its open periods that are seen. What is not given is
// looked up where it was not asked for; owned is whose it is recorded to be.
func (f *fleet) join(ctx context.Context, seen odometer.View, id odometer.InstanceID, d *account.Instance, b *ledger.InstanceRow, owned []odometer.Ownership, asked both) (k api.KnownInstance, err error) {
	if d == nil && !asked.directory {
		found, err := f.directory.Instances(ctx, account.Query{Instance: id})
		if err != nil {
			return k, err
		}
		if len(found) > 0 {
			d = &found[0]
		}
	}
	if b == nil && !asked.ledger {
		found, err := f.ledger.Instances(ctx, ledger.InstanceQuery{Instance: id, Limit: 1})
		if err != nil {
			return k, err
		}
		if len(found) > 0 {
			b = &found[0]
		}
	}
	k.Description = odometer.Describe(&odometer.VM{Instance: id, State: api.StateUnknown, VCPUs: odometer.Unknown, Memory: odometer.Unknown})
	if d != nil {
		k.Description, k.Agent = d.Description, d.Agent
		k.State, k.LastState = stateOf(&d.Claim)
		k.FirstSeen, k.DescribedAt, k.GoneSince = known(d.First), known(d.Described), known(d.Gone)
		if c := d.Conflict; c != nil {
			k.Conflict = conflictOf(c)
		}
	}
	if b != nil {
		k.Agent = cmp.Or(k.Agent, b.Agent)
		f.read(&k, b.Owner, b.Until, time.Duration(f.now().UnixMicro()-b.Until)*time.Microsecond)
		if first := time.UnixMicro(b.Since).UTC(); k.FirstSeen == nil || first.Before(*k.FirstSeen) {
			k.FirstSeen = &first
		}
	}
	f.listen(&k, seen, id, d)
	if owner, _ := odometer.OwnerAt(owned, f.now().UnixMicro(), odometer.Owner{}); owner.User != "" {
		belongs(&k, owner) // the record decides
	}
	return k, nil
}

// listen adds what agents tell of an instance that is open.
func (f *fleet) listen(k *api.KnownInstance, seen odometer.View, id odometer.InstanceID, d *account.Instance) {
	agents := []odometer.AgentID{k.Agent}
	if d != nil {
		for i := range d.Others {
			agents = append(agents, d.Others[i].Agent)
		}
	}
	if k.Agent == "" { // its first period: nobody but its agent knows of it
		agents, _ = f.live.all()
	}
	slices.Sort(agents)
	for _, agent := range slices.Compact(agents) {
		parts := f.live.of(agent)
		for i := range parts {
			p := &parts[i]
			k.Periods = append(k.Periods, f.live.open(p, seen, id)...)
			for _, e := range p.events {
				if e.Instance == id && (agent == k.Agent || k.Agent == "") {
					k.Agent = agent
					f.read(k, e.Owner.OrUnassigned(), e.Span.End, f.now().Sub(p.received)+time.Duration(p.At-e.Span.End)*time.Microsecond)
				}
			}
		}
	}
}

// read notes a reading: whose it is, when it was by its agent's clock, and how
// long that is ago. A later one replaces an earlier one.
func (f *fleet) read(k *api.KnownInstance, owner odometer.Owner, at int64, age time.Duration) {
	t := time.UnixMicro(at).UTC()
	if k.LastReading != nil && t.Before(*k.LastReading) {
		return
	}
	k.LastReading, k.Age = &t, new(max(0, int64(age/time.Second)))
	belongs(k, owner)
}

// belongs notes whose an instance is now, as far as that is known.
func belongs(k *api.KnownInstance, owner odometer.Owner) {
	k.User, k.Org = nil, nil
	if owner.User != "" {
		k.User = &owner.User
	}
	if owner.Org != "" {
		k.Org = &owner.Org
	}
}

// stateOf returns the state of a claim for an answer, and what it was last where
// that is something else.
func stateOf(c *account.Claim) (state, before odometer.State) {
	if state = odometer.State(c.Status()); state != c.State {
		before = c.State
	}
	return state, before
}

func conflictOf(c *account.Conflict) *api.InstanceConflict {
	return &api.InstanceConflict{Instance: c.Instance, Agents: c.Agents, Since: *known(c.Since)}
}

// known returns nil for a time that there is not.
func known(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return new(t.Truncate(time.Microsecond).UTC())
}

// conflicts lists the instances that several agents say run with them.
func (f *fleet) conflicts() []api.InstanceConflict {
	if f.directory == nil {
		return nil
	}
	var list []api.InstanceConflict
	for _, c := range f.directory.Conflicts() {
		list = append(list, *conflictOf(&c))
	}
	return list
}

// facts are what health is computed from.
func (f *fleet) facts() *api.InstanceFacts {
	if f.directory == nil {
		return &api.InstanceFacts{Absent: f.absent.Error()}
	}
	st := f.directory.Stats()
	facts := &api.InstanceFacts{Instances: st.Instances, Pending: st.Pending, Err: st.Err, Conflicts: f.conflicts()}
	for _, d := range f.ledger.Disagreements() {
		facts.Disagreements = append(facts.Disagreements, api.OwnerDisagreement{Agent: d.Agent, Events: d.Events, Instance: d.Instance, At: d.At})
	}
	return facts
}
