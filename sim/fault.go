package main

// A fault is one kind of thing that goes wrong. Each seed switches some of them
// off, so that every one also meets a world without the others.
type fault int

const (
	frameLost fault = iota
	frameTwice
	frameReordered
	frameDelayed
	ackLost
	receiptLost
	receiptReordered
	partition
	brokenFrame

	queueDown
	queueFull
	queueForgets
	queueRolledBack
	queueWiped
	deliveredTwice

	agentKilled
	agentKilledInCall
	powerCut
	agentStopped
	agentDiskFull
	agentDiskLost
	agentSyncFails
	agentCallFails
	bitRot

	serverKilled
	serverKilledInCommit
	serverKilledAfterCommit
	serverDiskFull
	commitUnknown
	serverRestored
	entryReversed

	agentClockSet
	serverClockSet
	hostSuspended
	vmRestarted
	counterReset
	vmMigrated
	vmBorn
	vmEnded
	newerAgent
	olderServer
	olderEvents

	faults
)

var faultNames = [faults]string{
	"frame lost", "frame twice", "frame reordered", "frame delayed", "ack lost", "receipt lost", "receipt reordered",
	"partition", "broken frame",
	"queue down", "queue full", "queue forgets", "queue rolled back", "queue wiped", "delivered twice",
	"agent killed", "agent killed in a call", "power cut", "agent stopped", "agent disk full", "agent disk lost",
	"agent fsync fails", "agent call fails", "bit rot",
	"server killed", "server killed in commit", "server killed after commit", "server disk full", "commit unknown", "server restored", "entry reversed",
	"agent clock set", "server clock set", "host suspended", "vm restarted", "counter reset", "vm migrated", "vm born", "vm ended",
	"newer agent", "older server", "older events",
}

func (f fault) String() string { return faultNames[f] }
