// Command crash ends the real program at the worst moments and proves that
// nothing is lost and nothing counts twice.
//
//	go run ./crash sweep   kill it before and after each call that changes a file
//	go run ./crash power   cut the power at each such call
//	go run ./crash soak    kill servers, agents and an external queue at random
//
// # Sweep
//
// Some canonical runs (an agent, a replay, a server) are traced with package
// trace, which numbers every system call that changes the data directory. Each
// run is then repeated for each number twice: killed before that call, and
// killed right after it. What is left is started again, runs to its end, and
// then `odometer audit` must find nothing and the usage must be the truth, to
// the unit. A run only counts when everything happened in it that it is there
// for: rolled and merged segments, sealed hours, and so on (its milestones).
//
// # Power
//
// The calls of one canonical server run are recorded with their data, and with
// them each receipt at the moment at which it left the process. From that
// record the directory is built as a disk may hold it when the power fails
// after any call: what was synced is there, and of what was not, anything may
// be: none of it, all, a part in any order, torn at sectors and pages, files
// and names alike (see disk). The real recovery is run on each: the ledger
// opens, honours every receipt that was given out, and audits clean; the queue
// starts, whatever became of its store; the agents send again, and the usage
// is the truth.
//
// Memory that is mapped from a file is not seen. That concerns SQLite's -shm
// file only, which is rebuilt when a ledger is opened after a crash and is
// left out of, or filled with garbage in, every state.
//
// # Soak
//
// Servers, agents and a NATS server of its own process run under load and are
// killed at random for as long as asked.
package main
