package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
)

// fieldsParam declares the parameter fields of a route that answers a list whose
// elements have the members names. The component is its name in the document where
// several routes take it.
func fieldsParam(component, example string, names []string) *parameter {
	return &parameter{
		name: "fields", component: component, kind: asWords, words: names, example: example,
		description: "only these members of each element, separated by commas; all where it is absent",
	}
}

// fieldsOf returns the names that the members of a struct have in JSON.
func fieldsOf[T any]() []string { return fieldNames(reflect.TypeFor[T]()) }

func fieldNames(t reflect.Type) (names []string) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && name == "":
			names = append(names, fieldNames(f.Type)...)
		case name != "" && name != "-" && !slices.Contains(names, name):
			names = append(names, name)
		}
	}
	return names
}

// writeList is [writeJSON] of an answer to a request that may have asked for some
// fields: then the elements of its lists, which are named, have only those.
func writeList(w http.ResponseWriter, r *http.Request, answer any, lists ...string) error {
	fields := queryOf(r).words("fields")
	if fields == nil {
		return writeJSON(w, http.StatusOK, answer)
	}
	whole, err := encode(answer)
	if err != nil {
		return fmt.Errorf("encode the answer: %w", err)
	}
	part, err := rewrite(whole, func(name string, value json.RawMessage) (json.RawMessage, error) {
		if !slices.Contains(lists, name) {
			return value, nil
		}
		var elements []json.RawMessage
		if err := json.Unmarshal(value, &elements); err != nil {
			return nil, err
		}
		for i := range elements {
			if elements[i], err = pick(elements[i], fields); err != nil {
				return nil, err
			}
		}
		return encode(elements)
	})
	if err != nil {
		return fmt.Errorf("leave fields out of the answer: %w", err)
	}
	return writeJSON(w, http.StatusOK, json.RawMessage(part))
}

// pick returns a JSON object with only those members that are named, in the order
// in which it has them. What it does not have is left out.
func pick(object []byte, fields []string) (json.RawMessage, error) {
	return rewrite(object, func(name string, value json.RawMessage) (json.RawMessage, error) {
		if !slices.Contains(fields, name) {
			return nil, nil
		}
		return value, nil
	})
}

// rewrite returns a JSON object with its members as each gives them, without those
// for which it gives nil.
func rewrite(object []byte, each func(name string, value json.RawMessage) (json.RawMessage, error)) (json.RawMessage, error) {
	d := json.NewDecoder(bytes.NewReader(object))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, fmt.Errorf("%.40q is no JSON object: %w", object, err)
	}
	b := []byte{'{'}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, err
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, err
		}
		name, _ := t.(string) // a member begins with its name
		if value, err = each(name, value); err != nil {
			return nil, err
		}
		if value == nil {
			continue
		}
		if len(b) > 1 {
			b = append(b, ',')
		}
		quoted, err := json.Marshal(name)
		if err != nil {
			return nil, err
		}
		b = append(append(append(b, quoted...), ':'), bytes.TrimSpace(value)...)
	}
	return append(b, '}'), nil
}
