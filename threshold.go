package odometer

import (
	"regexp"
	"time"
)

// ThresholdID names a threshold: "thr_" and 16 characters.
type ThresholdID string

var thresholdID = regexp.MustCompile(`^thr_[a-z2-7]{16}$`)

// Threshold says whose usage of what is watched, from which values on somebody is
// told, and who. It is checked without a memory, by period, or is a fold over the
// ledger: see package threshold.
type Threshold struct {
	ID          ThresholdID
	Version     uint64 // from 1 on; +1 with each change
	Name        string
	Description string
	Enabled     bool
	Holder      Bound // who may change it; the zero Bound is the operator
	Shared      bool  // its violations are seen also by whoever sees the usage

	Scope     Scoped
	Resource  Resource
	Condition Condition
	Unit      Unit    // of Limit and of the levels' values
	Limit     float64 // that percentages of levels are of, 0 where levels are values
	Levels    []ThresholdLevel

	Every Cycle          // of a budget
	Zone  *time.Location // of a budget's days and months; nil for UTC
	For   time.Duration  // of what is sustained: how long it lasts before it is told

	Hysteresis float64       // percent of a level's value that it falls below before it can be reached again
	CoolDown   time.Duration // between two violations of one level and subject
	Forecast   bool          // of a budget: a level of its own, reached when the limit will be at this rate

	Action   Notify
	Channels []ChannelID // that it tells; none for ActionLog

	// Managed says where it comes from, where that is no request: "file" for what the
	// server's file of thresholds has, which alone changes it.
	Managed string

	Created, Changed time.Time
	CreatedBy        string
}

// What is done to thresholds, in the audit log.
const (
	ActionThresholdCreate Action = "threshold.create"
	ActionThresholdUpdate Action = "threshold.update"
	ActionThresholdDelete Action = "threshold.delete"
)

// Scoped is whom a threshold covers: one instance, all of a user, all of an
// organisation, or (the zero Scoped with All) every one. With Sum it watches the sum over
// them, otherwise each instance by itself.
type Scoped struct {
	All      bool
	Instance InstanceID
	User     UserID
	Org      OrgID
	Sum      bool
}

// Resource is what is watched.
type Resource string

const (
	ResourceCPU            Resource = "cpu"
	ResourceMemory         Resource = "memory"
	ResourceStorage        Resource = "storage"
	ResourceNetworkEgress  Resource = "network_egress"
	ResourceNetworkIngress Resource = "network_ingress"
	ResourceDiskRead       Resource = "disk_read"
	ResourceDiskWrite      Resource = "disk_write"
	ResourceGPU            Resource = "gpu"
	ResourceNone           Resource = "" // of silence and gaps
)

// Condition is how a value comes about that is compared.
type Condition string

const (
	ConditionPeriod    Condition = "period"    // of each event, without a memory
	ConditionSustained Condition = "sustained" // of all events over a time
	ConditionRate      Condition = "rate"      // of each event, a second
	ConditionBudget    Condition = "budget"    // the sum over a calendar hour, day or month
	ConditionSilence   Condition = "silence"   // no event of an instance that runs
	ConditionGap       Condition = "gap"       // a time that nobody measured, in seconds
)

// Cycle is the time over which a budget is.
type Cycle string

const (
	CycleHour  Cycle = "hour"
	CycleDay   Cycle = "day"
	CycleMonth Cycle = "month"
)

// Unit is that of a threshold's values. Which fit depends on resource and condition.
type Unit string

const (
	UnitPercent   Unit = "percent"    // of what is allocated
	UnitSeconds   Unit = "seconds"    // of processors and GPUs; of gaps
	UnitHours     Unit = "hours"      // of processors and GPUs
	UnitCores     Unit = "cores"      // processor time a second; GPUs attached a second
	UnitGB        Unit = "gb"         // 2^30 bytes: mean in memory or on disks; moved
	UnitMB        Unit = "mb"         // 2^20 bytes, moved
	UnitGBHours   Unit = "gb_hours"   // in memory or on disks, over time
	UnitMBPerSec  Unit = "mb_per_s"   // 2^20 bytes a second
	UnitMbitPerS  Unit = "mbit_per_s" // 10^6 bits a second
	UnitIntervals Unit = "intervals"  // of silence
)

// ThresholdLevel is a value from which on, itself included, a violation of this name
// is told.
type ThresholdLevel struct {
	Name    string  // such as warning, critical, or 80%
	Value   float64 // in the threshold's unit
	Percent float64 // of the threshold's limit, where it has one: Value follows from it
}

// ForecastLevel is the level of a budget that is reached when its limit will be, at the
// rate of its period so far.
const ForecastLevel = "forecast"

// Notify is what a threshold does beside recording a violation.
type Notify string

const (
	ActionLog    Notify = "log"    // one line in the server's log
	ActionNotify Notify = "notify" // tells its channels
	ActionAlert  Notify = "alert"  // tells its channels, urgently and not in a digest
)
