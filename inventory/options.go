package inventory

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"example.org/odometer"
)

// options are the members of one option of a command line, in its order.
// Members of members have dotted names: "file.driver".
type options []option

type option struct{ key, value string }

// parseOptions reads "key=value,key=value" as QEMU does: a comma in a value is
// doubled, the first member may be the value of the implied key, and a member
// without a value is a switch ("server", "nowait"). An argument that begins
// with a brace is JSON and means the same.
func parseOptions(s, implied string) (options, error) {
	if strings.HasPrefix(s, "{") {
		return parseJSONOptions(s)
	}
	var list options
	for first := true; s != "" || first; first = false {
		var member string
		member, s = cutComma(s)
		key, value, ok := strings.Cut(member, "=")
		switch {
		case ok:
			list = append(list, option{key, value})
		case first && implied != "":
			list = append(list, option{implied, member})
		case strings.HasPrefix(member, "no") && len(member) > 2:
			list = append(list, option{member[2:], "off"})
		case member != "":
			list = append(list, option{member, "on"})
		}
	}
	return list, nil
}

// cutComma cuts s at its first comma that is not doubled.
func cutComma(s string) (member, rest string) {
	if !strings.Contains(s, ",,") {
		member, rest, _ = strings.Cut(s, ",")
		return member, rest
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == ',' {
			if i+1 == len(s) || s[i+1] != ',' {
				return b.String(), s[i+1:]
			}
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String(), ""
}

// maxDepth is how deep members may be nested, and how long a chain of block
// nodes or images may be.
const maxDepth = 64

func parseJSONOptions(s string) (options, error) {
	d := json.NewDecoder(strings.NewReader(s))
	d.UseNumber()
	var v map[string]any
	if err := d.Decode(&v); err != nil {
		return nil, fmt.Errorf("read JSON: %w", err)
	}
	var list options
	flatten(&list, "", v, 0)
	return list, nil
}

func flatten(list *options, key string, v any, depth int) {
	switch v := v.(type) {
	case map[string]any:
		if depth == maxDepth {
			return
		}
		keys := make([]string, 0, len(v))
		for k := range v {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		for _, k := range keys {
			flatten(list, join(key, k), v[k], depth+1)
		}
	case []any:
		if depth == maxDepth {
			return
		}
		for i, e := range v {
			flatten(list, join(key, strconv.Itoa(i)), e, depth+1)
		}
	case string:
		*list = append(*list, option{key, v})
	case json.Number:
		*list = append(*list, option{key, v.String()})
	case bool:
		*list = append(*list, option{key, map[bool]string{true: "on", false: "off"}[v]})
	case nil:
		*list = append(*list, option{key, ""})
	}
}

func join(prefix, key string) string {
	if prefix == "" {
		return key
	}
	return prefix + "." + key
}

// get returns the value of the last member with the key, "" where none has it.
func (o options) get(key string) string {
	v, _ := o.lookup(key)
	return v
}

func (o options) lookup(key string) (string, bool) {
	for i := len(o) - 1; i >= 0; i-- {
		if o[i].key == key {
			return o[i].value, true
		}
	}
	return "", false
}

func (o options) on(key string) bool {
	v := o.get(key)
	return v == "on" || v == "yes" || v == "true"
}

// under returns the members of the member with the key, without the prefix.
func (o options) under(key string) options {
	var list options
	for _, m := range o {
		if rest, ok := strings.CutPrefix(m.key, key+"."); ok {
			list = append(list, option{rest, m.value})
		}
	}
	return list
}

// parseSize reads a size such as "2048", "2G", "1.5G" or "0x4000000", in units
// of unit where it names none. Suffixes are powers of 1024, in either case.
func parseSize(s string, unit int64) (int64, bool) {
	if hex, ok := strings.CutPrefix(strings.ToLower(s), "0x"); ok {
		n, err := strconv.ParseInt(hex, 16, 64)
		if err != nil || n > math.MaxInt64/unit {
			return 0, false
		}
		return n * unit, true
	}
	if s == "" {
		return 0, false
	}
	if i := strings.IndexByte("bkmgtpe", s[len(s)-1]|0x20); i >= 0 {
		unit, s = 1<<(10*i), s[:len(s)-1]
	}
	if n, err := strconv.ParseUint(s, 10, 63); err == nil {
		return int64(n) * unit, int64(n) <= math.MaxInt64/unit
	}
	whole, frac, ok := strings.Cut(s, ".")
	if !ok || whole == "" || frac == "" || strings.Trim(whole+frac, "0123456789") != "" {
		return 0, false
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || f*float64(unit) >= math.MaxInt64 {
		return 0, false
	}
	return int64(f * float64(unit)), true
}

// parseCount reads a number that counts something: at least 0 and no more than
// any machine has.
func parseCount(s string) (int64, bool) {
	n, err := strconv.ParseUint(s, 10, 20)
	return int64(n), err == nil
}

// uuidOf returns s as a UUID in lower case with hyphens, "" where it is none or
// has only zeros, which names nobody.
func uuidOf(s string) string {
	s = strings.ToLower(strings.Trim(s, "{}"))
	if len(s) == 32 {
		s = s[:8] + "-" + s[8:12] + "-" + s[12:16] + "-" + s[16:20] + "-" + s[20:]
	}
	if len(s) != 36 {
		return ""
	}
	zero := true
	for i := range s {
		switch c := s[i]; {
		case i == 8 || i == 13 || i == 18 || i == 23:
			if c != '-' {
				return ""
			}
		case (c < '0' || c > '9') && (c < 'a' || c > 'f'):
			return ""
		case c != '0':
			zero = false
		}
	}
	if zero {
		return ""
	}
	return s
}

// shorten returns s where it fits into an identifier, and otherwise as much of
// it as fits with a digest of whole.
func shorten(s, whole string) string {
	if len(s) <= odometer.MaxIDBytes {
		return s
	}
	sum := sha256.Sum256([]byte(whole))
	end := odometer.MaxIDBytes - 17
	for !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + "~" + hex.EncodeToString(sum[:8])
}

// runeLen returns how many bytes the first rune of s has, 1 where it is none.
func runeLen(s string, r rune) int {
	if r == utf8.RuneError {
		_, n := utf8.DecodeRuneInString(s)
		return n
	}
	return utf8.RuneLen(r)
}
