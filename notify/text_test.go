package notify

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"mime/quotedprintable"
	"net/mail"
	"os"
	"strings"
	"testing"
	"time"

	"example.org/odometer"
)

// TestTexts: what the log, an e-mail and a Slack-compatible channel are told of each kind
// of change is as in testdata/texts.txt, and as documented.
func TestTexts(t *testing.T) {
	want, err := os.ReadFile("testdata/texts.txt")
	if err != nil {
		t.Fatal(err)
	}
	documented, err := os.ReadFile("../docs/notifications.md")
	if err != nil {
		t.Fatal(err)
	}
	changed := time.Date(2026, 11, 27, 10, 30, 0, 0, time.UTC)
	crossed := violation("vm-1", 1)
	crossed.About = "Call the one who is on duty."
	as := func(standing odometer.Standing, value float64) odometer.Violation {
		v := crossed
		v.Change, v.Standing, v.Value, v.Changed = 2, standing, value, changed.UnixMicro()
		return v
	}
	recovered, undone := as(odometer.StandingRecovered, 12.3456), as(odometer.StandingRetracted, 60)
	recovered.Ended = changed.Add(-time.Minute).UnixMicro()
	forecast := violation("", 4)
	forecast.Name, forecast.Level, forecast.Sum, forecast.Owner = "CPU in November", odometer.ForecastLevel, true, odometer.Owner{Org: "acme"}
	forecast.Condition, forecast.Unit, forecast.Limit, forecast.Value = odometer.ConditionBudget, odometer.UnitHours, 1000, 1250.5
	forecast.Reaches = time.Date(2026, 11, 29, 6, 0, 0, 0, time.UTC).UnixMicro()

	var got strings.Builder
	for _, c := range []struct {
		name string
		list []odometer.Violation // none for a test of the channel
	}{
		{"crossed", []odometer.Violation{crossed}},
		{"recovered", []odometer.Violation{recovered}},
		{"undone", []odometer.Violation{undone}},
		{"forecast", []odometer.Violation{forecast}},
		{"digest", []odometer.Violation{crossed, violation("vm-2", 2), recovered, undone, forecast}},
		{"test", nil},
	} {
		j := &job{delivery: delivery{id: "dlv_1", kind: odometer.EventViolation}, channel: odometer.Channel{ID: "chn_1", Name: "night shift", To: []string{"ada@example.com"}}}
		if len(c.list) == 0 {
			j.kind = ""
		}
		fmt.Fprintf(&got, "== %s\n", c.name)
		text := slog.NewTextHandler(&got, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}})
		(&Notifier{logger: slog.New(text)}).writeLog(j, c.list)

		m, err := mail.ReadMessage(strings.NewReader(string(message(&SMTP{From: "odometer@example.com"}, j, c.list, changed))))
		if err != nil {
			t.Fatal(err)
		}
		subject, err := new(mime.WordDecoder).DecodeHeader(m.Header.Get("Subject"))
		if err != nil {
			t.Fatal(err)
		}
		if len(c.list) > 0 && !strings.Contains(string(documented), "\n"+subject+"\n") {
			t.Errorf("docs/notifications.md does not show %q", subject)
		}
		body, err := io.ReadAll(quotedprintable.NewReader(m.Body))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&got, "subject: %s\n%s", subject, strings.ReplaceAll(string(body), "\r\n", "\n"))

		var slack struct{ Text string }
		if err := json.Unmarshal(slackBody(j, c.list), &slack); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&got, "slack: %s\n\n", slack.Text)
	}
	if got.String() != string(want) {
		t.Errorf("got\n%s", got.String())
	}
}
