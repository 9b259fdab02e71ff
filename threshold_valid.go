package odometer

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
	"unicode"
)

const (
	// MaxThresholdLevels is how many levels a threshold has at most: what a person reads.
	MaxThresholdLevels = 16
	// MaxThresholdChannels is how many channels one threshold tells at most.
	MaxThresholdChannels = 16
	// MaxDescription is how many bytes the description of a threshold has at most.
	MaxDescription = 1024
	// maxThresholdValue keeps a value, in the smallest unit of any resource, within an
	// integer of 63 bits.
	maxThresholdValue = 1e9
	// maxLasting bounds cool-down and how long something is sustained.
	maxLasting = 31 * 24 * time.Hour
)

// unitsOf are the units that fit a condition and a resource, the usual one first.
var unitsOf = map[Condition]map[Resource][]Unit{
	ConditionPeriod: {
		ResourceCPU: {UnitPercent, UnitSeconds, UnitCores}, ResourceMemory: {UnitPercent, UnitGB}, ResourceStorage: {UnitPercent, UnitGB},
		ResourceNetworkEgress: {UnitMB, UnitGB}, ResourceNetworkIngress: {UnitMB, UnitGB}, ResourceDiskRead: {UnitMB, UnitGB}, ResourceDiskWrite: {UnitMB, UnitGB},
		ResourceGPU: {UnitPercent, UnitSeconds, UnitCores},
	},
	ConditionSustained: {
		ResourceCPU: {UnitPercent, UnitCores}, ResourceMemory: {UnitPercent, UnitGB}, ResourceStorage: {UnitPercent, UnitGB},
		ResourceNetworkEgress: {UnitMbitPerS, UnitMBPerSec}, ResourceNetworkIngress: {UnitMbitPerS, UnitMBPerSec},
		ResourceDiskRead: {UnitMBPerSec}, ResourceDiskWrite: {UnitMBPerSec}, ResourceGPU: {UnitPercent, UnitCores},
	},
	ConditionRate: {
		ResourceCPU: {UnitCores}, ResourceNetworkEgress: {UnitMbitPerS, UnitMBPerSec}, ResourceNetworkIngress: {UnitMbitPerS, UnitMBPerSec},
		ResourceDiskRead: {UnitMBPerSec}, ResourceDiskWrite: {UnitMBPerSec}, ResourceGPU: {UnitCores},
	},
	ConditionBudget: {
		ResourceCPU: {UnitHours, UnitSeconds}, ResourceMemory: {UnitGBHours}, ResourceStorage: {UnitGBHours},
		ResourceNetworkEgress: {UnitGB, UnitMB}, ResourceNetworkIngress: {UnitGB, UnitMB}, ResourceDiskRead: {UnitGB, UnitMB}, ResourceDiskWrite: {UnitGB, UnitMB},
		ResourceGPU: {UnitHours, UnitSeconds},
	},
	ConditionSilence: {ResourceNone: {UnitIntervals}},
	ConditionGap:     {ResourceNone: {UnitSeconds}},
}

// UnitsOf returns the units that fit a condition and a resource, the usual one first;
// none where the two do not go together.
func UnitsOf(c Condition, r Resource) []Unit { return unitsOf[c][r] }

// ThresholdProblem is one thing that is wrong with a threshold. It wraps [ErrInvalid].
type ThresholdProblem struct {
	Field string // as JSON names it, such as levels[1].value
	Why   string
}

func (p ThresholdProblem) Error() string { return p.Field + ": " + p.Why }

// Unwrap returns [ErrInvalid].
func (p ThresholdProblem) Unwrap() error { return ErrInvalid }

// thresholdProblems gathers what is wrong with a threshold.
type thresholdProblems []error

func (p *thresholdProblems) add(field, format string, args ...any) {
	*p = append(*p, ThresholdProblem{field, fmt.Sprintf(format, args...)})
}

func (p *thresholdProblems) check(field string, err error) {
	if err != nil {
		p.add(field, "%s", strings.TrimSuffix(err.Error(), ": "+ErrInvalid.Error()))
	}
}

