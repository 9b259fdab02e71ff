package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"time"
)

// forgeryTests are the tests of package audit of which each row is a forgery:
// it forges a copy of a ledger, or of its topic, and passes when the audit says
// which. Each row names, as attributes, where it forged and what must be
// found.
const forgeryTests = "^(TestCorruption|TestTopicForged)$"

// forgeries runs the forgeries and returns what became of each.
func forgeries(ctx context.Context, root string, only *regexp.Regexp) ([]result, error) {
	cmd := exec.CommandContext(ctx, "go", "test", "-count=1", "-vet=off", "-json", "-timeout=10m", "-run", forgeryTests, "./audit")
	cmd.Dir = root
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	list, bad := readForgeries(out)
	if bad != nil {
		return nil, fmt.Errorf("forgeries: %w: %s", errors.Join(bad, err), shorten(append(out, errs.Bytes()...)))
	}
	var chosen []result
	for _, r := range list {
		if only == nil || only.MatchString(r.name) || only.MatchString(r.where) || only.MatchString(r.by) {
			chosen = append(chosen, r)
		}
	}
	return chosen, nil
}

// readForgeries reads the rows from the output of go test -json, in the order
// in which they ended.
func readForgeries(out []byte) (list []result, err error) {
	type row struct{ where, finding string }
	rows := map[string]*row{}
	for line := range bytes.Lines(out) {
		var e struct {
			Action, Test, Key, Value string
			Elapsed                  float64
		}
		if json.Unmarshal(line, &e) != nil {
			continue // what a build prints
		}
		test, name, ok := strings.Cut(e.Test, "/")
		if !ok {
			continue
		}
		r := rows[e.Test]
		if r == nil {
			r = &row{}
			rows[e.Test] = r
		}
		switch e.Action {
		case "attr":
			switch e.Key {
			case "where":
				r.where = e.Value
			case "finding":
				r.finding = e.Value
			}
		case "pass", "fail", "skip":
			f := result{
				name: strings.ReplaceAll(name, "_", " "), where: r.where, by: "audit: " + r.finding,
				took: time.Duration(e.Elapsed * float64(time.Second)),
			}
			switch {
			case e.Action == "fail":
				f.missed = "audit." + test + " fails"
			case e.Action == "skip":
				f.missed = "audit." + test + " was skipped"
			case r.where == "" || r.finding == "":
				f.missed = "audit." + test + " does not say what was forged and found"
			}
			list = append(list, f)
		}
	}
	if len(list) == 0 {
		return nil, errors.New("no forgery was made")
	}
	return list, nil
}
