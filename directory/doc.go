// Package directory follows an operator's own account service: whose instances are is
// decided there, and recorded in the ledger as the service says it.
//
// The service is a [Source], which is one method: HTTP is one that speaks to a small
// HTTP service, and docs/directory.md shows how to write another.
//
// What it promises:
//
//   - An instance is asked for when it is first seen, and again when the answer is as
//     old as [Options.MaxAge]: while the service answers, nothing that it says is older
//     than that and one request.
//   - What the service says is handed to [Options.Record] when it is another answer
//     than before, or was not recorded. What it does not say changes nothing: an
//     instance that it does not know, or no longer, stays whose it was.
//   - An answer that cannot be right (of another instance, from the future, too
//     large, no JSON) is no answer. It is counted, and the last good one stands.
//   - A service that is slow or away is asked less and less, and then by one probe at
//     a time; nothing else waits for it.
//   - Run leaves no goroutine behind.
//
// It keeps nothing on the disk: after a crash the service is asked again, and what is
// so already is recorded already.
package directory
