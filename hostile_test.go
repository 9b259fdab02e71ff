package odometer

import (
	"errors"
	"strings"
	"testing"
)

// hostile is what must not get in, made from a golden event by replacing old
// by new, with the reasons that must be given. Those marked beyond are ones
// that no JSON Schema can tell.
var hostile = []struct {
	name     string
	file     string // event-1.1.json where empty
	old, new string
	want     []string
	beyond   bool
}{
	{"a member stands twice", "", `"timestamp"`, `"version":"1.1","timestamp"`, []string{"version: stands twice"}, true},
	{"a metric stands twice", "", `"memory_gb"`, `"cpu_seconds":1,"memory_gb"`, []string{"metrics.cpu_seconds: stands twice"}, true},
	{"a quantity stands twice", "", `"usage":{`, `"usage":{"gap_us":0,`, []string{"usage.gap_us: stands twice"}, true},
	{"a reading stands twice", "", `"readings":{`, `"readings":{"start":{},`, []string{"readings.start: stands twice"}, true},
	{"an end stands twice", "", `"span":{`, `"span":{"end_us":5,`, []string{"span.end_us: stands twice"}, true},
	{"an unknown member stands twice", "", `"timestamp"`, `"x":1,"x":1,"timestamp"`, []string{"x: stands twice"}, true},
	{"a member stands twice, once written with an escape", "", `"timestamp"`, `"\u0076ersion":"1.1","timestamp"`, []string{"version: stands twice"}, true},
	{"a member stands twice within an unknown one", "", `"timestamp"`, `"x":{"a":[{"b":1,"b":2}]},"timestamp"`, []string{`x: the member "b" stands twice in an object`}, true},
	{"a member in another case", "", `"timestamp"`, `"Instance_ID":"vm-8","timestamp"`, []string{`Instance_ID: is spelt "instance_id"`}, true},
	{"a member in another case under Unicode's folding", "", `"timestamp"`, `"verſion":"1.1","timestamp"`, []string{`is spelt "version"`}, true},
	{"a quantity in another case", "", `"usage":{`, `"usage":{"CPU_us":1,`, []string{`usage.CPU_us: is spelt "cpu_us"`}, true},
	{"a metric in another case only", "", `"memory_gb"`, `"Memory_GB"`, []string{`metrics.Memory_GB: is spelt "memory_gb"`, "metrics: memory_gb is missing"}, false},

	{"NaN", "", `"memory_percent":37.5`, `"memory_percent":NaN`, []string{"metrics.memory_percent: NaN is not allowed"}, false},
	{"infinity", "", `"memory_percent":37.5`, `"memory_percent":Infinity`, []string{"metrics.memory_percent: Infinity is not allowed"}, false},
	{"negative infinity", "", `"memory_percent":37.5`, `"memory_percent":-Infinity`, []string{"metrics.memory_percent: infinity is not allowed"}, false},
	{"a float beyond the range of floats", "", `"memory_percent":37.5`, `"memory_percent":1e309`, []string{"metrics.memory_percent: 1e309 is too large"}, false},
	{"a float in a string", "", `"memory_percent":37.5`, `"memory_percent":"37.5"`, []string{"metrics.memory_percent: a string where a number is due"}, false},
	{"a negative float", "", `"memory_percent":37.5`, `"memory_percent":-0.5`, []string{"metrics.memory_percent: -0.5 is negative"}, false},
	{"negative seconds", "", `"cpu_seconds":12`, `"cpu_seconds":-12`, []string{"metrics.cpu_seconds: -12 is negative"}, false},
	{"negative usage", "", `"usage":{"cpu_us":12060000`, `"usage":{"cpu_us":-1`, []string{"usage.cpu_us: -1 is negative"}, false},
	{"a negative reading", "", `"start":{"cpu_us":494460007`, `"start":{"cpu_us":-7`, []string{"readings.start.cpu_us: -7 is negative"}, false},
	{"a negative time", "", `"start_us":1763881200004211`, `"start_us":-5`, []string{"span.start_us: -5 is negative"}, false},
	{"a time beyond the year 9999", "", `"epoch_start_us":1763880000000000`, `"epoch_start_us":253402300800000000`, []string{"epoch_start_us: 253402300800000000 lies beyond the year 9999"}, false},
	{"an integer beyond 64 bits", "", `"usage":{"cpu_us":12060000`, `"usage":{"cpu_us":9223372036854775808`, []string{"usage.cpu_us: 9223372036854775808 does not fit in 64 bits"}, false},
	{"an integer far beyond 64 bits", "", `"sequence":42`, `"sequence":99999999999999999999999`, []string{"sequence: 99999999999999999999999 does not fit in 64 bits"}, false},
	{"an integer beyond 64 bits in a string", "", `"sequence":42`, `"sequence":"18446744073709551616"`, []string{"sequence: 18446744073709551616 does not fit in 64 bits"}, true},
	{"a fraction where an integer is due", "", `"cpu_seconds":12`, `"cpu_seconds":12.5`, []string{"metrics.cpu_seconds: 12.5 where an integer is due"}, false},
	{"an exponent where an integer is due", "", `"cpu_seconds":12`, `"cpu_seconds":1e1`, []string{"metrics.cpu_seconds: 1e1 where an integer is due"}, true},
	{"a fraction in a string", "", `"sequence":42`, `"sequence":"42.0"`, []string{`sequence: "42.0" where an integer is due`}, false},
	{"a leading zero in a string", "", `"sequence":42`, `"sequence":"042"`, []string{`sequence: "042" where an integer is due`}, false},
	{"negative zero in a string", "", `"sequence":42`, `"sequence":"-0"`, []string{`sequence: "-0" where an integer is due`}, false},
	{"an empty string for an integer", "", `"sequence":42`, `"sequence":""`, []string{`sequence: "" where an integer is due`}, false},
	{"null for an integer", "", `"sequence":42`, `"sequence":null`, []string{"sequence: null where an integer is due"}, false},
	{"a boolean for an integer", "", `"sequence":42`, `"sequence":true`, []string{"sequence: a boolean where an integer is due"}, false},
	{"an array for an object", "", `"span":{"start_us":1763881200004211,"end_us":1763881230004187}`, `"span":[1,2]`, []string{"span: an array where an object is due"}, false},
	{"a number for a string", "", `"instance_id":"vm-7"`, `"instance_id":7`, []string{"instance_id: a number where a string is due"}, false},
	{"an object for a string", "", `"user_id":"u-ada"`, `"user_id":{"a":1}`, []string{"user_id: an object where a string is due"}, false},
	{"a word for a boolean", "", `"quality":"measured"`, `"quality":"measured","final":"yes"`, []string{"final: a string where true or false is due"}, false},

	{"a second text behind the first", "", `}}}`, `}}} {}`, []string{`trailing data "{}"`}, false},
	{"the text ends early", "", `}}}`, `}}`, []string{"the text ends where a comma or a closing brace is due"}, false},
	{"a string that is not closed", "", `"gap_us":7}}}`, `"gap_us`, []string{"a string is not closed"}, false},
	{"a comma too many", "", `}}}`, `}},}`, []string{`'}' where the name of a member is due`}, false},
	{"a colon too few", "", `"timestamp":`, `"timestamp"`, []string{"timestamp: '1' where a colon is due"}, false},
	{"not an object", "", "", `[1]`, []string{"'[' where an object is due"}, false},
	{"nothing", "", "", ``, []string{"the text ends where an object is due"}, false},
	{"a control character in a string", "", `"vm-7",`, "\"vm-7\t\",", []string{`instance_id: control character '\t' in a string`}, false},
	{"a bad escape", "", `"instance_id":"vm-7"`, `"instance_id":"vm-\x7"`, []string{"instance_id: bad escape in a string"}, false},
	{"half a surrogate pair", "", `"instance_id":"vm-7"`, `"instance_id":"vm-\ud800"`, []string{"instance_id: bad escape in a string"}, true},
	{"a number with a leading zero", "", `"sequence":42`, `"sequence":042`, []string{"sequence: bad number"}, false},
	{"a number that ends with its point", "", `"sequence":42`, `"sequence":42.`, []string{"sequence: bad number"}, false},
	{"a number without exponent behind its e", "", `"memory_percent":37.5`, `"memory_percent":37e`, []string{"metrics.memory_percent: bad number"}, false},
	{"a word that is no value", "", `"sequence":42`, `"sequence":none`, []string{"sequence: 'n' where a value is due"}, false},
	{"text that is not UTF-8", "", `"vm-7"`, "\"vm-\xff\"", []string{"not valid UTF-8"}, true},
	{"too long", "", `"timestamp"`, `"x":"` + strings.Repeat("x", MaxEventBytes) + `","timestamp"`, []string{"at most 16384 are allowed"}, true},
	{"nested too deep", "", `"timestamp"`, `"x":` + strings.Repeat("[", 32) + strings.Repeat("]", 32) + `,"timestamp"`, []string{"x: nested more than 32 deep"}, true},
	{"nested too deep in objects", "", `"timestamp"`, `"x":` + strings.Repeat(`{"a":`, 32) + "1" + strings.Repeat("}", 32) + `,"timestamp"`, []string{"nested more than 32 deep"}, true},

	{"another type", "", `"resource_usage"`, `"billing"`, []string{`event_type: "billing" where "resource_usage" is due`}, false},
	{"another major version", "", `"version":"1.1"`, `"version":"2.0"`, []string{`version: "2.0" where 1.x is due`, "version not supported"}, false},
	{"a version that is none", "", `"version":"1.1"`, `"version":"1.x"`, []string{`version: "1.x" where 1.x is due`}, false},
	{"a version with a leading zero", "", `"version":"1.1"`, `"version":"1.01"`, []string{`version: "1.01"`}, false},
	{"no version", "", `"version":"1.1",`, ``, []string{"version is missing"}, false},
	{"no instance", "", `"instance_id":"vm-7",`, ``, []string{"instance_id is missing"}, false},
	{"no user", "", `"user_id":"u-ada",`, ``, []string{"user_id is missing"}, false},
	{"no usage, but readings", "", `"usage":{"cpu_us":12060000`, `"amount":{"cpu_us":12060000`, []string{"usage is missing"}, false},
	{"no end of the readings", "", `"end":{"cpu_us"`, `"ende":{"cpu_us"`, []string{"readings: end is missing"}, false},
	{"no end of the span", "", `,"end_us":1763881230004187`, ``, []string{"span: end_us is missing"}, false},
	{"no start of the period", "", `"period":{"start":1763881200,`, `"period":{`, []string{"period: start is missing"}, false},
	{"an empty user", "", `"user_id":"u-ada"`, `"user_id":""`, []string{"user_id: is empty"}, false},
	{"an empty organisation instead of null", "", `"org_id":"o-acme"`, `"org_id":""`, []string{"org_id: is empty"}, false},
	{"an organisation that is a number", "", `"org_id":"o-acme"`, `"org_id":3`, []string{"org_id: a number where a string is due"}, false},
	{"a space in an id", "", `"user_id":"u-ada"`, `"user_id":"u ada"`, []string{`user_id "u ada" has the character ' '`}, false},
	{"a slash in an id", "", `"agent_id":"host-12"`, `"agent_id":"host/12"`, []string{`agent_id "host/12" has the character '/'`}, false},
	{"a character in an id that does not print", "", `"org_id":"o-acme"`, `"org_id":"o\u200bacme"`, []string{"org_id", `'\u200b'`}, false},
	{"an id of 129 bytes", "", `"user_id":"u-ada"`, `"user_id":"` + strings.Repeat("u", 129) + `"`, []string{"user_id is 129 bytes long, at most 128 are allowed"}, false},

	{"an epoch that is too short", "", `"epoch":"f9e6`, `"epoch":"e6`, []string{"is not 32 lower-case hex digits"}, false},
	{"an epoch in capitals", "", `"epoch":"f9e6`, `"epoch":"F9E6`, []string{"is not 32 lower-case hex digits"}, false},
	{"an empty epoch", "", `"epoch":"f9e61b06f1e646dd9803ea4774010dd8"`, `"epoch":""`, []string{"epoch: is empty"}, false},
	{"sequence 0", "", `"sequence":42`, `"sequence":0`, []string{"sequence: 0, counting is from 1"}, false},
	{"first sequence 0", "event-1.1-coalesced.json", `"first_sequence":42`, `"first_sequence":0`, []string{"first_sequence: 0, counting is from 1"}, false},
	{"first sequence behind sequence", "event-1.1-coalesced.json", `"first_sequence":42`, `"first_sequence":44`, []string{"first_sequence: 44 lies behind sequence 43"}, true},
	{"an unknown quality", "", `"quality":"measured"`, `"quality":"guessed"`, []string{`quality: "guessed" is none of measured, estimated, gap`}, false},
	{"the span ends where it starts", "", `"end_us":1763881230004187`, `"end_us":1763881200004211`, []string{"span: the end, 1763881200004211, does not lie after the start"}, true},
	{"the span ends before it starts", "", `"end_us":1763881230004187`, `"end_us":5`, []string{"span: the end, 5, does not lie after the start"}, true},
	{"the period ends before it starts", "", `"end":1763881230`, `"end":1763881199`, []string{"period: the end, 1763881199, lies before the start, 1763881200"}, true},
	{"usage is not the difference of the readings", "", `"usage":{"cpu_us":12060000`, `"usage":{"cpu_us":12060001`, []string{"usage.cpu_us: 12060001 where the readings differ by 12060000"}, true},
	{"the readings differ where usage is unknown", "", `"usage":{"cpu_us":12060000,`, `"usage":{`, []string{"usage.cpu_us: 0 where the readings differ by 12060000"}, true},
	{"a reading runs backwards", "", `"start":{"cpu_us":494460007`, `"start":{"cpu_us":9000000000000`, []string{"usage.cpu_us: 12060000 where the readings differ by -"}, true},
	{"usage of a quantity that has no reading", "", `"usage":{`, `"usage":{"gpu_us":0,`, []string{"readings.end: gpu_us is missing"}, true},
	{"more time than the span is long", "", `"end_us":1763881230004187`, `"end_us":1763881230004186`, []string{"sum to 29999976 where the span is 29999975 long"}, true},
	{"less time than the span is long", "", `"end_us":1763881230004187`, `"end_us":1763881230004188`, []string{"sum to 29999976 where the span is 29999977 long"}, true},
	{"an id that is another event's", "", `/42",`, `/43",`, []string{`id: "vm-7/f9e61b06f1e646dd9803ea4774010dd8/43" where "vm-7/f9e61b06f1e646dd9803ea4774010dd8/42" is due`}, true},
	{"an id that names a range where there is none", "", `/42",`, `/42-42",`, []string{"is due"}, true},

	{"1.0 with a first sequence and nothing else of 1.1", "event-1.0.json", `"period"`, `"first_sequence":1,"period"`, []string{"epoch is missing", "sequence is missing", "readings is missing"}, false},
	{"1.0 with an epoch and nothing else of 1.1", "event-1.0.json", `"period"`, `"epoch":"f9e61b06f1e646dd9803ea4774010dd8","period"`, []string{"id is missing", "agent_id is missing", "span is missing", "usage is missing"}, false},
	{"1.0 whose period has no length", "event-1.0.json", `"end":1763881230`, `"end":1763881200`, []string{"period: the end, 1763881200, does not lie after the start"}, true},
	{"1.0 with an amount beyond 64 bits", "event-1.0.json", `"memory_gb":1.5`, `"memory_gb":1.5e300`, []string{"metrics.memory_gb: too large"}, true},
	{"1.0 with seconds beyond 64 bits of microseconds", "event-1.0.json", `"gpu_seconds":0`, `"gpu_seconds":9223372036855`, []string{"metrics.gpu_seconds: too large"}, true},
	{"1.0 without metrics", "event-1.0.json", `"gpu_seconds":0`, `"gpu":0`, []string{"metrics: gpu_seconds is missing"}, false},

	{"everything wrong is told at once", "", `"sequence":42,"quality":"measured","span":{"start_us":1763881200004211,"end_us":1763881230004187}`,
		`"sequence":0,"quality":"x","span":{"start_us":1763881230004187,"end_us":1763881200004211}`,
		[]string{"sequence: 0", `quality: "x"`, "span: the end"}, false},
	{"every value of the wrong kind is told at once", "", `"sequence":42,"quality":"measured"`, `"sequence":{},"quality":7,"Final":true`,
		[]string{"sequence: an object where an integer is due", "quality: a number where a string is due", `Final: is spelt "final"`}, false},
}

