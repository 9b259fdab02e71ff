package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"example.org/odometer"
	"example.org/odometer/account"
	"example.org/odometer/api"
	"example.org/odometer/directory"
)

const (
	// attributeEvery is how often it is looked whether the file of --owner-map was
	// changed, and whose the machines are that were described since.
	attributeEvery = time.Second
	// attributeTries is how often it is looked when a machine was first seen: that is
	// written a second after it is told.
	attributeTries = 10
	// beforeSeen is for how long a machine may have been metered before it is described
	// for the first time.
	beforeSeen = time.Minute
	// settledMost bounds the memory of whose owner is recorded: it is looked up again.
	settledMost = 200_000
)

// attributor has it recorded whose machines are where the file of --owner-map maps what
// their hypervisors say. Where anything is recorded of a machine it leaves it at that.
type attributor struct {
	fleet  *fleet
	owners *ownerMap
	logger *slog.Logger

	mu      sync.Mutex // guards what follows
	waiting map[odometer.InstanceID]*hinted
	settled map[odometer.InstanceID]bool // it is recorded who owned it
}

// hinted is a machine that is to be looked at.
type hinted struct {
	attributes map[string]string
	tries      int
}

func newAttributor(f *fleet, owners *ownerMap, logger *slog.Logger) *attributor {
	return &attributor{fleet: f, owners: owners, logger: logger, waiting: map[odometer.InstanceID]*hinted{}, settled: map[odometer.InstanceID]bool{}}
}

// hear takes in what an agent described. It waits for nothing.
func (a *attributor) hear(told []odometer.Description) {
	for i := range told {
		if d := &told[i]; len(d.Attributes) > 0 && d.Valid() == nil {
			a.look(d.Instance, d.Attributes)
		}
	}
}

