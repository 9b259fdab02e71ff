// Package queue is the wire between the agents' spools and the ledger, and
// between the ledger and who consumes it: NATS JetStream, embedded in the
// process ([StartServer]) or external ([Connect]).
//
// What travels, and by which subject (ids are encoded by [Token]):
//
//	odometer.ingest.AGENT                 frames of events, and requests for checkpoints; stream INGEST
//	odometer.usage.ORG.USER.INSTANCE      entries as the ledger booked them; stream USAGE
//	odometer.receipt.AGENT                what the ledger has committed; not stored
//	odometer.receipt-request.AGENT        asks for the last receipt; not stored
//	odometer.live.AGENT                   the still open periods, and what the machines are; not stored
//	odometer.owners.AGENT                 whose the agent's instances are; not stored
//
// INGEST is a work queue: a message is deleted when the [Receiver]
// acknowledges it. Every message is synced to disk before the queue
// acknowledges it, and yet that acknowledgement frees nothing: a [Publisher]
// reads the agent's spool, and only a receipt of the ledger frees the spool.
// When the queue forgets what it has stored, receipts do not come and the
// publisher sends again; the ledger counts what it has already as duplicate.
// The order of one agent's frames is kept (go-back-N): after a failure the
// publisher goes on from the first frame that was not stored.
//
// USAGE is fed from the ledger by a [Feed], in ledger order, and each entry
// once for as long as the stream lives: the feed knows from the stream itself
// what it has published, even after a crash. It is written without waiting for
// the disk, because the ledger can feed it again, which it does when the
// stream was lost.
//
// Who has the token of an embedded server may do everything. An agent that has a
// [Key] of its own may send to its own subjects and hear its own, a consumer that has
// one may read at its place in USAGE, and neither may do anything else: the server
// holds them to that, whatever their clients do, and so does an external one that is
// told what [Config] returns.
//
// A crash of either side at any point repeats messages and loses none. Both
// streams are limited by bytes and age and refuse what is new when they are
// full: events then wait in the spools and entries in the ledger.
package queue
