// Command sim proves the backbone by simulation: whole runs of the pipeline,
// from reading to ledger, on fake time, in which everything goes wrong that can
// and one number decides what does.
//
//	go run ./sim -seeds 2000            # many runs
//	go run ./sim -seeds 1 -seed 42 -trace   # one, and what happens in it
//
// What runs is the program: package meter, the agent's loop, the spool, the
// publisher, ingest, and the ledger on SQLite. What is simulated is the world
// around them: virtual machines whose counters are known at every instant, the
// hosts' clocks, their disks (package memfs, which keeps apart what is visible
// and what is durable), the network, a queue that may lose, repeat, reorder and
// forget, and the files of the ledger as a process leaves them that is killed in
// the midst of a commit.
//
// # One goroutine
//
// Time is a number, and what is to happen lies in a heap. The stages are driven
// in three ways, so that the code that runs is the code that is shipped: the
// spool and the ledger are called; the publisher is stepped (queue.Steps: its
// Run is the same steps, taken by goroutines and timers); the agent's Run and
// a batch of ingest are coroutines, which go on when the clock that they were
// given says so. Bubbles of testing/synctest were the alternative: they need a
// test around them, and leave to the scheduler which of several goroutines that
// are ready goes first, so that a seed would not repeat a run.
//
// Every n-th seed is run twice and the two traces, of all that was sent, stored,
// decided and logged, are compared by their hash.
//
// # What is proved
//
// Each seed switches off some kinds of fault. At the end they stop; everything
// that a spool accepted must be in the ledger and receipted within a bound
// ([drainWithin]). Then:
//
//   - every event that an agent told says, to the unit, what its readings say:
//     a second implementation of what package meter promises works it out
//     (shadow.go);
//   - the ledger's sum of each epoch is a state that an agent has told, and no
//     earlier one than its spool had accepted;
//   - of the life of every counter each unit is booked once, from where it was
//     first seen to where it was last read, with holes only where an agent lost
//     its disk and could ask nobody (truth.go);
//   - every correction takes back exactly what the entry says that somebody
//     reversed, and no reversal that was answered is lost (reverse.go);
//   - received = recorded + covered + duplicate + quarantined + held, nothing is
//     held for ever, and nothing is in quarantine but what was sent broken and
//     what comes too late of an epoch that another goes on from;
//   - queries add up to the entries, package audit finds nothing, and now and
//     then the tables are rebuilt from the journal.
//
// A run of many seeds counts only if every kind of fault was reached. A seed that
// fails is printed with the command that repeats it, and goes into seeds.txt for
// ever.
//
// # What it does not prove
//
// The files of SQLite are torn as a killed process leaves them, not as a power
// cut does; NATS is a model. Package crash and the tests of package queue have
// the real ones.
package main
