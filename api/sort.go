package api

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"example.org/odometer"
)

// sortKey is what an element of a list is sorted by: of its members one is set.
type sortKey struct {
	unknown bool // which comes last, whichever way the list is sorted
	text    string
	sum     odometer.Sum
	number  float64
}

// keysOf are what the elements of a list may be sorted by, by the name of a member.
type keysOf[T any] map[string]func(*T) sortKey

// sortParam declares the parameter sort. The order of keys is that of names.
func sortParam(component, example string, names []string) *parameter {
	var words []string
	for _, name := range names {
		words = append(words, name, "-"+name)
	}
	return &parameter{
		name: "sort", component: component, kind: asWords, words: words, valid: oneWay, example: example,
		description: "what the elements are sorted by, separated by commas, the most important first; with a minus sign before it downwards; what is null comes last",
	}
}

// oneWay returns nil where nothing is to be sorted by both ways.
func oneWay(words string) error {
	list := listed(words)
	for _, word := range list {
		if name, down := strings.CutPrefix(word, "-"); down && slices.Contains(list, name) {
			return fmt.Errorf("has both %s and -%s: %w", name, name, odometer.ErrInvalid)
		}
	}
	return nil
}

// sort sorts a list by words as the parameter has them. Elements that are the same
// by these stay in the order in which they were.
func (keys keysOf[T]) sort(list []T, words []string) {
	if len(words) == 0 {
		return
	}
	slices.SortStableFunc(list, func(a, b T) int {
		for _, word := range words {
			name, down := strings.CutPrefix(word, "-")
			x, y := keys[name](&a), keys[name](&b)
			if x.unknown != y.unknown {
				if x.unknown {
					return 1
				}
				return -1
			}
			c := cmp.Or(cmp.Compare(x.text, y.text), x.sum.Cmp(y.sum), cmp.Compare(x.number, y.number))
			if down {
				c = -c
			}
			if c != 0 {
				return c
			}
		}
		return 0
	})
}

// Keys of what is null where it is not known.
func textKey[T any, S ~string](of func(*T) *S) func(*T) sortKey {
	return func(e *T) sortKey {
		if s := of(e); s != nil {
			return sortKey{text: string(*s)}
		}
		return sortKey{unknown: true}
	}
}

func numberKey[T any, N int64 | float64](of func(*T) *N) func(*T) sortKey {
	return func(e *T) sortKey {
		if n := of(e); n != nil {
			return sortKey{number: float64(*n)}
		}
		return sortKey{unknown: true}
	}
}

func momentKey[T any](of func(*T) *time.Time) func(*T) sortKey {
	return func(e *T) sortKey {
		if t := of(e); t != nil {
			return sortKey{sum: odometer.SumOf(t.UnixMicro())}
		}
		return sortKey{unknown: true}
	}
}
