package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"example.org/odometer"
	"example.org/odometer/account"
	"example.org/odometer/ledger"
)

const (
	// ownersRest is the least between two looks at who is to be told: what a list
	// of many assignments decides is told together.
	ownersRest = 100 * time.Millisecond
	// ownersAgain is when an agent that does not say it has a list is told again: it
	// says so each second.
	ownersAgain = 3 * time.Second
)

// ownersRecord is the record of whose instances are. A ledger is one.
type ownersRecord interface {
	Owned(ctx context.Context, instances []odometer.InstanceID, from, to int64) (map[odometer.InstanceID][]odometer.Ownership, error)
}

// ownersSender tells an agent. A [queue.Conn] is one.
type ownersSender interface {
	SendOwners(agent odometer.AgentID, o odometer.Owners) error
}

// ownerTeller tells each agent what is decided of whose its instances are: when that
// changes, when an instance comes or goes, and when the agent says that it has
// another list. It keeps nothing that a restart would miss.
type ownerTeller struct {
	directory *account.Directory
	record    ownersRecord
	to        ownersSender
	logger    *slog.Logger
	now       func() time.Time

	wake chan struct{} // has a value while somebody may have to be told

	mu     sync.Mutex // guards what follows; never held over a look at the record
	agents map[odometer.AgentID]*toldOwners
}

// toldOwners is what an agent is told of.
type toldOwners struct {
	has   string    // what it says it has
	due   string    // what it is to have, "" for not worked out
	told  string    // by this process, last
	moves uint64    // of its instances, as of which due is
	sent  time.Time // when it was last, zero for never
}

func newOwnerTeller(d *account.Directory, record ownersRecord, to ownersSender, logger *slog.Logger) *ownerTeller {
	return &ownerTeller{
		directory: d, record: record, to: to, logger: logger, now: time.Now,
		wake: make(chan struct{}, 1), agents: map[odometer.AgentID]*toldOwners{},
	}
}

// heard notes which list an agent says it has.
func (o *ownerTeller) heard(agent odometer.AgentID, has string) {
	moves := o.directory.Moves(agent)
	o.mu.Lock()
	defer o.mu.Unlock()
	t := o.agents[agent]
	if t == nil {
		t = new(toldOwners)
		o.agents[agent] = t
	}
	t.has = has
	if t.moves != moves {
		t.due = ""
	}
	if t.wants(o.now()) {
		o.wakeUp()
	}
}

// decided notes that it was decided whose an instance is.
func (o *ownerTeller) decided(instance odometer.InstanceID) {
	holders := o.directory.Holders(instance)
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, agent := range holders {
		if t := o.agents[agent]; t != nil { // one that was not heard is told when it is
			t.due, t.sent = "", time.Time{}
			o.wakeUp()
		}
	}
}

func (o *ownerTeller) wakeUp() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// wants reports whether an agent is to be told, or it is to be worked out.
func (t *toldOwners) wants(now time.Time) bool {
	return t.due == "" || t.due != t.has && now.Sub(t.sent) >= ownersAgain
}

// run tells until ctx is done. What fails is tried again when the agent is heard next.
func (o *ownerTeller) run(ctx context.Context) error {
	rest := time.NewTimer(0)
	defer rest.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-rest.C:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-o.wake:
		}
		o.tell(ctx)
		rest.Reset(ownersRest)
	}
}

// tell tells those that are to be told.
func (o *ownerTeller) tell(ctx context.Context) {
	o.mu.Lock()
	var agents []odometer.AgentID
	for agent, t := range o.agents {
		if t.wants(o.now()) {
			agents = append(agents, agent)
		}
	}
	o.mu.Unlock()
	slices.Sort(agents)
	for _, agent := range agents {
		if err := o.tellOne(ctx, agent); err != nil && ctx.Err() == nil {
			o.logger.Warn("an agent cannot be told whose its instances are: trying again", "agent", agent, "err", err)
		}
	}
}

func (o *ownerTeller) tellOne(ctx context.Context, agent odometer.AgentID) error {
	o.mu.Lock()
	t := o.agents[agent]
	has, told, due := t.has, t.told, "?" // a decision that comes while this one is worked out makes it "" again
	t.due = due
	o.mu.Unlock()
	instances, moves, all := o.directory.Held(agent)
	if has != "" && has != told && !all {
		o.put(t, due, "") // what it was told before is better than what is known here
		return nil
	}
	list, err := o.list(ctx, instances)
	if err != nil {
		o.put(t, due, "")
		return err
	}
	o.mu.Lock()
	t.moves = moves
	o.mu.Unlock()
	if !o.put(t, due, list.Revision) || list.Revision == has {
		return nil
	}
	err = o.to.SendOwners(agent, list)
	o.mu.Lock()
	t.sent, t.told = o.now(), list.Revision
	o.mu.Unlock()
	return err
}

// put notes what an agent is to have, unless that changed meanwhile.
func (o *ownerTeller) put(t *toldOwners, was, due string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if t.due != was {
		return false
	}
	t.due = due
	return true
}

// list is what is decided of instances: what holds now or will, and of what has ended
// the last, by which an agent knows that it has.
func (o *ownerTeller) list(ctx context.Context, instances []odometer.InstanceID) (odometer.Owners, error) {
	owned, err := o.record.Owned(ctx, instances, 0, odometer.Forever)
	if err != nil {
		return odometer.Owners{}, err
	}
	var out odometer.Owners
	now := o.now().UnixMicro()
	for _, list := range owned {
		first := 0
		for i := range list {
			if list[i].Until <= now {
				first = i
			}
		}
		out.List = append(out.List, list[first:]...)
	}
	slices.SortStableFunc(out.List, func(a, b odometer.Ownership) int { return strings.Compare(string(a.Instance), string(b.Instance)) })
	text, err := json.Marshal(out.List)
	sum := sha256.Sum256(text)
	out.Revision = hex.EncodeToString(sum[:16])
	return out, err
}

// ownership is the ledger as [api.OwnershipAdmin], and has agents told.
type ownership struct {
	*ledger.Ledger
	fleet *fleet
}

func (o ownership) Assign(ctx context.Context, own odometer.Ownership, actor, cause string, dry bool) (odometer.Assignment, error) {
	a, err := o.Ledger.Assign(ctx, own, actor, cause, dry)
	if err == nil && !dry && o.fleet.owners != nil {
		o.fleet.owners.decided(own.Instance)
	}
	return a, err
}
