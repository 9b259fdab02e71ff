// Package audit is the independent checker: it proves that a ledger's sums are
// right, and shares no code with what made them. Of the program it knows the
// vocabulary (the module's root) and what is written down about the ledger's
// tables; apportioning, watermarks, hash chain and sums are worked out a
// second time here.
//
// [Run] looks at one moment of a ledger, through a read-only transaction: it
// may run beside a server, blocks no writer and changes nothing; where no server
// runs it takes the data directory's lock, so that none starts meanwhile. It
// replays the journal, partition by partition, and proves:
//
//   - journal: positions and entry numbers are dense, each record is chained
//     to the one before, what was received and decided can be read, and the
//     outcomes cover what was received;
//   - tiling: in each epoch one booking begins where the last ended, and its
//     span is filled with measured, estimated and gap time;
//   - conservation: in each epoch the sum of the usage booked is the last
//     reading, to the unit, for every quantity;
//   - once: no event has two bookings, and what was called a duplicate or
//     covered was;
//   - reversals: each correction is the exact negation of an entry that was
//     booked before, by a decision that says who and why, and of none twice;
//   - counts: received = recorded + covered + duplicate + quarantined + held;
//   - owners: each booking names one, and the sums of every owner's hours and
//     days are what the bookings add up to;
//   - attribution: where it is decided whose an instance is, nobody else has
//     anything of it, whatever was decided before; elsewhere who its event names;
//   - statements: each is, line by line, what was booked of the month before it was
//     closed, was made once, and has the hash that it says; and what is booked for a
//     closed month is an adjustment of the month in which it was booked;
//   - fold: watermarks, hours, days, months, what owners used, receipts, coverage,
//     held events, quarantine, reversals, owners, digests, checkpoints and counts are what
//     the journal says, and the indexes that queries go by what the tables say;
//   - topic: the topic USAGE carries each entry as booked, and its sum for
//     each owner is the ledger's.
//
// What does not hold is a [Finding] with a code; any finding makes the ledger
// not OK. A conflict, an event in quarantine and a declared gap are none: the
// ledger did with them what it must, and the report counts them. Why
// something was put in quarantine is taken from the ledger: what is
// physically possible is policy, not arithmetic.
//
// Memory is bounded by the number of epochs, of events held or in quarantine
// and of reversals in one partition; what grows with the number of events or
// hours goes to temporary files beyond a limit.
package audit

import (
	"cmp"
	"context"
	"crypto/tls"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"time"

	"example.org/odometer"
)

// Options says what to audit.
type Options struct {
	DataDir string // of the server: holds ledger.db
	// Server is the HTTP address of the running server, from which the
	// queue's address is learnt, or that of the queue itself (nats://…). ""
	// for what the data directory says.
	Server string
	Token  string       // "" for the one in the data directory
	TLS    *tls.Config  // whom to trust on the way to the server; nil for whom the system trusts
	Logger *slog.Logger // told of what is no finding; discarded when nil
	// Progress is called now and then with the journal records read and those
	// there are; may be nil.
	Progress func(done, all int64)
	TempDir  string // for what does not fit in memory; "" is the system's

	maxKeys  int // sums kept in memory
	maxBytes int // of notes kept in memory
	busy     time.Duration
}

// What is kept in memory before it goes to disk: some 100 MiB at most.
const (
	maxKeys  = 200_000
	maxBytes = 32 << 20
)

// busyWait is how long to wait for a process that has the ledger for itself.
const busyWait = 5 * time.Second

// audit is one run.
type audit struct {
	o          Options
	running    bool // a server, on the data directory
	snap       *snapshot
	report     *Report
	hours      *balance
	tenures    map[odometer.InstanceID][]tenure // who owned what when, as the table has it
	places     *balance                         // what is not where it belongs
	closes     map[int64]map[closing]closed     // by partition, the months that are closed, as the table has it
	stated     map[statementOf]stated           // as it was decided
	statements *balance                         // what is in the statement of which month
	goneUS     int64                            // up to when the records that are gone booked
	instances  map[odometer.InstanceID]struct{}
	gap        int64 // µs
	topic      *topicCheck
	begins     map[int64][]begin // of generations, by partition
	base       *snapshot         // of what followed from the records that were pruned; nil for none
	heads      map[int64]*head   // where they ended, by partition
	begun      int               // of them, those that the journal has
	done, all  int64
}

// Run audits the ledger of a data directory as of now. An error means that the
// audit could not be carried out and nothing is known; it wraps [ErrNotLedger],
// [ErrNewer] or [ErrOlder] where that is why. What the audit found is in the report,
// whether good or bad.
func Run(ctx context.Context, o Options) (*Report, error) {
	r, err := run(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("audit %s: %w", o.DataDir, err)
	}
	return r, nil
}

