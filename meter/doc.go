// Package meter turns successive readings of instances into events. It is
// arithmetic: it reads no clock, no file and no network, and the same readings
// give the same events with the same ids, to the byte.
//
// For each instance it keeps an odometer: running totals that are 0 when the
// epoch starts and only grow. A reading is folded in, and now and then the
// open period is cut off as an event: the difference between two values of the
// odometer. The sum of an epoch's events is therefore its last value, whatever
// happens in between.
//
// # Counters
//
// Each device's last raw value is remembered with its incarnation. The same
// incarnation at the same value or above adds the difference. A value that
// fell, another incarnation or a new device is a fresh baseline, of which the
// value counts only where the reading says that it was born since the previous
// one. A device that disappears keeps what it added, and goes on from its last
// value if it comes back as the same incarnation. Where an epoch began with a
// started mark, what the first reading after it shows counts from 0 (in a named
// epoch also what a later reading shows for the first time). Counters add
// their difference in every state.
//
// # Gauges
//
// A gauge holds from the reading that told it until the next one; the state
// told by the same reading decides what it adds meanwhile:
//
//	gauge                 adds to                    running  paused  stopped  unwatched   gap
//	memory                memory_mib_s               yes      yes     no       as the state  no
//	memory allocated      memory_allocated_mib_s     yes      yes     no       as the state  no
//	storage               storage_mib_s              yes      yes     yes      as the state  no
//	storage provisioned   storage_provisioned_mib_s  yes      yes     yes      as the state  no
//	vCPUs                 vcpu_us                    yes      yes     no       as the state  no
//	GPUs                  gpu_us                     yes      no      no       as the state  no
//
// A host that is suspended goes on in the boot clock, and its source says
// whether the time was watched. A gauge that is unknown adds nothing and its
// quantity is unknown in the event; one that is known and stands still by the
// table adds a known 0. Byte-microseconds are summed in 128 bits and what is
// below one MiB-second is carried, as are nanoseconds below a microsecond.
//
// # Periods
//
// A period closes at the reading that
//
//   - lies at or beyond the interval or the UTC hour in which it began,
//   - shows that the wall clock was set, by more than [StepMicros]: the period
//     keeps the old labels, the next one starts at the new ones,
//   - names another owner: an owner holds until the reading that names another,
//   - makes a gauge known or unknown: within one event a gauge is known
//     throughout or not at all, so that a mean over the event is a mean,
//   - tells what happened to the instance, or is the one after the reading that
//     told it where the epoch began with that: the event carries it,
//   - is final.
//
// It closes at the last reading before a stretch of another quality (watched,
// unwatched) and before the epoch ends because another begins.
//
// Time comes from the boot clock; the wall clock labels it. Over a reboot,
// where boot times cannot be compared, elapsed time is the difference of the
// labels, at least the time since the boot.
//
// # Quality
//
// Between two readings on schedule usage is measured. Over time that nobody
// watched counters are exact and gauges held: estimated. Where over such time
// all counters of the instance were replaced and none was born, what was used
// is unknown: a gap, an event of its own without usage. A reboot is unwatched
// time; where the counters were born with the boot, the time before the boot
// is a gap and the time since it is estimated.
//
// What was metered before an agent started, and is gone when it looks, ended
// sometime since its last reading: that time is a gap, and the end of its epoch.
//
// # Crashes
//
// Every record carries the checkpoint of its instance right after its event:
// no period is ever open in a checkpoint, so event and state cannot disagree.
// A meter that was restored and is given the readings since then emits exactly
// what was lost. What was folded but not emitted is found again in the
// difference of the raw values.
package meter
