// Package account holds what is known of the instances beside their usage: who
// they are, where they run and what they were given, as their agents told it.
// Later it also has organisations, users, tokens and who owned what when.
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
//
// # On a crash
//
// The last second of changes is lost and told again by the agents within a
// minute. So is everything, when the file is: nothing of it is needed to count
// usage. What is gone for 90 days is forgotten, and is then known to the ledger
// alone.
package account