func run(ctx context.Context, o Options) (*Report, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.maxKeys = cmp.Or(o.maxKeys, maxKeys)
	o.maxBytes = cmp.Or(o.maxBytes, maxBytes)
	o.busy = cmp.Or(o.busy, busyWait)
	if info, err := os.Stat(o.DataDir); err != nil {
		return nil, err
	} else if !info.IsDir() {
		return nil, errors.New("it is no directory")
	}
	lock, running, err := lockData(o.DataDir)
	if err != nil {
		return nil, err
	}
	if lock != nil {
		defer lock.Close() // and unlocks
	}
	snap, err := openSnapshot(ctx, o.DataDir, lock != nil, o.busy)
	if err != nil {
		return nil, err
	}
	defer snap.close()
	a := &audit{o: o, running: running, snap: snap, report: newReport(), hours: newBalance(&o), places: newBalance(&o), stated: map[statementOf]stated{}, statements: newBalance(&o), instances: map[odometer.InstanceID]struct{}{}}
	defer a.hours.aside.close()
	defer a.places.aside.close()
	defer a.statements.aside.close()
	defer func() {
		if a.base != nil {
			a.base.close()
		}
	}()
	if err := a.openBase(ctx, lock != nil); err != nil {
		return nil, err
	}
	if err := a.run(ctx); err != nil {
		return nil, err
	}
	for _, w := range a.report.Warnings {
		o.Logger.Warn("audit: something could not be examined", "what", w)
	}
	return a.report, nil
}

func (a *audit) run(ctx context.Context) error {
	if err := a.snap.conn.QueryRowContext(ctx, `SELECT count(*) FROM journal`).Scan(&a.all); err != nil {
		return err
	}
	flaws, err := a.snap.flaws(ctx)
	if err != nil {
		return err
	}
	for _, flaw := range flaws {
		a.report.find("storage", "%s", flaw)
	}
	if err := a.checkIDs(ctx); err != nil {
		return err
	}
	if err := a.loadGenerations(ctx); err != nil {
		return err
	}
	if err := a.loadTenures(ctx); err != nil {
		return err
	}
	if err := a.loadCloses(ctx); err != nil {
		return err
	}
	// The topic first: the moment of the ledger is fixed already, so what the
	// topic must have by then is known, and it can only have more.
	if err := a.readTopic(ctx); err != nil {
		return err
	}
	partitions, err := a.partitions(ctx)
	if err != nil {
		return err
	}
	for _, partition := range partitions {
		if err := a.auditPartition(ctx, partition); err != nil {
			return err
		}
	}
	a.checkGenerations()
	if err := a.checkReceipts(ctx); err != nil {
		return err
	}
	if err := a.checkHours(ctx); err != nil {
		return err
	}
	if err := a.checkPlaces(); err != nil {
		return err
	}
	if err := a.checkStatements(ctx); err != nil {
		return err
	}
	if err := a.settleTopic(); err != nil {
		return err
	}
	rep := a.report
	rep.Instances = int64(len(a.instances))
	rep.GapSeconds = a.gap / odometer.SecondMicros
	rep.checked("journal", "tiling", "conservation", "once", "reversals", "counts", "owners", "attribution", "statements", "fold")
	slices.SortStableFunc(rep.Findings, func(x, y Finding) int { return cmp.Compare(x.Code, y.Code) })
	rep.OK = rep.FindingsTotal == 0
	if a.o.Progress != nil {
		a.o.Progress(a.done, a.all)
	}
	return nil
}

// partitions lists the partitions that any table knows.
func (a *audit) partitions(ctx context.Context) (list []int64, err error) {
	err = a.snap.each(ctx, func(rows *sql.Rows) error {
		var p int64
		if err := rows.Scan(&p); err != nil {
			return err
		}
		if p < 0 || p >= odometer.Partitions {
			a.report.find("partition", "there is no partition %d", p)
			return nil
		}
		list = append(list, p)
		return nil
	}, `SELECT partition FROM journal UNION SELECT partition FROM epochs UNION SELECT id >> 37 FROM state UNION SELECT partition FROM counts UNION SELECT partition FROM quarantine
		UNION SELECT partition FROM held UNION SELECT partition FROM coverage UNION SELECT partition FROM checkpoints UNION SELECT partition FROM digests
		UNION SELECT partition FROM reversals UNION SELECT partition FROM ownership UNION SELECT partition FROM moved UNION SELECT partition FROM closes UNION SELECT partition FROM statements UNION SELECT partition FROM adjustments UNION SELECT partition FROM handovers UNION SELECT partition FROM lifecycle UNION SELECT partition FROM feed ORDER BY 1`)
	if err != nil {
		return nil, fmt.Errorf("list the partitions: %w", err)
	}
	return list, nil
}

func (a *audit) auditPartition(ctx context.Context, partition int64) error {
	p := a.newReplay(partition)
	if err := p.loadEpochs(ctx); err != nil {
		return fmt.Errorf("partition %d: %w", partition, err)
	}
	if err := p.start(ctx); err != nil {
		return fmt.Errorf("partition %d: %w", partition, err)
	}
	err := a.readJournal(ctx, partition, func(r *row) error {
		a.positions(r)
		if err := a.compareTopic(r); err != nil {
			return err
		}
		return p.record(ctx, r)
	})
	if err != nil {
		return err
	}
	if err := p.checkTables(ctx); err != nil {
		return fmt.Errorf("partition %d: %w", partition, err)
	}
	events, err := p.once.settle(func(n note) {
		a.report.find("booked_twice", "journal record %d-%d, record %d of its frame: the event is booked already", partition, n.position, n.index)
	}, func(n note) {
		a.report.find("duplicate_unfounded", "journal record %d-%d, record %d of its frame is called a duplicate; no such event was received before", partition, n.position, n.index)
	})
	a.report.Events += events
	return err
}

// tick counts a record and tells of it now and then.
func (a *audit) tick() {
	a.done++
	if a.o.Progress != nil && a.done%1024 == 0 {
		a.o.Progress(a.done, a.all)
	}
}