// text returns a row's event.
func hostileText(t testing.TB, file, old, new string) string {
	if old == "" {
		return new
	}
	if file == "" {
		file = "event-1.1.json"
	}
	text := string(golden(t, file))
	if !strings.Contains(text, old) {
		t.Fatalf("%s does not contain %s", file, old)
	}
	return strings.Replace(text, old, new, 1)
}

func TestHostileEventsAreRefusedWithTheReason(t *testing.T) {
	schema, _ := compile(t)
	for _, h := range hostile {
		t.Run(h.name, func(t *testing.T) {
			text := hostileText(t, h.file, h.old, h.new)
			e, err := DecodeEvent([]byte(text))
			if err == nil {
				t.Fatalf("got %+v, want refused", e)
			}
			if e != nil || !errors.Is(err, ErrInvalid) {
				t.Errorf("got %v, %v, want nil and an error wrapping ErrInvalid", e, err)
			}
			for _, want := range h.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got  %v\nwant %s", err, want)
				}
			}
			if got := validate(schema, []byte(text)) != nil; got == h.beyond {
				t.Errorf("refused by the schema: got %v, want %v", got, !h.beyond)
			}
		})
	}
}

func TestAnotherMajorVersionIsRefusedByThatAlone(t *testing.T) {
	text := `{"event_type":3,"version":"2.0","instance_id":["a new form"]}`
	_, err := DecodeEvent([]byte(text))
	if got, want := err, ErrVersion; !errors.Is(got, want) || strings.Contains(err.Error(), "instance_id") {
		t.Errorf("got %v, want %v and nothing about the members", got, want)
	}
	if e := (&Event{Version: "3.1"}); !errors.Is(e.Check(), ErrVersion) {
		t.Errorf("Check: got %v, want %v", e.Check(), ErrVersion)
	}
	_, err = DecodeEvent([]byte(`{"event_type":3,"version":"1.9"}`))
	if errors.Is(err, ErrVersion) || !errors.Is(err, ErrInvalid) {
		t.Errorf("a newer minor version: got %v, want an error that is not ErrVersion", err)
	}
}

