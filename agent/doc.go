// Package agent joins a source of readings, a meter and a spool: once a second
// it samples, lets the meter fold the readings in, and stores the periods that
// closed.
//
// What it promises:
//
//   - The records of one tick are stored by one Append, so that a tick costs one
//     fsync at most.
//   - What cannot be stored waits in memory and goes in with a later tick,
//     merged per epoch as it grows, so that a dead disk costs resolution and
//     never quantity, and memory is bounded by the number of epochs.
//   - Nothing that a source or the meter refuses stops the rest: it is counted,
//     reported with where it stood, and left out.
//   - Whose an instance is the server decides, as it told last ([Owners]); what the
//     source names counts where nothing was decided. A change begins a new period.
//   - A crash costs nothing: the meter's state is in the record of each period,
//     and what was read since is read again as a difference of counters. After
//     such a start the first reading of each instance that goes on is Unwatched.
//   - Run and Replay leave no goroutine behind.
//
// Replay does the same for readings that come from a file, as fast as the spool
// takes them; killed and run again it goes on where it stopped, and ends with
// the same ids as if it had never been killed.
package agent
