package odometer

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
)

func budget() Threshold {
	return Threshold{
		Name: "acme's month", Enabled: true, Scope: Scoped{Org: "acme", Sum: true}, Resource: ResourceCPU, Condition: ConditionBudget, Unit: UnitHours, Limit: 500,
		Levels: []ThresholdLevel{{"50%", 250, 50}, {"80%", 400, 80}, {"100%", 500, 100}}, Every: CycleMonth, Action: ActionLog,
	}
}

func alarm() Threshold {
	return Threshold{
		Name: "busy", Enabled: true, Scope: Scoped{All: true}, Resource: ResourceCPU, Condition: ConditionPeriod, Unit: UnitPercent,
		Levels: []ThresholdLevel{{"warning", 80, 0}, {"critical", 95, 0}}, Action: ActionNotify, Channels: []ChannelID{"chn_aaaaaaaaaaaaaaaa"},
	}
}

func TestWhatIsWrongWithAThreshold(t *testing.T) {
	for _, good := range []Threshold{budget(), alarm()} {
		if err := good.Valid(); err != nil {
			t.Errorf("%s: got %v", good.Name, err)
		}
	}
	for _, c := range []struct {
		says   string
		spoil  func(*Threshold)
		fields string // of the problems, in order
	}{
		{"no name", func(t *Threshold) { t.Name = "" }, "name"},
		{"nobody", func(t *Threshold) { t.Scope = Scoped{} }, "scope"},
		{"only a sum", func(t *Threshold) { t.Scope = Scoped{Sum: true} }, "scope"},
		{"two", func(t *Threshold) { t.Scope = Scoped{User: "u", Org: "o"} }, "scope"},
		{"the sum of one", func(t *Threshold) { t.Scope = Scoped{Instance: "vm-1", Sum: true} }, "scope.sum"},
		{"a scope that is no id", func(t *Threshold) { t.Scope = Scoped{Instance: "a b"} }, "scope.instance_id"},
		{"not a number", func(t *Threshold) { t.Levels[0].Value = math.NaN() }, "levels[0].value"},
		{"without end", func(t *Threshold) { t.Levels[1].Value = math.Inf(1) }, "levels[1].value"},
		{"below nothing", func(t *Threshold) { t.Levels[0].Value = -1 }, "levels[0].value"},
		{"nothing", func(t *Threshold) { t.Levels[0].Value = 0 }, "levels[0].value"},
		{"more than all", func(t *Threshold) { t.Levels[1].Value = 101 }, "levels[1].value"},
		{"a warning above what is critical", func(t *Threshold) { t.Levels[0].Value = 96 }, "levels[1].value"},
		{"a warning as high as what is critical", func(t *Threshold) { t.Levels[0].Value = 95 }, "levels[1].value"},
		{"a warning and what is critical the wrong way round", func(t *Threshold) { t.Levels[0].Name, t.Levels[1].Name = "critical", "warning" }, "levels[1].name"},
		{"two levels of one name", func(t *Threshold) { t.Levels[1].Name = "warning" }, "levels[1].name"},
		{"a level without a name", func(t *Threshold) { t.Levels[1].Name = "" }, "levels[1].name"},
		{"a level of the forecast's name", func(t *Threshold) { t.Levels[1].Name = "forecast" }, "levels[1].name"},
		{"no level", func(t *Threshold) { t.Levels = nil }, "levels"},
		{"a percentage of no limit", func(t *Threshold) { t.Levels[0].Percent = 50 }, "limit"},
		{"a limit without percentages", func(t *Threshold) { t.Limit = 100 }, "levels[0].percent levels[1].percent"},
		{"a limit that is none", func(t *Threshold) { t.Limit = math.NaN() }, "limit"},
		{"a resource that there is not", func(t *Threshold) { t.Resource = "colour" }, "resource"},
		{"a condition that there is not", func(t *Threshold) { t.Condition = "seldom" }, "condition"},
		{"a unit of something else", func(t *Threshold) { t.Unit = UnitGB }, "unit"},
		{"a percentage of a network", func(t *Threshold) { t.Resource = ResourceNetworkEgress }, "unit"},
		{"silence of a resource", func(t *Threshold) { t.Condition = ConditionSilence }, "resource"},
		{"a cycle of no budget", func(t *Threshold) { t.Every = CycleDay }, "every"},
		{"a time zone of no budget", func(t *Threshold) { t.Zone = time.UTC }, "timezone"},
		{"a budget of no time", func(t *Threshold) { t.Condition, t.Unit = ConditionBudget, UnitHours }, "every"},
		{"sustained for no time", func(t *Threshold) { t.Condition = ConditionSustained }, "for"},
		{"for a time, and not sustained", func(t *Threshold) { t.For = time.Minute }, "for"},
		{"sustained for a year", func(t *Threshold) { t.Condition, t.For = ConditionSustained, 365*24*time.Hour }, "for"},
		{"a cool-down of the past", func(t *Threshold) { t.CoolDown = -1 }, "cool_down"},
		{"all of it as hysteresis", func(t *Threshold) { t.Hysteresis = 100 }, "hysteresis"},
		{"a forecast of now", func(t *Threshold) { t.Forecast = true }, "forecast"},
		{"an action that there is not", func(t *Threshold) { t.Action = "throttle" }, "action"},
		{"to tell nobody", func(t *Threshold) { t.Channels = nil }, "channels"},
		{"to tell whom a log does not", func(t *Threshold) { t.Action = ActionLog }, "channels"},
		{"a channel that is none", func(t *Threshold) { t.Channels[0] = "slack" }, "channels[0]"},
		{"much at once", func(t *Threshold) { t.Name, t.Scope, t.Action = "", Scoped{}, "x" }, "name scope action"},
	} {
		bad := alarm()
		c.spoil(&bad)
		if got := fieldsOf(bad.Valid()); got != c.fields {
			t.Errorf("%s: got problems with %q, want %q", c.says, got, c.fields)
		}
	}
}

