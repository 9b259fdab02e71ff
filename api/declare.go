package api

import (
	"math"
	"net/http"
	"slices"
	"strings"

	"example.org/odometer"
)

// A row of the table of routes declares what a request may carry and what it is
// answered with. The router reads requests by these declarations, and the OpenAPI
// document is generated from them.

// parameter declares one parameter. It is declared once and named by every route
// that takes it.
type parameter struct {
	name        string
	in          place
	description string
	example     string
	kind        kindOfParameter
	// Words are all that there are of a word or of words.
	words []string
	// Least and most bound a number; most bounds a text too, in bytes.
	least, most int64
	// Standard is what a number is where it is absent; 0 for nothing.
	standard int64
	// Valid, where it is there, decides about a text, and about other kinds beyond
	// what they say themselves; pattern is what the document says of a text, and takes
	// whatever valid takes.
	valid   func(string) error
	pattern string
	// Component names the parameter in the document, where several routes take it
	// and its name alone does not tell it from another.
	component string
}

// choices lists the words of a parameter for an error. Of what may have a minus sign
// before it or not it has what has none.
func (p *parameter) choices() string {
	var names []string
	signed := false
	for _, word := range p.words {
		if name, ok := strings.CutPrefix(word, "-"); ok && slices.Contains(p.words, name) {
			signed = true
			continue
		}
		names = append(names, word)
	}
	list := strings.Join(names, ", ")
	if signed {
		list += ", each with - before it or not"
	}
	return list
}

// place is where a parameter stands.
type place int

const (
	inQuery place = iota
	inPath
	inHeader // read by the handler, and described here
)

func (p place) String() string { return [...]string{"query", "path", "header"}[p] }

// kindOfParameter says how a parameter is read.
type kindOfParameter int

const (
	asText   kindOfParameter = iota
	asNumber                 // a whole number
	asMoment                 // a time as ParseTime reads it
	asWord                   // one of words
	asWords                  // some of words, separated by commas, each once
	asFlag                   // there or not, whatever its value
	asCursor                 // where a list goes on, as an earlier answer had it
)

// content is a body in one of its forms.
type content struct {
	media string
	// Of is a value of the Go type whose JSON it is, a shape, or nil for text.
	of any
}

// shape names a schema of the document that no Go type has.
type shape string

// header is a header of an answer.
type header struct{ name, description string }

// reply is an answer of a route that is no problem.
type reply struct {
	status      int
	description string
	headers     []header
	content     []content
}

// answers declares an answer in JSON.
func answers(status int, description string, of any, headers ...header) reply {
	return reply{status, description, headers, []content{{odometer.ContentJSON, of}}}
}

// says declares an answer in plain text.
func says(status int, description string, headers ...header) reply {
	return reply{status, description, headers, []content{{"text/plain", nil}}}
}

// takes declares the JSON that a request has as its body.
func takes(of any) []content { return []content{{odometer.ContentJSON, of}} }

// problems are the statuses of the problems that a route may answer with: those
// that follow from what it declares, and its own.
func (row *route) problems() []int {
	list := append([]int(nil), row.fails...)
	if !row.lenient {
		list = append(list, http.StatusBadRequest)
	}
	if row.access != anybody {
		list = append(list, http.StatusUnauthorized, http.StatusTooManyRequests)
	} else if row.budget != usualBudget {
		list = append(list, http.StatusTooManyRequests)
	}
	if row.access.scope() != "" {
		list = append(list, http.StatusForbidden)
	}
	if row.takes != nil {
		list = append(list, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType)
	}
	if row.access != anybody && row.access != brief {
		list = append(list, http.StatusInternalServerError, http.StatusServiceUnavailable)
	}
	return list
}

// Statuses of what a route may fail with beside what follows from its
// declaration.
var (
	missing  = []int{http.StatusNotFound} // the thing, or the part that knows
	conflict = []int{http.StatusNotFound, http.StatusConflict}
)

// Headers of answers.
var (
	nextPage = header{"Link", "rel=next, where there is another page"}
	waitFor  = header{"Retry-After", "seconds"}
	cursorIn = header{"Odometer-Cursor", "the cursor after this page"}
	attached = header{"Content-Disposition", "attachment, of CSV"}
)

// Parameters that several routes take.
var (
	fromParam = &parameter{
		name: "from", kind: asMoment, example: "-24h", description: "where the time that is asked for begins; inclusive",
	}
	toParam = &parameter{
		name: "to", kind: asMoment, example: "now", description: "where the time that is asked for ends; exclusive, and now where it is absent",
	}
	zoneParam = &parameter{
		name: "timezone", most: maxText, valid: func(s string) error { _, err := odometer.LoadZone(s); return err }, example: "Europe/Berlin",
		description: "of the IANA's database; where days and months begin, also those that from and to name without a time; UTC where it is absent",
	}
	instanceParam = &parameter{
		name: "instance", most: odometer.MaxIDBytes, valid: identifier("instance"), example: "vm-1", description: "only this instance",
	}
	userParam = &parameter{
		name: "user", most: odometer.MaxIDBytes, valid: identifier("user"), example: "ada", description: "only what belongs to this user",
	}
	orgParam = &parameter{
		name: "org", most: odometer.MaxIDBytes, valid: identifier("org"), example: "acme", description: "only what belongs to this organisation",
	}
	limitParam = &parameter{
		name: "limit", kind: asNumber, least: 1, most: MaxPage, standard: DefaultPage, example: "2", description: "the most that one answer has",
	}
	instancePath = &parameter{
		name: "id", in: inPath, component: "InstanceId", most: odometer.MaxIDBytes, valid: identifier("instance"), example: "vm-1", description: "the instance",
	}
	tokenPath = &parameter{
		name: "id", in: inPath, component: "TokenId", most: odometer.MaxIDBytes, valid: odometer.ValidTokenID, pattern: tokenIDPattern,
		example: exampleToken, description: "the id of a token, which is no secret",
	}
)

// exampleToken is the id of a token that the server of the examples has.
const exampleToken = "tok_nlthqp2pxxurw3vy"

// tokenIDPattern is what odometer.ValidTokenID takes.
const tokenIDPattern = "^tok_[a-z2-7]{16}$"

// maxCursor is more than any cursor of ours takes.
const maxCursor = 1024

// anyNumber is the most of a number that has no bound of its own.
const anyNumber = math.MaxInt64

// identifier returns what tells whether a text is an identifier.
func identifier(kind string) func(string) error {
	return func(s string) error { return odometer.ValidID(kind, s) }
}
