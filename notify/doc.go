// Package notify tells channels what became of violations, and webhooks what the
// ledger booked, at least once and in order.
//
// It follows two logs with cursors: the changes of violations, and the ledger's entries
// for each webhook of usage. What a channel is to be told is a delivery in the outbox,
// written in the transaction that moves the cursor; the id of the delivery is the
// idempotency key under which the receiver sees it, at every attempt, and a webhook's follows
// from what is told, so that a ledger restored from a backup repeats it. An attempt is
// claimed under the ledger's fence before it is made, for longer than it can last: of two
// servers one makes it, and what a crash leaves open is made again, under the same id,
// when its claim has ended.
//
// Deliveries of one lane, which is a channel with a subject, wait for each other; others
// do not. Each channel has so many attempts at once and a breaker that opens when it
// fails, so that one dead receiver delays nobody else, and costs a bounded number of rows.
// An attempt that fails is repeated for three days, see [retryAfter]; then the delivery is
// given up, is listed as dead and may be sent again.
//
// Everything lies in the ledger's file, in tables of its own, so that a backup has both of
// one moment. Secrets are sealed with a key that does not. Transactions are few and short:
// one a round records what attempts came to, takes up what is new and claims what is due.
package notify
