// Package spool is an agent's durable FIFO on disk: records are appended, read
// in order after a position, and freed by receipts of the ledger, by nothing
// else.
//
// What it promises, after kill -9 and after power loss at any instant:
//
//   - When Append returns nil, the whole batch is on the disk. When it returns
//     an error, nothing of the batch is readable; after a crash inside Append
//     the whole batch is there or none of it.
//   - A position is given to one record, ever. Positions that may have been
//     given to something that is now unreadable are not given again; the next
//     record takes them in (Record.First < Record.Position).
//   - What is corrupt is named (segment, offset, positions), counted and
//     skipped, and the first record of every epoch after it is marked Resumes.
//   - A file whose fsync failed is not trusted with anything more. The spool
//     goes on in a new segment and copies into another what it can re-read of
//     the old one, because the page that failed may have held accepted bytes.
//     It could also have refused all further work until a restart; it goes on,
//     because a meter that stops loses resolution and a new file loses nothing.
//     Whether a new file works is learnt by trying: until it does, every Append
//     returns the error.
//   - When the size limit or the disk is reached, retained segments are freed
//     and then adjacent events of one epoch are merged into longer ones, within
//     one UTC hour first. Nothing is dropped.
//
// # Directory
//
//	lock                      flock: one process at a time
//	00000000000000000041-0.seg  records from position 41 on; generation 0
//	cursor                    how far receipts reach, as a log
//	checkpoints               newest checkpoint of each instance that is no longer in a segment
//	reoffer                   while a spool that was restored from a copy is sent again
//	reserve                   allocated space, so that merging works on a full disk
//	*.tmp                     being written; removed at open
//
// All integers are little-endian; every checksum is CRC-32C. Every file of the
// first three kinds begins with 64 bytes:
//
//	 0  8  "odospool"
//	 8  2  version, 2; in version 1 every event is JSON
//	10  2  kind: 1 segment, 2 checkpoints, 3 cursor
//	12  4  generation
//	16  8  first position that the file covers
//	24  8  last position that it covers; 0 while a segment is being appended to
//	32  8  the first position that may be given to a record of it
//	40 16  id of the spool
//	56  4  zero
//	60  4  checksum of bytes 0 to 60
//
// A segment and the checkpoints continue with batches; one Append is one batch,
// one write and one fsync:
//
//	 0  4  fe 4f 42 ff, which occurs in no text and seldom in a binary event
//	 4  4  number of records
//	 8  4  bytes of records
//	12  8  First of the first record
//	20  8  Position of the last record
//	28  4  checksum of bytes 0 to 28
//
// and each record is
//
//	0  4  bytes of body
//	4  4  checksum of bytes 0 to 4 and of the body
//	8     body: first, position (8 each), time of Append (8, µs), flags (1), lengths of
//	      instance, agent, epoch (1 each) and event (4), then these four, then the checkpoint
//
// The event is in the form of odometer.Event.AppendBinary, the checkpoint JSON. A
// cursor continues with entries framed like records, whose body is time (8, µs), position (8), generation (8) and the
// ledger's id; the last one counts.
//
// # Segments and generations
//
// A segment holds the positions from its first to the one before the next
// segment's first; what lies in it beyond that is what remains of an Append
// that failed. A segment is only appended to, and only the last one. A
// rewritten segment (merged, or copied) is written beside the old ones under the
// next generation, synced, renamed to its name, the directory synced, and then
// the old ones are removed: a crash in between leaves both, and at open the
// higher generation stands for all segments whose positions it covers.
//
// A power cut may also bring back a name that was removed and not synced. A file
// in which nothing is, whose beginning had failed, bounds no other one; of
// segments that overlap, the later attempt counts; and positions that are
// receipted and lie in no file were freed.
//
// What a process finds at open it reads from the page cache, and where the fsync
// of the process before had failed that never gets to the disk. The last segment
// is therefore copied before it is appended to, and the cursor is written anew
// before anything is freed for it or a receipt is said to be durable.
//
// Unreadable bytes after the last good batch of the last segment are a torn
// tail: an Append that never returned. A new segment is begun; since they could
// also be an accepted batch that rotted, the positions they may have held are not
// given again. Unreadable bytes anywhere else are corruption, and are left where
// they are.
package spool
