package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"sync"

	"example.org/odometer"
)

// shapes are the schemas of what is written and read otherwise than a Go type says
// by its json tags: rows of usage, events and entries, and what has a name here so
// that it is said once.
var shapes = sync.OnceValue(func() map[string]schema {
	s := map[string]schema{
		"Document": {"type": "object", "description": "An OpenAPI 3.1 document.", "required": []any{"openapi", "info", "paths"}},
		"Integer": {
			"description": "An exact integer: a number, or a string of digits beyond ±(2^53−1).",
			"oneOf":       []any{schema{"type": "integer"}, schema{"type": "string", "pattern": "^-?[0-9]+$"}},
		},
		"Amount": {
			"description": "An exact integer, or null where the quantity is unknown.",
			"oneOf":       []any{schema{"type": "integer"}, schema{"type": "string", "pattern": "^-?[0-9]+$"}, schema{"type": "null"}},
		},
		"Identifier": {
			"description": "1 to 128 bytes of printable text without spaces, slashes, quotes and backslashes.",
			"type":        "string", "minLength": 1, "maxLength": odometer.MaxIDBytes,
		},
		"Moment": {
			"description": "RFC 3339; a day such as 2026-01-02, which begins at midnight UTC; now; or relative to now, such as -24h, -7d or +1d12h.",
			"type":        "string",
			"anyOf": []any{
				schema{"format": "date-time"}, schema{"format": "date"}, schema{"const": "now"},
				schema{"pattern": "^(now)?[+-]([0-9]+w)?([0-9]+d)?([0-9.]+(ns|us|µs|μs|ms|s|m|h))*$"},
			},
		},
		"TokenID": {"description": "Public: no secret.", "type": "string", "pattern": tokenIDPattern},
		"Scopes": {
			"description": "What the holder of a token may do.",
			"type":        "array", "minItems": 1, "uniqueItems": true, "items": schema{"type": "string", "enum": words(odometer.Scopes)},
		},
		"InstanceState": {
			"description": "gone: its agent no longer has it; unobserved: its agent is silent; unknown: nobody describes it, and only its usage is known.",
			"type":        "string", "enum": words(InstanceStates),
		},
		"UsageCloudEvents": {
			"description": "A batch of CloudEvents with usage events as data.", "type": "array", "maxItems": MaxBatch, "items": refer("UsageCloudEvent"),
		},
		"EntryCloudEvents": {"description": "A batch of CloudEvents with ledger entries as data.", "type": "array", "items": refer("EntryCloudEvent")},
		"UsageCloudEvent": {
			"description": "A CloudEvent 1.0 with a usage event as data.",
			"type":        "object", "required": []any{"specversion", "id", "source", "type"},
			"properties": schema{
				"specversion":     schema{"const": "1.0"},
				"id":              schema{"type": "string", "minLength": 1},
				"source":          schema{"type": "string", "minLength": 1, "format": "uri-reference"},
				"type":            schema{"type": "string", "minLength": 1, "description": "any: the data decides"},
				"datacontenttype": schema{"type": "string"},
				"data":            refer("UsageEvent"),
				"data_base64":     schema{"type": "string", "description": "the data in base64, in place of data"},
			},
		},
		"EntryCloudEvent": {
			"description": "A CloudEvent 1.0 with a ledger entry as data.",
			"type":        "object", "required": []any{"specversion", "id", "source", "type", "subject", "time", "datacontenttype", "data"},
			"properties": schema{
				"specversion":     schema{"const": "1.0"},
				"id":              schema{"type": "string", "description": "the entry's id"},
				"source":          schema{"type": "string"},
				"type":            schema{"const": odometer.CloudEventType},
				"subject":         schema{"type": "string", "description": "the instance"},
				"time":            schema{"type": "string", "format": "date-time", "description": "the end of the span"},
				"datacontenttype": schema{"const": odometer.ContentJSON},
				"data":            refer("Entry"),
			},
		},
		"UsageRow": rowOf("The sum of usage over one group; of the group's keys those are there that were grouped by.", usageKeys(), nil),
		"OpenRow": rowOf("The still open amounts of one group, which are not part of what is recorded.", groupKeys, schema{
			"age_s": schema{"type": "integer", "minimum": 0, "description": "seconds since the agent was heard; of the longest silent agent in a sum"},
		}),
		"OpenPeriod": rowOf("One period that is open now and what it holds so far.", nil, schema{
			"agent_id": refer("Identifier"),
			"epoch":    schema{"type": "string", "description": "the run of the machine that is metered"},
			"sequence": schema{"type": "integer", "minimum": 1, "description": "that the period will be recorded under"},
			"start":    schema{"type": "string", "format": "date-time"},
			"end":      schema{"type": "string", "format": "date-time", "description": "the last reading so far"},
			"age_s":    schema{"type": "integer", "minimum": 0, "description": "seconds since the agent was heard"},
		}),
		"RowTimes": {
			"description": "The times of a row to the microsecond as the ledger has them: measured and estimated apart, recovered a part of their sum.",
			"type":        "object", "required": []any{"measured", "estimated", "recovered", "gap"}, "additionalProperties": false,
			"properties": schema{"measured": refer("Integer"), "estimated": refer("Integer"), "recovered": refer("Integer"), "gap": refer("Integer")},
		},
	}
	published(s)
	return s
})