// Valid returns nil, or all that is wrong with what a person said of a threshold, each a
// [ThresholdProblem], joined.
func (t *Threshold) Valid() error {
	var p thresholdProblems
	p.check("name", ValidName(t.Name))
	if len(t.Description) > MaxDescription || strings.ContainsFunc(t.Description, func(r rune) bool { return !unicode.IsPrint(r) && r != '\n' }) || HideSecrets(t.Description) != t.Description {
		p.add("description", "is not printable text of at most %d bytes without a secret", MaxDescription)
	}
	t.checkScope(&p)
	switch units, known := unitsOf[t.Condition]; {
	case !known:
		p.add("condition", "%q is none of period, sustained, rate, budget, silence, gap", t.Condition)
	case units[t.Resource] == nil && units[ResourceNone] != nil:
		p.add("resource", "%q: a threshold of %s watches none", t.Resource, t.Condition)
	case units[t.Resource] == nil:
		p.add("resource", "%q does not go with the condition %s: %s", t.Resource, t.Condition, either(slices.Sorted(maps.Keys(units))))
	case !slices.Contains(units[t.Resource], t.Unit):
		p.add("unit", "%q does not fit the condition %s: %s", t.Unit, t.Condition, either(units[t.Resource]))
	}
	t.checkLevels(&p)
	t.checkTimes(&p)
	t.checkAction(&p)
	return errors.Join(p...)
}

// either writes that one of some words would do.
func either[T ~string](list []T) string {
	words := make([]string, len(list))
	for i, w := range list {
		words[i] = string(w)
	}
	return strings.Join(words, " or ") + " does"
}

func (t *Threshold) checkScope(p *thresholdProblems) {
	s, named := &t.Scope, 0
	if s.All {
		named++
	}
	if s.Instance != "" {
		named++
		p.check("scope.instance_id", ValidID("instance", string(s.Instance)))
	}
	if s.User != "" {
		named++
		p.check("scope.user_id", ValidID("user", string(s.User)))
	}
	if s.Org != "" {
		named++
		p.check("scope.org_id", ValidID("organisation", string(s.Org)))
	}
	switch {
	case named == 0:
		p.add("scope", "names nobody: instance_id, user_id, org_id or all")
	case named > 1:
		p.add("scope", "names several: one of instance_id, user_id, org_id and all is enough")
	case s.Sum && s.Instance != "":
		p.add("scope.sum", "a single instance has no sum")
	case s.Sum && (t.Condition == ConditionSilence || t.Condition == ConditionGap):
		p.add("scope.sum", "%s is of each instance", t.Condition)
	}
}

// Finite reports whether f is a number: neither NaN nor an infinity.
func Finite(f float64) bool { return !math.IsNaN(f) && !math.IsInf(f, 0) }

