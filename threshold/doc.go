// Package threshold watches what is booked and decides when a limit that somebody set
// is reached.
//
// A threshold ([odometer.Threshold]) names whose usage of what is watched and the levels
// that it may reach. Whether an entry reaches levels by itself is a function of the two
// and nothing else ([Check]). What needs a memory is a fold over the ledger's entries in
// the order in which they were booked: sums of budgets, how long something lasts, and
// what was told already. The fold is kept with its cursor: state, cursor and the changes
// of violations that follow are stored in one transaction, so that whatever is read
// again after a crash comes to the same and is told once.
//
// A violation is one level reached by one subject: an instance, or a user or an
// organisation as a sum. A budget has one of each level in each period; of what is
// checked by the event, one lasts until the value has fallen back. Its id follows from
// what was violated. What becomes of it (reached, recovered, retracted by a correction,
// reached again) are its changes, numbered without a gap over all violations: a log that
// others follow ([Thresholds.ChangesAfter]).
//
//	condition   value                                    a violation ends
//	period      of one event                             when an event falls below
//	sustained   below which no event fell for a time     when an event falls below
//	rate        of one event, a second                   when an event falls below
//	budget      sum over the period, to the unit         with the period
//	silence     intervals without an event of a machine  when it is heard again
//	gap         seconds that nobody measured             with the next event
//
// Nothing here delays the ledger: it is read behind it, and writes are short and at most
// one a second but for violations. Tables lie in the ledger's file, so that a backup has
// both of one moment.
package threshold