// look has a machine looked at where a line of the file speaks of it.
func (a *attributor) look(instance odometer.InstanceID, attributes map[string]string) {
	if _, _, ok := a.owners.owner(attributes); !ok {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.settled[instance] && a.waiting[instance] == nil {
		a.waiting[instance] = &hinted{attributes: attributes}
	}
}

// run records until ctx is done. What fails is tried again.
func (a *attributor) run(ctx context.Context) error {
	tick := time.NewTicker(attributeEvery)
	defer tick.Stop()
	stale, failed := true, false
	for {
		stale = a.owners.refresh() || stale
		var err error
		if stale {
			if err = a.lookAtAll(ctx); err == nil {
				stale = false
			}
		}
		if err = errors.Join(err, a.record(ctx)); err != nil && !failed && ctx.Err() == nil {
			a.logger.Error("it cannot be recorded whose machines are by the owner map: trying again", "err", err)
		}
		failed = err != nil
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// lookAtAll looks at all machines that a line of the file speaks of.
func (a *attributor) lookAtAll(ctx context.Context) error {
	for _, h := range a.owners.hints() {
		q := account.Query{Attribute: h.attribute, Value: h.value, Limit: fleetMost}
		for {
			found, err := a.fleet.directory.Instances(ctx, q)
			if err != nil {
				return err
			}
			for i := range found {
				a.look(found[i].Description.Instance, found[i].Description.Attributes)
			}
			if len(found) < q.Limit {
				break
			}
			q.After = found[len(found)-1].Description.Instance
		}
	}
	return nil
}

// record records whose the machines are that wait.
func (a *attributor) record(ctx context.Context) error {
	a.mu.Lock()
	waiting := maps.Clone(a.waiting)
	if len(a.settled) > settledMost {
		clear(a.settled)
	}
	a.mu.Unlock()
	for instance, h := range waiting {
		settled, err := a.recordOne(ctx, instance, h.attributes)
		h.tries++ // nobody else does
		if errors.Is(err, odometer.ErrNotFound) && h.tries < attributeTries {
			continue
		}
		if err != nil && !errors.Is(err, odometer.ErrNotFound) {
			return err
		}
		a.mu.Lock()
		delete(a.waiting, instance)
		if settled {
			a.settled[instance] = true
		}
		a.mu.Unlock()
	}
	return nil
}

// recordOne records whose a machine is, unless it is, and reports whether it is now.
func (a *attributor) recordOne(ctx context.Context, instance odometer.InstanceID, attributes map[string]string) (settled bool, err error) {
	owner, by, ok := a.owners.owner(attributes)
	if !ok {
		return false, nil
	}
	before, err := a.fleet.ledger.Ownership(ctx, instance)
	if err != nil || len(before) > 0 {
		return err == nil, err
	}
	since, first, err := a.fleet.directory.Since(ctx, instance, by.attribute, by.value)
	if err != nil {
		return false, err
	}
	if first {
		since = since.Add(-beforeSeen)
	}
	own := odometer.Ownership{Instance: instance, Owner: owner, From: since.UnixMicro()}
	_, err = ownership{a.fleet.ledger, a.fleet}.Assign(ctx, own, "owner map", fmt.Sprintf("by its hint %s", by), false)
	if errors.Is(err, odometer.ErrConflict) || errors.Is(err, odometer.ErrInvalid) {
		a.logger.Warn("whose a machine is by the owner map is not recorded", "instance", instance, "hint", by, "err", err)
		return true, nil
	}
	if err == nil {
		a.logger.Info("whose a machine is follows from the owner map", "instance", instance, "hint", by, "user", owner.User, "org", owner.Org)
	}
	return err == nil, err
}

// directoryFlags name the operator's account service.
type directoryFlags struct {
	DirectoryURL       string
	DirectoryTokenFile string
	DirectoryMaxAge    time.Duration
}

func (c *directoryFlags) check() error {
	if c.DirectoryURL == "" {
		if c.DirectoryTokenFile != "" {
			return errors.New("--directory-token-file is for an account service; --directory-url names none")
		}
		return nil
	}
	_, err := directory.NewHTTP(c.DirectoryURL, "", nil)
	if err != nil {
		err = fmt.Errorf("--directory-url: %w", err)
	}
	if c.DirectoryMaxAge < time.Second || c.DirectoryMaxAge > 24*time.Hour {
		err = errors.Join(err, fmt.Errorf("--directory-max-age %s: from 1s to 24h is possible", c.DirectoryMaxAge))
	}
	return err
}

// openDirectoryService returns a follower of the account service, nil where none is named.
func (sv *server) openDirectoryService() (*directory.Follower, error) {
	c := &sv.config
	if c.DirectoryURL == "" || sv.fleet.directory == nil {
		return nil, nil
	}
	token := ""
	if c.DirectoryTokenFile != "" {
		var err error
		if token, err = readToken(c.DirectoryTokenFile); err != nil {
			return nil, err
		}
	}
	trust, err := c.trustFlags.config()
	if err != nil {
		return nil, err
	}
	service, err := directory.NewHTTP(c.DirectoryURL, token, trust)
	if err != nil {
		return nil, err
	}
	return directory.New(directory.Options{Source: service, Instances: sv.fleet.directory.All, Record: sv.fleet.recordAsSaid, MaxAge: c.DirectoryMaxAge, Logger: sv.logger})
}

// recordAsSaid records whose an instance is as the account service says. Since when counts
// where it is another's than is recorded.
func (f *fleet) recordAsSaid(ctx context.Context, own odometer.Ownership) error {
	now := f.now().UnixMicro()
	before, err := f.ledger.Ownership(ctx, own.Instance)
	if err != nil {
		return err
	}
	if owner, _ := odometer.OwnerAt(before, now, odometer.Owner{}); owner == own.Owner {
		return nil
	}
	own.Until = 0 // what was decided of later than that stays
	_, err = ownership{f.ledger, f}.Assign(ctx, own, "account service", "as the account service says", false)
	return err
}

// directoryFacts are what health is computed from.
func directoryFacts(f *directory.Follower, maxAge time.Duration) *api.DirectoryFacts {
	st := f.Stats()
	return &api.DirectoryFacts{
		Instances: st.Instances, Answered: st.Answered, Oldest: st.Oldest, Last: st.Last, MaxAge: maxAge,
		Wrong: st.Wrong, Unknown: st.Unknown, Conflicts: st.Conflicts, LeftAlone: st.Open, Err: st.Err,
	}
}
