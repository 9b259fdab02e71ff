package odometer

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"
)

// thresholdJSON is what a person says of a threshold, as it is stored and written in a
// file. Durations are as Go writes them, such as 10m.
type thresholdJSON struct {
	Name        string      `json:"name"`
	Description string      `json:"description,omitempty"`
	Enabled     *bool       `json:"enabled,omitempty"` // true where it is absent
	Shared      bool        `json:"shared,omitempty"`
	Scope       scopeJSON   `json:"scope"`
	Resource    Resource    `json:"resource,omitempty"`
	Condition   Condition   `json:"condition"`
	Unit        Unit        `json:"unit,omitempty"` // the usual one where it is absent
	Limit       float64     `json:"limit,omitempty"`
	Levels      []levelJSON `json:"levels"`
	Every       Cycle       `json:"every,omitempty"`
	Zone        string      `json:"timezone,omitempty"`
	For         string      `json:"for,omitempty"`
	Hysteresis  float64     `json:"hysteresis,omitempty"`
	CoolDown    string      `json:"cool_down,omitempty"`
	Forecast    bool        `json:"forecast,omitempty"`
	Action      Notify      `json:"action,omitempty"` // log where it is absent and no channel is named, else notify
	Channels    []ChannelID `json:"channels,omitempty"`
}

type scopeJSON struct {
	All      bool       `json:"all,omitempty"`
	Instance InstanceID `json:"instance_id,omitempty"`
	User     UserID     `json:"user_id,omitempty"`
	Org      OrgID      `json:"org_id,omitempty"`
	Sum      bool       `json:"sum,omitempty"`
}

type levelJSON struct {
	Name    string  `json:"name,omitempty"` // that of the percentage where it is absent, such as 80%
	Value   float64 `json:"value,omitempty"`
	Percent float64 `json:"percent,omitempty"`
}

// AppendJSON appends what a person said of the threshold: nothing of whose it is, its
// version, or who made it when.
func (t *Threshold) AppendJSON(b []byte) []byte {
	j := thresholdJSON{
		Name: t.Name, Description: t.Description, Enabled: &t.Enabled, Shared: t.Shared, Scope: scopeJSON(t.Scope), Resource: t.Resource, Condition: t.Condition, Unit: t.Unit, Limit: t.Limit,
		Every: t.Every, Hysteresis: t.Hysteresis, Forecast: t.Forecast, Action: t.Action, Channels: t.Channels,
	}
	for _, l := range t.Levels {
		level := levelJSON{Name: l.Name, Percent: l.Percent}
		if t.Limit == 0 {
			level.Value = l.Value
		}
		j.Levels = append(j.Levels, level)
	}
	if t.Zone != nil {
		j.Zone = t.Zone.String()
	}
	if t.For != 0 {
		j.For = t.For.String()
	}
	if t.CoolDown != 0 {
		j.CoolDown = t.CoolDown.String()
	}
	text, err := json.Marshal(j)
	if err != nil {
		panic(err) // numbers are finite
	}
	return append(b, text...)
}

// ParseThreshold reads what AppendJSON wrote, or a person, and settles it. What is not
// as it must be is a [ThresholdProblem], or several, joined; what is no JSON of a
// threshold wraps [ErrInvalid].
func ParseThreshold(text []byte) (t Threshold, err error) {
	var j thresholdJSON
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&j); err != nil {
		return t, fmt.Errorf("%w: %w", err, ErrInvalid)
	}
	if d.More() {
		return t, fmt.Errorf("something follows: %w", ErrInvalid)
	}
	t = Threshold{
		Name: j.Name, Description: j.Description, Enabled: j.Enabled == nil || *j.Enabled, Shared: j.Shared, Scope: Scoped(j.Scope), Resource: j.Resource, Condition: j.Condition, Unit: j.Unit,
		Limit: j.Limit, Every: j.Every, Hysteresis: j.Hysteresis, Forecast: j.Forecast, Action: j.Action, Channels: j.Channels,
	}
	for _, l := range j.Levels {
		if l.Name == "" && l.Percent != 0 {
			l.Name = fmt.Sprintf("%v%%", l.Percent)
		}
		t.Levels = append(t.Levels, ThresholdLevel(l))
	}
	if t.Action == "" {
		if t.Action = ActionLog; len(t.Channels) > 0 {
			t.Action = ActionNotify
		}
	}
	if j.Zone != "" {
		if t.Zone, err = LoadZone(j.Zone); err != nil {
			return t, ThresholdProblem{"timezone", fmt.Sprintf("%.40q is none of the IANA's, such as Europe/Berlin", j.Zone)}
		}
	}
	if j.For != "" {
		if t.For, err = time.ParseDuration(j.For); err != nil {
			return t, ThresholdProblem{"for", fmt.Sprintf("%.40q is no duration, such as 10m", j.For)}
		}
	}
	if j.CoolDown != "" {
		if t.CoolDown, err = time.ParseDuration(j.CoolDown); err != nil {
			return t, ThresholdProblem{"cool_down", fmt.Sprintf("%.40q is no duration, such as 1h", j.CoolDown)}
		}
	}
	t.Settle()
	return t, t.Valid()
}