func fieldsOf(err error) string {
	var fields []string
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return ""
	}
	for _, e := range joined.Unwrap() {
		p, ok := errors.AsType[ThresholdProblem](e)
		if !ok || !errors.Is(e, ErrInvalid) {
			return "an error of another kind: " + e.Error()
		}
		fields = append(fields, p.Field)
	}
	return strings.Join(fields, " ")
}

func TestThresholdsSurviveJSON(t *testing.T) {
	berlin, err := LoadZone("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	place := budget()
	place.Zone, place.Hysteresis, place.CoolDown, place.Forecast, place.Description = berlin, 5, time.Hour, true, "two\nlines"
	lasting := alarm()
	lasting.Condition, lasting.For, lasting.Enabled = ConditionSustained, 10*time.Minute, false
	for _, want := range []Threshold{budget(), alarm(), place, lasting} {
		text := string(want.AppendJSON(nil))
		got, err := ParseThreshold([]byte(text))
		if err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if again := string(got.AppendJSON(nil)); again != text || !slices.Equal(got.Levels, want.Levels) {
			t.Errorf("got %s, want %s", again, text)
		}
	}
	short := `{"name":"x","scope":{"all":true},"resource":"network_egress","condition":"budget","every":"day","limit":10,"levels":[{"percent":80}],"channels":["chn_aaaaaaaaaaaaaaaa"]}`
	got, err := ParseThreshold([]byte(short))
	if err != nil || got.Unit != UnitGB || got.Action != ActionNotify || !got.Enabled || got.Levels[0] != (ThresholdLevel{"80%", 8, 80}) {
		t.Errorf("what need not be said: got %+v, %v", got, err)
	}
	for says, text := range map[string]string{
		"no JSON": `{`, "a field that there is not": `{"colour":1}`, "two of them": short + short, "a zone that there is not": strings.Replace(short, `"every"`, `"timezone":"Mars/Olympus","every"`, 1),
		"a time that is none": strings.Replace(short, `"every"`, `"cool_down":"soon","every"`, 1),
	} {
		if _, err := ParseThreshold([]byte(text)); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: got %v, want ErrInvalid", says, err)
		}
	}
}

func FuzzParseThreshold(f *testing.F) {
	for _, t := range []Threshold{budget(), alarm()} {
		f.Add(t.AppendJSON(nil))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		got, err := ParseThreshold(text)
		if err != nil {
			return
		}
		again, err := ParseThreshold(got.AppendJSON(nil))
		if err != nil || string(again.AppendJSON(nil)) != string(got.AppendJSON(nil)) {
			t.Errorf("%s: got %v, and %s", got.AppendJSON(nil), err, again.AppendJSON(nil))
		}
	})
}
