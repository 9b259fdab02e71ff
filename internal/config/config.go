// Package config fills the flags of a command that its command line left alone
// from the environment and from a YAML file.
//
// A setting has one name everywhere: the flag --data-dir is the variable
// ODOMETER_DATA_DIR and the key data-dir. The order of precedence is flag,
// variable, file, default. Nothing is guessed: a key that the command does not
// have, a key given twice or a value that does not parse is an error that names
// its place, and [Load] reports all of them at once.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"gopkg.in/yaml.v3"
)

// MaxFileBytes is the largest configuration file that is read: a hundred times
// what naming every setting takes.
const MaxFileBytes = 256 << 10

// Load sets every flag of flags that the command line did not set from the
// variable PREFIX_NAME where lookup has one that is not empty, and otherwise
// from the file where it names the flag. File "" means none. Flags listed in
// reserved (such as help, or config itself) are no settings: neither the
// environment nor the file may name them.
//
// The error joins everything that is wrong; flags is then not to be used.
func Load(flags *pflag.FlagSet, prefix string, lookup func(string) (string, bool), file string, reserved ...string) error {
	given := map[string]bool{}
	flags.Visit(func(f *pflag.Flag) { given[f.Name] = true })

	var errs []error
	var names []string
	flags.VisitAll(func(f *pflag.Flag) {
		if slices.Contains(reserved, f.Name) {
			return
		}
		names = append(names, f.Name)
		variable := Variable(prefix, f.Name)
		value, ok := lookup(variable)
		if given[f.Name] || !ok || value == "" {
			return
		}
		given[f.Name] = true
		if err := flags.Set(f.Name, value); err != nil {
			errs = append(errs, fmt.Errorf("%s=%q: %w", variable, value, reason(err)))
		}
	})
	if file != "" {
		errs = append(errs, loadFile(flags, file, names, given)...)
	}
	return errors.Join(errs...)
}

// Variable returns the name of the environment variable for a flag:
// ODOMETER_DATA_DIR for the prefix ODOMETER and the flag data-dir.
func Variable(prefix, flag string) string {
	return prefix + "_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// loadFile sets the flags that file names and that are not in given.
func loadFile(flags *pflag.FlagSet, file string, names []string, given map[string]bool) []error {
	text, err := read(file)
	if err != nil {
		return []error{fmt.Errorf("read the configuration: %w", err)}
	}
	settings, errs := parse(file, text)
	first := map[string]int{}
	for _, s := range settings {
		at := fmt.Sprintf("%s:%d", file, s.line)
		if line, again := first[s.key]; again {
			errs = append(errs, fmt.Errorf("%s: key %q is there already, on line %d", at, s.key, line))
			continue
		}
		first[s.key] = s.line
		if !slices.Contains(names, s.key) {
			errs = append(errs, fmt.Errorf("%s: unknown key %q; %s", at, s.key, suggest(s.key, names)))
			continue
		}
		if given[s.key] {
			continue
		}
		for _, value := range s.values {
			if err := flags.Set(s.key, value); err != nil {
				errs = append(errs, fmt.Errorf("%s: %s: %w", at, s.key, reason(err)))
			}
		}
	}
	return errs
}

func read(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, MaxFileBytes+1))
	if err == nil && len(text) > MaxFileBytes {
		err = fmt.Errorf("%s is larger than %d bytes", file, MaxFileBytes)
	}
	return text, err
}

// setting is one key of the file with its value, or values where it is a list.
type setting struct {
	key    string
	values []string
	line   int
}

// parse reads a flat YAML mapping of scalars and lists of scalars. It returns
// what it could read and everything that it could not.
func parse(file string, text []byte) ([]setting, []error) {
	dec := yaml.NewDecoder(bytes.NewReader(text))
	var doc yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, nil
	} else if err != nil {
		return nil, []error{fmt.Errorf("%s: %w", file, err)}
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, []error{fmt.Errorf("%s: only one YAML document is expected", file)}
	}
	if len(doc.Content) == 0 {
		return nil, nil
	}
	top := doc.Content[0]
	if top.Kind == yaml.ScalarNode && top.Tag == "!!null" {
		return nil, nil
	}
	if top.Kind != yaml.MappingNode {
		return nil, []error{fmt.Errorf("%s:%d: lines of the form \"key: value\" are expected", file, top.Line)}
	}
	var settings []setting
	var errs []error
	for i := 0; i+1 < len(top.Content); i += 2 {
		key, value := top.Content[i], top.Content[i+1]
		s := setting{key: key.Value, line: key.Line}
		switch {
		case value.Kind == yaml.ScalarNode && value.Tag != "!!null":
			s.values = []string{value.Value}
		case value.Kind == yaml.SequenceNode && allScalars(value.Content):
			for _, item := range value.Content {
				s.values = append(s.values, item.Value)
			}
		default:
			errs = append(errs, fmt.Errorf("%s:%d: %s: one value or a list of values is expected", file, key.Line, key.Value))
			continue
		}
		settings = append(settings, s)
	}
	return settings, errs
}

func allScalars(nodes []*yaml.Node) bool {
	return !slices.ContainsFunc(nodes, func(n *yaml.Node) bool { return n.Kind != yaml.ScalarNode || n.Tag == "!!null" })
}

// reason returns why a value was refused without pflag's repetition of it.
func reason(err error) error {
	if invalid, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
		return errors.Unwrap(invalid)
	}
	return err
}

// suggest names the key that was probably meant, or all there are.
func suggest(key string, names []string) string {
	best, distance := "", 3 // more than two slips is another word
	for _, name := range names {
		if d := edits(key, name); d < distance {
			best, distance = name, d
		}
	}
	if best != "" {
		return fmt.Sprintf("did you mean %q?", best)
	}
	return "the keys are " + strings.Join(names, ", ")
}

// edits returns the Levenshtein distance of a and b, where - and _ are equal.
func edits(a, b string) int {
	a, b = strings.ReplaceAll(a, "_", "-"), strings.ReplaceAll(b, "_", "-")
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(diagonal+cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
