package api

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"example.org/odometer"
)

// TestOpenAPIIsCurrent generates both documents anew. With -update it writes them.
func TestOpenAPIIsCurrent(t *testing.T) {
	for _, d := range documents(t) {
		got := generate(t, d)
		if *update {
			if err := os.WriteFile(d.file, got, 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if !bytes.Equal(got, d.embedded) {
			t.Errorf("%s is not what the table of routes says; go generate ./api writes it:\n%s", d.file, difference(string(d.embedded), string(got)))
		}
	}
}

// document is one of the documents.
type document struct {
	name, file, title, about string
	embedded                 []byte
	page                     string // its file
	shown                    []byte
	table                    map[string]route
}

func documents(t *testing.T) []document {
	both := handlers(t, NewFixture(t))
	return []document{
		{"server", "openapi.json", "Odometer", "Usage of virtual machines, counted once.",
			OpenAPI, "docs/server.html", []byte(serverPage), both["server"].table},
		{"agent", "openapi-agent.json", "Odometer agent", "The agent's own API on a host: the machine, health and metrics, all of which answer while the server is away.",
			AgentOpenAPI, "docs/agent.html", []byte(agentPage), both["agent"].table},
	}
}

// always is what holds for every route.
const always = " Amounts are exact integers in the unit that their name ends in; null is unknown and not zero. " +
	"A query parameter that is unknown, given twice or cannot be read is refused by name, all of them at once. " +
	"Every error is application/problem+json (RFC 9457), those of paths (404) and methods (405) that there are not among them. " +
	"A server may limit how often a token asks: RateLimit and RateLimit-Policy (draft-ietf-httpapi-ratelimit-headers-11) then say in each answer what is left. " +
	"A request with more than 100 header fields or 32 KiB of them is answered with 431, and one whose body is compressed with 415. " +
	"A request may name itself in X-Request-Id, with 1 to 64 letters, digits, dots, dashes and underscores; the answer has that id or a new one."

// tags are the groups of routes, in the order in which they are shown.
var tags = []schema{
	{"name": "usage", "description": "What was used, and what is being used."},
	{"name": "instances", "description": "The virtual machines, and what happened to them."},
	{"name": "events", "description": "What is booked, one by one; events that come in; corrections."},
	{"name": "alerts", "description": "Thresholds, what was reached of them, and who is told."},
	{"name": "access", "description": "Tokens, and who did what."},
	{"name": "people", "description": "Organisations, users, and who is a member of what."},
	{"name": "operation", "description": "The process itself."},
	{"name": "health", "description": "Whether the process works."},
}

// failures are what the problems of each status are about.
var failures = map[int]struct{ name, description string }{
	400: {"Invalid", "Something is wrong with the request; errors names each thing."},
	401: {"Unauthorized", "There is no valid token."},
	403: {"Forbidden", "The token is valid, and its scopes or what its holder is do not allow this; detail says which."},
	404: {"NotFound", "There is no such thing, or this process does not have the part that knows."},
	409: {"Conflict", "The request contradicts what is there."},
	412: {"Stale", "It was changed since the version that If-Match names."},
	413: {"TooLarge", "The body or an event in it is too large; nothing was taken."},
	415: {"MediaType", "The content type or encoding is not supported; nothing was taken."},
	422: {"Refused", "Every event of the request is in quarantine, and results has the reasons; or its Idempotency-Key was used for another request."},
	428: {"NoMatch", "If-Match is missing, which says what is changed."},
	429: {"TooMany", "There were too many requests, of this token or from this address, and nothing was done; Retry-After says when to ask again."},
	500: {"Failed", "The server failed; its log has the cause under request_id."},
	503: {"Unavailable", "A part that is needed is not available, or took too long."},
}

// failureHeaders are the headers that the problems of a status have.
var failureHeaders = map[int]schema{
	401: {"WWW-Authenticate": schema{"description": "Bearer", "schema": schema{"type": "string"}}},
	403: {"WWW-Authenticate": schema{"description": "Bearer, with the scope that is needed", "schema": schema{"type": "string"}}},
	429: {"Retry-After": schema{"description": "seconds", "schema": schema{"type": "integer", "minimum": 1}}},
	503: {"Retry-After": schema{"description": "seconds", "schema": schema{"type": "integer", "minimum": 0}}},
}

// generator makes one document.
type generator struct {
	schemas
	shared     map[*parameter]string // parameters of several routes, by their component
	parameters schema
	responses  schema
}

// generate returns the document of a table of routes: the same bytes for the same
// table.
func generate(t *testing.T, d document) []byte {
	table := d.table
	g := &generator{
		schemas: schemas{components: schema{}, types: map[string]reflect.Type{}},
		shared:  map[*parameter]string{}, parameters: schema{}, responses: schema{},
	}
	g.share(table)
	paths, used := schema{}, map[string]bool{}
	for _, pattern := range slices.Sorted(maps.Keys(table)) {
		row := table[pattern]
		method, path, _ := strings.Cut(pattern, " ")
		ops, ok := paths[path].(schema)
		if !ok {
			ops = schema{}
			paths[path] = ops
		}
		ops[strings.ToLower(method)] = g.operation(&row)
		used[row.tag] = true
	}
	components := schema{
		"parameters": g.parameters, "responses": g.responses, "schemas": g.components,
		"securitySchemes": schema{"token": schema{
			"type": "http", "scheme": "bearer",
			"description": "An operation names the scope that the token needs: admin (everything), read, events:write or account (what a user may change); none is any valid token. " +
				"The administrator's own token lies in admin.token of the server's data directory.",
		}},
	}
	for name, part := range components {
		if len(part.(schema)) == 0 {
			delete(components, name)
		}
	}
	var listed []any
	for _, tag := range tags {
		if used[tag["name"].(string)] {
			listed = append(listed, tag)
		}
	}
	text, err := json.MarshalIndent(exemplify(t, d.name, schema{
		"openapi":  "3.1.0",
		"info":     schema{"title": d.title, "version": "1", "description": d.about + always},
		"servers":  []any{schema{"url": "/", "description": "where this document was read"}},
		"security": []any{schema{"token": []any{string(odometer.ScopeAdmin)}}},
		"tags":     listed, "paths": paths, "components": components,
	}), "", "  ")
	if err != nil {
		panic(err)
	}
	return append(text, '\n')
}

// share makes components of the parameters that several routes take.
func (g *generator) share(table map[string]route) {
	count := map[*parameter]int{}
	for _, row := range table {
		for _, p := range row.params {
			count[p]++
		}
	}
	by := map[string]*parameter{}
	for p, n := range count {
		if n < 2 {
			continue
		}
		name := cmp.Or(p.component, strings.ToUpper(p.name[:1])+p.name[1:])
		if by[name] != nil {
			panic(fmt.Sprintf("two parameters are the component %s: give one another name in its declaration", name))
		}
		by[name], g.shared[p] = p, name
		g.parameters[name] = g.parameter(p)
	}
}

func (g *generator) operation(row *route) schema {
	op := schema{
		"operationId": row.id, "summary": row.summary, "description": row.description, "tags": []any{row.tag},
		"security": security(row.access),
	}
	var params []any
	for _, p := range row.params {
		if name, ok := g.shared[p]; ok {
			params = append(params, schema{"$ref": "#/components/parameters/" + name})
		} else {
			params = append(params, g.parameter(p))
		}
	}
	if params != nil {
		op["parameters"] = params
	}
	if row.takes != nil {
		op["requestBody"] = schema{"required": true, "content": g.content(row.takes)}
	}
	responses := schema{}
	for _, r := range row.replies {
		response := schema{"description": r.description}
		if r.content != nil {
			response["content"] = g.content(r.content)
			if slices.ContainsFunc(row.params, func(p *parameter) bool { return p.name == "fields" }) {
				g.partly(response["content"].(schema))
			}
		}
		if len(r.headers) > 0 {
			headers := schema{}
			for _, h := range r.headers {
				headers[h.name] = schema{"description": h.description, "schema": schema{"type": "string"}}
			}
			response["headers"] = headers
		}
		responses[strconv.Itoa(r.status)] = response
	}
	for _, status := range row.problems() {
		responses[strconv.Itoa(status)] = g.failure(status)
	}
	op["responses"] = responses
	return op
}

// failure returns what a problem with a status is answered as.
func (g *generator) failure(status int) schema {
	f, ok := failures[status]
	if !ok {
		panic(fmt.Sprintf("failures does not say what a problem with the status %d is about", status))
	}
	if g.responses[f.name] == nil {
		response := schema{
			"description": f.description,
			"content":     schema{"application/problem+json": schema{"schema": g.of(reflect.TypeFor[Problem]())}},
		}
		if headers := failureHeaders[status]; headers != nil {
			response["headers"] = headers
		}
		g.responses[f.name] = response
	}
	return schema{"$ref": "#/components/responses/" + f.name}
}

func (g *generator) content(forms []content) schema {
	all := schema{}
	for _, c := range forms {
		var s schema
		switch of := c.of.(type) {
		case nil:
			s = schema{"type": "string"}
		case shape:
			s = g.shape(string(of))
		default:
			s = g.of(reflect.TypeOf(of))
		}
		all[c.media] = schema{"schema": s}
	}
	return all
}

// partly lets the elements of an answer's lists have fewer members than they have
// otherwise: what fields leaves of them.
func (g *generator) partly(content schema) {
	resolve := func(s any) schema {
		ref, _ := s.(schema)["$ref"].(string)
		component, _ := g.components[strings.TrimPrefix(ref, "#/components/schemas/")].(schema)
		return component
	}
	for _, c := range content {
		whole := c.(schema)["schema"].(schema)
		answer := resolve(whole)
		members, ok := answer["properties"].(schema)
		if !ok { // of another form
			continue
		}
		part := clone(answer)
		properties := schema{}
		for name, p := range members {
			properties[name] = p
			items, ok := p.(schema)["items"]
			if !ok {
				continue
			}
			if element := resolve(items); element["type"] == "object" {
				few := clone(element)
				few["description"] = "What fields leaves."
				few["maxProperties"] = len(element["required"].([]any)) - 1
				delete(few, "required")
				list := clone(p.(schema))
				list["items"] = few
				properties[name] = list
			}
		}
		part["properties"], part["description"] = properties, "With fields."
		c.(schema)["schema"] = schema{"anyOf": []any{whole, part}}
	}
}

// parameter returns what the document says of a parameter.
func (g *generator) parameter(p *parameter) schema {
	out := schema{"name": p.name, "in": p.in.String(), "description": p.description}
	if p.in == inPath {
		out["required"] = true
	}
	var example any = p.example
	s := schema{"type": "string"}
	switch p.kind {
	case asNumber:
		s = schema{"type": "integer", "minimum": p.least}
		if p.most != anyNumber {
			s["maximum"] = p.most
		}
		if p.standard != 0 {
			s["default"] = p.standard
		}
		example, _ = strconv.ParseInt(p.example, 10, 64)
	case asMoment:
		s = g.shape("Moment")
	case asWord:
		s["enum"] = words(p.words)
	case asWords:
		s = schema{"type": "array", "items": schema{"type": "string", "enum": words(p.words)}, "uniqueItems": true}
		out["style"], out["explode"] = "form", false
		example = words(strings.Split(p.example, ","))
	case asFlag:
		out["allowEmptyValue"] = true
	default:
		if p.most > 0 {
			s["maxLength"] = p.most
		}
		if p.pattern != "" {
			s["pattern"] = p.pattern
		}
	}
	out["schema"], out["example"] = s, example
	return out
}

// security returns what an access asks for, as the document says it.
func security(a access) []any {
	none := schema{}
	switch a {
	case anybody:
		return []any{none}
	case brief:
		return []any{none, schema{"token": []any{string(odometer.ScopeRead)}}}
	case holder:
		return []any{schema{"token": []any{}}}
	}
	return []any{schema{"token": []any{string(a.scope())}}}
}

// TestEveryRouteIsDeclared asks of each row what the document needs.
func TestEveryRouteIsDeclared(t *testing.T) {
	ids := map[string]string{}
	for _, d := range documents(t) {
		for pattern, row := range d.table {
			for what, wrong := range undeclared(&row) {
				if wrong {
					t.Errorf("%s: %s: %s", d.name, pattern, what)
				}
			}
			if other, ok := ids[row.id]; ok && other != pattern {
				t.Errorf("%s and %s have the same id %s", pattern, other, row.id)
			}
			ids[row.id] = pattern
		}
	}
}

// undeclared returns what may be wrong with a row, and whether it is.
func undeclared(row *route) map[string]bool {
	_, path, _ := strings.Cut(row.pattern, " ")
	wrong := map[string]bool{
		"has no access":                row.access <= undecided || row.access > administrator,
		"has no id":                    row.id == "" || strings.ToLower(row.id[:1]) != row.id[:1],
		"has no summary":               row.summary == "" || strings.HasSuffix(row.summary, "."),
		"has no description":           !strings.HasSuffix(row.description, "."),
		"is in no group":               !slices.ContainsFunc(tags, func(tag schema) bool { return tag["name"] == row.tag }),
		"has no answer":                !slices.ContainsFunc(row.replies, func(r reply) bool { return r.status < 300 }),
		"is lenient and wants a token": row.lenient && row.access != anybody,
	}
	seen := map[string]bool{}
	for _, p := range row.params {
		wrong["takes "+p.name+" twice"] = seen[p.in.String()+p.name]
		seen[p.in.String()+p.name] = true
		wrong[p.name+" is not in the path"] = (p.in == inPath) != strings.Contains(path, "{"+p.name+"}")
		wrong[p.name+" has no description"] = p.description == ""
		wrong[p.name+" has no example"] = p.example == ""
		wrong[p.name+" has no words"] = (p.kind == asWord || p.kind == asWords) != (len(p.words) > 0)
		wrong[p.name+" has no bound"] = p.in != inHeader && p.kind == asText && p.valid == nil && p.most == 0
		wrong[p.name+" has bounds that contain nothing"] = p.kind == asNumber && p.least > p.most
		if p.in != inHeader && p.kind != asCursor { // which nobody but the server makes
			q := &query{now: Now}
			q.read(p, &value{text: p.example})
			wrong[fmt.Sprintf("%s has an example that is refused: %v", p.name, q.errs)] = q.errs != nil
		}
	}
	for segment := range strings.SplitSeq(path, "/") {
		if name, ok := strings.CutPrefix(segment, "{"); ok {
			name = strings.TrimSuffix(name, "}")
			wrong["does not declare "+name+" of its path"] = !seen[inPath.String()+name]
		}
	}
	for _, r := range row.replies {
		wrong[fmt.Sprint(r.status, " has no description")] = !strings.HasSuffix(r.description, ".")
		wrong[fmt.Sprint(r.status, " has no form")] = len(r.content) == 0 && r.status != http.StatusNoContent && r.status != http.StatusNotModified
	}
	for _, status := range row.problems() {
		wrong[fmt.Sprint(status, " is no status of a problem")] = failures[status].name == ""
	}
	return wrong
}

// TestARouteThatIsNotDeclaredIsFound takes from a row that is whole one thing after
// the other.
func TestARouteThatIsNotDeclaredIsFound(t *testing.T) {
	whole := func() route {
		return route{
			pattern: "GET /things/{id}", access: reader, id: "thing", tag: "usage", summary: "A thing", description: "All of it.",
			params:  []*parameter{{name: "id", in: inPath, most: 9, example: "1", description: "which"}, {name: "n", kind: asNumber, least: 1, most: 2, example: "2", description: "how many"}},
			replies: []reply{answers(200, "The thing.", QueueAnswer{})},
		}
	}
	faults := func(row route) (list []string) {
		for what, wrong := range undeclared(&row) {
			if wrong {
				list = append(list, what)
			}
		}
		return list
	}
	if got := faults(whole()); got != nil {
		t.Errorf("a whole row: got %q", got)
	}
	for name, change := range map[string]func(*route){
		"no access":              func(r *route) { r.access = undecided },
		"no id":                  func(r *route) { r.id = "" },
		"no summary":             func(r *route) { r.summary = "" },
		"no description":         func(r *route) { r.description = "" },
		"no group":               func(r *route) { r.tag = "" },
		"no answer":              func(r *route) { r.replies = nil },
		"only a failure":         func(r *route) { r.replies[0].status = 503 },
		"an answer without form": func(r *route) { r.replies[0].content = nil },
		"an answer unexplained":  func(r *route) { r.replies[0].description = "" },
		"an undeclared wildcard": func(r *route) { r.params = r.params[1:] },
		"a parameter of no path": func(r *route) { r.pattern = "GET /things" },
		"a parameter twice":      func(r *route) { r.params = append(r.params, r.params[1]) },
		"no word about one":      func(r *route) { r.params[1].description = "" },
		"no example of one":      func(r *route) { r.params[1].example = "" },
		"a wrong example of one": func(r *route) { r.params[1].example = "3" },
		"a text without bound":   func(r *route) { r.params[0].most = 0 },
		"a word without words":   func(r *route) { r.params[1].kind = asWord },
		"an unknown failure":     func(r *route) { r.fails = []int{418} },
		"leniency with a token":  func(r *route) { r.lenient = true },
	} {
		row := whole()
		change(&row)
		if faults(row) == nil {
			t.Errorf("%s: got nothing wrong", name)
		}
	}
}
