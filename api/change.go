package api

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"example.org/odometer"
)

// What has a version carries it as its ETag, and is changed only by who names the
// version that he saw (RFC 9110, If-Match; RFC 6585, 428).

// writeVersion answers with v, which is of a version.
func writeVersion(w http.ResponseWriter, status int, version int64, v any) error {
	w.Header().Set("ETag", `"`+strconv.FormatInt(version, 10)+`"`)
	return writeJSON(w, status, v)
}

// ifMatch returns the version that a change names. One that this server never
// gave is none of anything.
func ifMatch(r *http.Request) (int64, error) {
	const never = -1
	switch values := r.Header.Values("If-Match"); {
	case len(values) == 0:
		return never, errNoMatch
	case len(values) > 1 || strings.Contains(values[0], ","):
		return never, FieldError{"header", "If-Match", "names several versions; one is expected"}
	case strings.TrimSpace(values[0]) == "*":
		return odometer.AnyVersion, nil
	default:
		tag := strings.TrimSpace(values[0])
		n, err := strconv.ParseInt(strings.Trim(tag, `"`), 10, 64)
		if err != nil || n < 1 || tag != `"`+strconv.FormatInt(n, 10)+`"` {
			return never, nil
		}
		return n, nil
	}
}

// onceOf returns what names the change that a request asks for, nothing where it
// has no Idempotency-Key. The body can be read after it, unless it cannot be read.
func onceOf(r *http.Request) (once odometer.Once, err error) {
	switch values := r.Header.Values("Idempotency-Key"); {
	case len(values) == 0:
		return once, nil
	case len(values) > 1:
		return once, FieldError{"header", "Idempotency-Key", fmt.Sprintf("is given %d times", len(values))}
	case values[0] == "" || len(values[0]) > odometer.MaxOnceKey || strings.ContainsFunc(values[0], func(c rune) bool { return c <= ' ' || c > '~' }):
		return once, FieldError{"header", "Idempotency-Key", fmt.Sprintf("is not 1 to %d printable ASCII characters without spaces", odometer.MaxOnceKey)}
	default:
		once.Key = values[0]
	}
	body, err := io.ReadAll(r.Body) // limited by the router
	r.Body = io.NopCloser(io.MultiReader(bytes.NewReader(body), failing{err}))
	once.Request = sha256.Sum256(fmt.Appendf(nil, "%s %s\n%s", r.Method, r.URL.EscapedPath(), body))
	return once, nil
}

// failing ends a body as it ended when it was read before.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) {
	if f.err != nil {
		return 0, f.err
	}
	return 0, io.EOF
}