// groupKeys are what a row may be the sum of.
var groupKeys = schema{
	"instance": schema{"type": "string"},
	"user":     schema{"type": "string", "description": "unassigned where nobody was named"},
	"org":      schema{"type": []any{"string", "null"}, "description": "null for no organisation"},
	"start":    schema{"type": "string", "format": "date-time", "description": "start of the UTC hour, or of the day or month of the time zone that was asked for, with its offset"},
}

// usageKeys are groupKeys and what else a row of recorded usage may have.
func usageKeys() schema {
	keys := maps.Clone(groupKeys)
	keys["apportioned"] = schema{"const": true, "description": "there where an hour was cut by the edge of a day or month and shared by time"}
	return keys
}

// rowOf returns the schema of a [Row] with members beside the amounts.
func rowOf(description string, optional, beside schema) schema {
	properties := maps.Clone(optional)
	if properties == nil {
		properties = schema{}
	}
	var required []any
	must := func(name string, s schema) {
		properties[name] = s
		required = append(required, name)
	}
	about := publishedQuantities()
	for q := range amounts {
		name := odometer.Quantity(q).String()
		must(name, schema{"$ref": "#/components/schemas/Amount", "description": about[name]})
	}
	for name, says := range map[string]string{
		"measured_s":  "whole seconds watched, or bridged by counters, whose events arrived",
		"recovered_s": "whole seconds whose usage was booked from the difference over events that never arrived",
		"estimated_s": "the part of measured_s and recovered_s whose gauges were held at their last value",
		"gap_s":       "whole seconds nobody measured; nothing is charged for them",
	} {
		must(name, schema{"$ref": "#/components/schemas/Integer", "description": says})
	}
	must("time_us", refer("RowTimes"))
	for name, s := range beside {
		must(name, s.(schema))
	}
	return schema{"type": "object", "description": description, "properties": properties, "required": sorted(required), "additionalProperties": false}
}

// published adds the JSON Schemas of events and entries that the program publishes,
// with what they define as components of their own.
func published(s map[string]schema) {
	event, entry := read(odometer.EventSchema()), read(odometer.EntrySchema())
	for name, d := range event["$defs"].(schema) {
		s[eventPart(name)] = hoisted(d).(schema)
	}
	for name, whole := range map[string]schema{"UsageEvent": event, "Entry": entry} {
		for _, keyword := range []string{"$schema", "$id", "$defs"} {
			delete(whole, keyword)
		}
		s[name] = hoisted(whole).(schema)
	}
}

// publishedQuantities are what the schema of events says of each quantity.
func publishedQuantities() map[string]string {
	about := make(map[string]string)
	for name, q := range read(odometer.EventSchema())["$defs"].(schema)["usage"].(schema)["properties"].(schema) {
		about[name], _ = q.(schema)["description"].(string)
	}
	return about
}

func eventPart(name string) string { return "Event" + strings.ToUpper(name[:1]) + name[1:] }

func read(text []byte) schema {
	var s schema
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber() // some are beyond a float64
	if err := d.Decode(&s); err != nil {
		panic(fmt.Errorf("read a document: %w", err))
	}
	return s
}

// hoisted returns v with its references to definitions as references to components.
func hoisted(v any) any {
	switch v := v.(type) {
	case schema:
		h := make(schema, len(v))
		for k, inner := range v {
			if ref, ok := inner.(string); ok && k == "$ref" {
				_, name, _ := strings.Cut(ref, "#/$defs/")
				h[k] = "#/components/schemas/" + eventPart(name)
				continue
			}
			h[k] = hoisted(inner)
		}
		return h
	case []any:
		h := make([]any, len(v))
		for i := range v {
			h[i] = hoisted(v[i])
		}
		return h
	}
	return v
}
