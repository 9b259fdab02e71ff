package odometer

import "strings"

// The objects of an event, as [Member.In] names them.
const (
	inEvent         = ""
	inMetrics       = "metrics"
	inPeriod        = "period"
	inSpan          = "span"
	inUsage         = "usage"
	inReadings      = "readings"
	inReadingsStart = "readings.start"
	inReadingsEnd   = "readings.end"
)

// The members of an event and, from mEntryID on, those that an entry adds.
const (
	mType = iota
	mVersion
	mID
	mTimestamp
	mInstance
	mUser
	mOrg
	mAgent
	mMetrics
	mPeriod
	mEpoch
	mEpochStart
	mSequence
	mFirst
	mQuality
	mFinal
	mSpan
	mUsage
	mReadings
	mLifecycle
	mEntryID
	mSource
	mKind
	mUsedAt
	mBookedAt
	mCause
	mAdjusts
)

var eventNames = [...]string{
	"event_type", "version", "id", "timestamp", "instance_id", "user_id", "org_id", "agent_id", "metrics", "period",
	"epoch", "epoch_start_us", "sequence", "first_sequence", "quality", "final", "span", "usage", "readings", "lifecycle",
	"entry_id", "source_event_id", "kind", "used_at", "booked_at", "cause", "adjusts",
}

// EntryMembers returns the names of the members of an entry's JSON: those of its event
// first.
func EntryMembers() []string { return eventNames[:] }

var (
	metricNames = []string{
		"cpu_seconds", "cpu_percent_avg", "memory_gb", "memory_percent",
		"storage_gb", "network_egress_mb", "network_ingress_mb", "gpu_seconds",
	}
	periodNames   = []string{"start", "end"}
	spanNames     = []string{"start_us", "end_us", "step_us"}
	readingsNames = []string{"start", "end"}
)

// Which members must be there, and which of them make an event integral.
const (
	required10 = 1<<mType | 1<<mVersion | 1<<mTimestamp | 1<<mInstance | 1<<mUser | 1<<mMetrics | 1<<mPeriod
	integral11 = 1<<mEpoch | 1<<mEpochStart | 1<<mSequence | 1<<mSpan | 1<<mUsage | 1<<mReadings
	required11 = required10 | integral11 | 1<<mID | 1<<mAgent | 1<<mQuality
	// Members that version 1.0 does not know but which do not make an event
	// integral: without the rest they are as unknown as any other.
	late11 = 1<<mID | 1<<mAgent | 1<<mQuality | 1<<mFinal | 1<<mLifecycle

	requiredEntry = 1<<mEntryID | 1<<mSource | 1<<mKind | 1<<mUsedAt | 1<<mBookedAt | 1<<mSpan | 1<<mUsage | 1<<mQuality | 1<<mID
)

// ownedByEntry reports whether an entry's JSON has a member of its own by this
// name, whatever its case, where the event's has none.
func ownedByEntry(name string) bool {
	for m, n := range eventNames {
		if (m >= mEntryID || late11>>m&1 != 0) && strings.EqualFold(n, name) {
			return true
		}
	}
	return false
}

func memberOf(name []byte) int {
	switch string(name) {
	case "event_type":
		return mType
	case "version":
		return mVersion
	case "id":
		return mID
	case "timestamp":
		return mTimestamp
	case "instance_id":
		return mInstance
	case "user_id":
		return mUser
	case "org_id":
		return mOrg
	case "agent_id":
		return mAgent
	case "metrics":
		return mMetrics
	case "period":
		return mPeriod
	case "epoch":
		return mEpoch
	case "epoch_start_us":
		return mEpochStart
	case "sequence":
		return mSequence
	case "first_sequence":
		return mFirst
	case "quality":
		return mQuality
	case "final":
		return mFinal
	case "span":
		return mSpan
	case "usage":
		return mUsage
	case "readings":
		return mReadings
	case "lifecycle":
		return mLifecycle
	case "entry_id":
		return mEntryID
	case "source_event_id":
		return mSource
	case "kind":
		return mKind
	case "used_at":
		return mUsedAt
	case "booked_at":
		return mBookedAt
	case "cause":
		return mCause
	case "adjusts":
		return mAdjusts
	}
	return -1
}