func TestIntegersAreTakenAsNumbersAndAsStrings(t *testing.T) {
	for _, sequence := range []string{`42`, `"42"`, `42.0`, `42.000`, ` 42 `} {
		text := hostileText(t, "", `"sequence":42`, `"sequence":`+sequence)
		if e, err := DecodeEvent([]byte(text)); err != nil || e.Sequence != 42 {
			t.Errorf("%s: got %v, %v, want 42", sequence, e, err)
		}
	}
	text := hostileText(t, "", `"sequence":42`, `"sequence":"18446744073709551615"`)
	text = strings.Replace(text, `/42",`, `/18446744073709551615",`, 1)
	if e, err := DecodeEvent([]byte(text)); err != nil || e.Sequence != 1<<64-1 {
		t.Errorf("the last sequence: got %v, %v", e, err)
	}
}

func TestEntriesAreRefusedWithTheReason(t *testing.T) {
	for _, h := range []struct{ name, old, new, want string }{
		{"a partition that does not exist", `"17-4211"`, `"64-1"`, "entry_id"},
		{"an entry id of number 0", `"17-4211"`, `"17-0"`, "entry_id"},
		{"an entry id with a sign", `"17-4211"`, `"17--1"`, "entry_id"},
		{"an entry id with leading zeros", `"17-4211"`, `"017-1"`, "entry_id"},
		{"an entry id that is a number", `"17-4211"`, `17`, "entry_id: a number where a string is due"},
		{"an unknown kind", `"kind":"usage"`, `"kind":"gift"`, `kind: "gift" is none of usage, recovered, correction`},
		{"used at another time than the span ends", `"used_at":1763881260004187`, `"used_at":1763881260004188`, "used_at: 1763881260004188 is not the end of the span"},
		{"booked before 1970", `"booked_at":1763881261000123`, `"booked_at":-1`, "booked_at: -1 is negative"},
		{"an empty source", `"source_event_id":"`, `"source_event_id":"","x":"`, "source_event_id: is empty"},
		{"no kind", `"kind":"usage",`, ``, "kind is missing"},
		{"a member of the entry in another case", `"kind":"usage"`, `"kind":"usage","Cause":"x"`, `Cause: is spelt "cause"`},
		{"no sequence in an epoch", `"sequence":43,`, ``, "sequence is missing"},
		{"another major version", `"version":"1.1"`, `"version":"2.1"`, "version not supported"},
		{"an id that is another event's", `/42-43","timestamp"`, `/41-43","timestamp"`, "is due"},
		{"a negative reading", `"start":{"cpu_us":494460007`, `"start":{"cpu_us":-1`, "readings.start.cpu_us: -1 is negative"},
	} {
		t.Run(h.name, func(t *testing.T) {
			_, err := DecodeEntry([]byte(hostileText(t, "entry-1.1.json", h.old, h.new)))
			if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), h.want) {
				t.Errorf("got %v, want %s", err, h.want)
			}
		})
	}
	if _, err := DecodeEntry(make([]byte, maxEntryBytes+1)); !errors.Is(err, ErrInvalid) {
		t.Errorf("too long: got %v, want %v", err, ErrInvalid)
	}
}