func (t *Threshold) checkLevels(p *thresholdProblems) {
	if !Finite(t.Limit) || t.Limit < 0 || t.Limit > maxThresholdValue {
		p.add("limit", "%v is not a number from 0 to %v", t.Limit, float64(maxThresholdValue))
		return
	}
	if len(t.Levels) == 0 || len(t.Levels) > MaxThresholdLevels {
		p.add("levels", "there are %d, from 1 to %d are allowed", len(t.Levels), MaxThresholdLevels)
	}
	if t.Limit == 0 && slices.ContainsFunc(t.Levels, func(l ThresholdLevel) bool { return l.Percent != 0 }) {
		p.add("limit", "is needed, since levels are percentages of it")
	}
	names := map[string]bool{ForecastLevel: true}
	for i := range t.Levels {
		l := &t.Levels[i]
		field := fmt.Sprintf("levels[%d]", i)
		switch {
		case validLine(l.Name, 32) != nil:
			p.add(field+".name", "%.40q is not one line of printable text of at most 32 characters", HideSecrets(l.Name))
		case names[l.Name]:
			p.add(field+".name", "%q is another one's, or a forecast's", l.Name)
		}
		names[l.Name] = true
		switch {
		case l.Percent != 0 && t.Limit == 0: // the limit's
		case l.Percent == 0 && t.Limit != 0:
			p.add(field+".percent", "is needed, since there is a limit")
		case !Finite(l.Percent) || l.Percent < 0 || l.Percent > 10_000:
			p.add(field+".percent", "%v is not a number above 0 and up to 10000", l.Percent)
		case !Finite(l.Value) || l.Value <= 0 || l.Value > maxThresholdValue:
			p.add(field+".value", "%v is not a number above 0 and up to %v", l.Value, float64(maxThresholdValue))
		case t.Unit == UnitPercent && l.Value > 100:
			p.add(field+".value", "%v %% is more than all", l.Value)
		case i > 0 && l.Value <= t.Levels[i-1].Value:
			p.add(field+".value", "%v is not above %v, that of the level %s before it", l.Value, t.Levels[i-1].Value, t.Levels[i-1].Name)
		}
	}
	level := func(name string) int {
		return slices.IndexFunc(t.Levels, func(l ThresholdLevel) bool { return l.Name == name })
	}
	if w, c := level("warning"), level("critical"); w > c && c >= 0 {
		p.add(fmt.Sprintf("levels[%d].name", w), "what is critical is not below the warning")
	}
	if !Finite(t.Hysteresis) || t.Hysteresis < 0 || t.Hysteresis >= 100 {
		p.add("hysteresis", "%v is not a percentage from 0 to below 100", t.Hysteresis)
	}
	if t.Forecast && t.Condition != ConditionBudget {
		p.add("forecast", "is of a budget")
	}
}

func (t *Threshold) checkTimes(p *thresholdProblems) {
	if t.Condition == ConditionBudget {
		if !slices.Contains([]Cycle{CycleHour, CycleDay, CycleMonth}, t.Every) {
			p.add("every", "%q is none of hour, day, month", t.Every)
		}
	} else {
		if t.Every != "" {
			p.add("every", "is of a budget")
		}
		if t.Zone != nil {
			p.add("timezone", "is of a budget")
		}
	}
	switch {
	case t.Condition == ConditionSustained && (t.For < time.Second || t.For > maxLasting):
		p.add("for", "%v is not from 1s to %v", t.For, maxLasting)
	case t.Condition != ConditionSustained && t.For != 0:
		p.add("for", "is of what is sustained")
	}
	if t.CoolDown < 0 || t.CoolDown > maxLasting {
		p.add("cool_down", "%v is not from 0s to %v", t.CoolDown, maxLasting)
	}
}

func (t *Threshold) checkAction(p *thresholdProblems) {
	switch t.Action {
	case ActionLog:
		if len(t.Channels) > 0 {
			p.add("channels", "the action log tells none")
		}
	case ActionNotify, ActionAlert:
		if len(t.Channels) == 0 {
			p.add("channels", "the action %s needs one at least", t.Action)
		}
	default:
		p.add("action", "%q is none of log, notify, alert", t.Action)
	}
	if len(t.Channels) > MaxThresholdChannels {
		p.add("channels", "there are %d, at most %d are allowed", len(t.Channels), MaxThresholdChannels)
	}
	for i, c := range t.Channels {
		p.check(fmt.Sprintf("channels[%d]", i), ValidChannelID(string(c)))
	}
}

// Settle fills in what follows from the rest: the value of each level of a limit, and
// the usual unit where none is named.
func (t *Threshold) Settle() {
	if units := UnitsOf(t.Condition, t.Resource); t.Unit == "" && len(units) > 0 {
		t.Unit = units[0]
	}
	if t.Limit != 0 {
		for i := range t.Levels {
			t.Levels[i].Value = t.Limit * t.Levels[i].Percent / 100
		}
	}
}

// Calendar is that of a budget's periods.
func (t *Threshold) Calendar() Calendar {
	by := map[Cycle]GroupBy{CycleHour: ByHour, CycleDay: ByDay, CycleMonth: ByMonth}[t.Every]
	return Calendar{By: by, Zone: t.Zone}
}
