package threshold

import (
	"strconv"

	"example.org/odometer"
)

// state is what is remembered of one subject of a threshold, of a budget in one period.
// It is stored as JSON.
type state struct {
	Subject  string `json:"-"`
	Period   int64  `json:"-"` // start of a budget's; 0 for others
	End      int64  `json:"end,omitempty"`
	Instance odometer.InstanceID
	Owner    odometer.Owner

	Sum    odometer.Sum `json:"sum,omitzero"`    // of a budget
	Used   int64        `json:"used,omitempty"`  // the latest time of use that is in it
	Last   int64        `json:"last,omitempty"`  // end of the latest event that was checked
	Value  float64      `json:"value,omitempty"` // of it
	Levels []level      `json:"levels,omitempty"`
	// Parts are what instances came to last, of a sum that is no budget's.
	Parts    map[odometer.InstanceID]part `json:"parts,omitempty"`
	Num, Den int64                        // of all parts
	Newest   int64                        `json:"newest,omitempty"` // of the parts
	Swept    int64                        `json:"swept,omitempty"`  // when old parts were taken out
}

// level is what is remembered of one level of a subject.
type level struct {
	Name    string `json:"name"`
	Since   int64  `json:"since,omitempty"`   // the value is reached without a break since then
	Rests   int64  `json:"rests,omitempty"`   // no violation before then
	Covered int64  `json:"covered,omitempty"` // the last violation, if it is over, covers what was used up to then
	// Now is the last violation, as it was told last; nil before the first.
	Now *odometer.Violation `json:"violation,omitempty"`
}

// part is what an instance came to last: a value in millionths, or of percentages
// numerator and denominator.
type part struct {
	Num int64 `json:"n"`
	Den int64 `json:"d,omitempty"`
	At  int64 `json:"at"`
}

// partsLast is how long what an instance came to last counts in a sum: some of the
// longest periods between events that are usual.
const partsLast = 10 * 60 * odometer.SecondMicros

// coversFor is for how long after a violation it is remembered what it covers, by the time
// of use: what comes later than that is told anew.
const coversFor = odometer.HourMicros

// key finds a state among those of its threshold.
func key(subject string, period int64) string {
	if period == 0 {
		return subject
	}
	return subject + "@" + strconv.FormatInt(period, 10)
}

// level returns what is remembered of a level by its name, which changes of the
// threshold keep.
func (s *state) level(name string) *level {
	for i := range s.Levels {
		if s.Levels[i].Name == name {
			return &s.Levels[i]
		}
	}
	s.Levels = append(s.Levels, level{Name: name})
	return &s.Levels[len(s.Levels)-1]
}

// idle reports whether a state that is no budget's says nothing that is not so at the
// beginning.
func (s *state) idle() bool {
	for i := range s.Levels {
		l := &s.Levels[i]
		if l.Since != 0 || l.open() || l.Now != nil && max(l.Rests, l.Covered+coversFor) > s.Last {
			return false
		}
	}
	return len(s.Parts) == 0
}

func (l *level) open() bool { return l.Now != nil && l.Now.Standing == odometer.StandingOpen }
