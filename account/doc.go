// Package account holds what is known beside usage: of the instances, who they
// are, where they run and what they were given, as their agents told it; and who
// may ask the server for something, with what they did: organisations, users, who is
// whose member, to whom an instance is shown that is not his, and tokens.
//
// # Accounts
//
// [Accounts] has organisations, users, memberships, grants, tokens, the hosts that are let in
// and the audit log, in tables of its own in the ledger's file: a backup has both, of
// one moment, and what is decided is as durable as what is booked. The ledger knows
// nothing of them. A request is authenticated in memory, so that it waits for no disk,
// and a disk that is full or a database that is locked refuses changes of accounts and
// nothing else.
//
// # The directory
//
// [Directory] keeps the newest description of each instance at each agent, in
// memory where it is compared and in a file of its own where it is searched.
// [Directory.Describe] never waits for the disk: what changed is written by
// [Directory.Run] within a second. The ledger's file is another one, so that
// metering waits for nothing that happens here (a full disk, a damaged file).
//
// # What is promised
//
//   - An instance has one agent that holds it: the one that says it runs, and of
//     several the one that was heard last. Where two say so at once that is a
//     [Conflict], which names both.
//   - A description is as old as it says: an instance that its agent no longer
//     describes is gone since then, and one whose agent is silent is unobserved,
//     not stopped.
//   - Names and attributes are in no other file of the server and can be erased.
//   - The secret of a token is returned once, when it is created, and is nowhere
//     else: the file has its SHA-256.
//   - A token that was revoked or has expired is not accepted by any later call,
//     nor after a crash.
//   - A one-time token lets one host in, once. A host is known by a key whose public
//     half alone is here; one that was revoked is never accepted again.
//   - Who was deleted, and what was taken from a member, is not let in by any later
//     call, whatever the disk answered; what is not known of somebody lets him in
//     nowhere.
//   - What a caller may change is decided in the transaction that changes it; what he
//     does not see is answered as what there is not.
//   - The last owner of an organisation stays.
//   - Nobody gives by a grant what he has not, and one that has ended shows nothing to
//     any later call.
//   - Names and addresses of who is deleted are overwritten.
//   - What is changed here is in the audit log, or was not changed.
//
// # On a crash
//
// Of the directory the last second of changes is lost and told again by the agents
// within a minute. So is everything, when the file is: nothing of it is needed to
// count usage. What is gone for 90 days is forgotten, sooner where an agent has had
// more than [MaxGone], and is then known to the ledger alone.
//
// Of accounts nothing is lost that was answered, but for the last minute of when
// tokens were used. A token whose creation was not answered may be there; its
// secret is not, so that nobody holds it.
package account
