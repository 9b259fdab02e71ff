package api

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"net/http"
	"slices"

	"example.org/odometer"
)

// A cursor is where the list of one question goes on for one caller: the position
// in the list, after a keyed hash of it, of who asks, and of all that he asks but for
// how much of it at once. The server keeps nothing of it. With another question, by
// somebody else, or made up, it is refused.

// cursorSum is how many bytes of the hash a cursor has: nobody guesses them.
const cursorSum = 16

// cursorPattern is what cursors look like.
const cursorPattern = "^[A-Za-z0-9_-]{23,}$"

// afterCursor is the parameter of every list whose pages cursors join.
var afterCursor = &parameter{
	name: "after", component: "AfterCursor", kind: asCursor, most: maxCursor, pattern: cursorPattern, example: "AAECAwQFBgcICQoLDA0OD3ZtLTE",
	description: "cursor of an earlier answer to the same question of the same caller",
}

// cursors makes and opens the cursors of one request.
type cursors struct {
	key     []byte
	pattern string // of the route
	caller  odometer.Caller
}

// CursorKey returns the key that a secret of the server gives. It tells nothing of
// the secret.
func CursorKey(secret string) []byte {
	h := hmac.New(sha256.New, []byte(secret))
	h.Write([]byte("odometer cursors"))
	return h.Sum(nil)
}

// cursorKey returns the key of a server that is given none: then no cursor outlives
// the process.
func cursorKey(given []byte) []byte {
	if len(given) > 0 {
		return given
	}
	key := make([]byte, sha256.Size)
	rand.Read(key) // never fails
	return key
}

// sum is the hash that goes before a position.
func (c *cursors) sum(q *query, position string) []byte {
	h := hmac.New(sha256.New, c.key)
	add := func(text string) {
		h.Write(binary.AppendUvarint(nil, uint64(len(text))))
		h.Write([]byte(text))
	}
	for _, text := range []string{c.pattern, string(c.caller.User), string(c.caller.Org), position} {
		add(text)
	}
	if c.caller.User == "" { // a user may go on with another token of his
		add(string(c.caller.ID))
		add(c.caller.Name)
	}
	for i, p := range q.declared {
		switch {
		case p.kind == asCursor || p == limitParam || p.name == "fields" || p.in == inHeader || q.values[i].text == "":
		default:
			add(p.name)
			add(q.values[i].text)
		}
	}
	return h.Sum(nil)[:cursorSum]
}

// open returns the position that a cursor of this question has.
func (c *cursors) open(q *query, text string) (position string, ok bool) {
	b, err := base64.RawURLEncoding.DecodeString(text)
	if c == nil || err != nil || len(b) <= cursorSum || base64.RawURLEncoding.EncodeToString(b) != text { // no other text for it
		return "", false
	}
	position = string(b[cursorSum:])
	return position, hmac.Equal(b[:cursorSum], c.sum(q, position))
}

// seal returns the cursor of a position.
func (c *cursors) seal(q *query, position string) string {
	return base64.RawURLEncoding.EncodeToString(append(c.sum(q, position), position...))
}

// openCursors has the parameters that are cursors be the positions that these have.
func (q *query) openCursors() {
	for i, p := range q.declared {
		v := &q.values[i]
		if p.kind != asCursor || v.text == "" || slices.ContainsFunc(q.errs, func(err error) bool { return err.(FieldError).Name == p.name }) {
			continue
		}
		position, ok := q.cursors.open(q, v.text)
		if v.text = position; !ok {
			q.fail(p.name, "is no cursor of an earlier answer to this question by this caller")
		}
	}
}

// paged cuts a list that has one more than the limit where there are more, and
// says where it goes on.
func paged[T any, ID ~string](w http.ResponseWriter, r *http.Request, list []T, id func(T) ID) ([]T, *string) {
	q := queryOf(r)
	limit := q.limit()
	if len(list) <= limit {
		return list, nil
	}
	list = list[:limit]
	next := q.cursors.seal(q, string(id(list[limit-1])))
	w.Header().Add("Link", fmt.Sprintf("<%s>; rel=\"next\"", pageAfter(r.URL, next)))
	return list, &next
}
