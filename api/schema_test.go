package api

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"example.org/odometer"
)

// schema is a JSON Schema, draft 2020-12.
type schema = map[string]any

// schemas gathers the components that a document needs: from Go types by
// reflection over their json tags, with their comments as descriptions, and from
// the shapes that no Go type has.
//
// A field is required unless it has omitempty, and null is among its values where
// it is a pointer that has not. A tag of the form
//
//	schema:"keyword=value,…"
//
// adds keywords: minimum, maximum, minLength, maxLength, pattern, and enum, whose
// values | separates; as=X has X in place of the type, items=X in place of the
// elements' type, and nullable adds null.
type schemas struct {
	components schema
	types      map[string]reflect.Type // of the components that come from Go types
}

// scalars are the types with a schema of their own.
var scalars = map[reflect.Type]schema{
	reflect.TypeFor[time.Time]():           {"type": "string", "format": "date-time"},
	reflect.TypeFor[json.RawMessage]():     {},
	reflect.TypeFor[odometer.Sum]():        refer("Integer"),
	reflect.TypeFor[Row]():                 refer("UsageRow"),
	reflect.TypeFor[odometer.TokenID]():    refer("TokenID"),
	reflect.TypeFor[[]odometer.Scope]():    refer("Scopes"),
	reflect.TypeFor[odometer.InstanceID](): refer("Identifier"),
	reflect.TypeFor[odometer.UserID]():     refer("Identifier"),
	reflect.TypeFor[odometer.OrgID]():      refer("Identifier"),
	reflect.TypeFor[odometer.AgentID]():    refer("Identifier"),
	reflect.TypeFor[odometer.EntryID]():    {"type": "string", "pattern": "^[0-9]+-[0-9]+$"},
	reflect.TypeFor[map[string]any]():      {"type": "object"},
}

// open are the types whose constants are not all the values that there may be.
var open = map[reflect.Type]bool{
	reflect.TypeFor[odometer.ChangeKind](): true, reflect.TypeFor[odometer.DiskKind](): true,
	reflect.TypeFor[odometer.NICKind](): true, reflect.TypeFor[odometer.GPUKind](): true,
}

// members are the members whose schema depends on the type that they are in.
var members = map[string]schema{
	"Instance.state":             refer("InstanceState"),
	"InstanceAnswer.state":       refer("InstanceState"),
	"Problem.code":               {"type": "string", "enum": codes("")},
	"Problem.type":               {"type": "string", "format": "uri", "enum": codes(problemType)},
	"FieldError.in":              {"type": "string", "enum": []any{"query", "header", "path", "body"}},
	"Description.attributes":     nullable(schema{"type": "object", "additionalProperties": schema{"type": "string"}}),
	"SubmitResult.id":            {"type": "string", "description": "of the event, empty where it could not be read"},
	"CPU.usage_pct":              {"type": []any{"number", "null"}, "minimum": 0, "maximum": 100},
	"QuarantineItem.event":       {},
	"QuarantineItem.instance_id": {"type": "string"}, // as it was received, whatever it was
}

// componentNames are those of types whose own name, without Answer, is another's.
var componentNames = map[reflect.Type]string{
	reflect.TypeFor[InstanceAnswer](): "InstanceDetail",

	reflect.TypeFor[odometer.DescribedDisk]():   "InstanceDisk",
	reflect.TypeFor[odometer.DescribedNIC]():    "InstanceInterface",
	reflect.TypeFor[odometer.DescribedDevice](): "InstanceGPU",
}

func codes(prefix string) []any {
	var list []any
	for _, k := range kinds {
		list = append(list, prefix+k.code)
	}
	return list
}

func words[T ~string](list []T) []any {
	var all []any
	for _, w := range list {
		all = append(all, string(w))
	}
	return all
}

func refer(component string) schema { return schema{"$ref": "#/components/schemas/" + component} }

// nullable returns s with null among its values.
func nullable(s schema) schema {
	switch t := s["type"].(type) {
	case string:
		s = clone(s)
		s["type"] = []any{t, "null"}
		if e, ok := s["enum"].([]any); ok {
			s["enum"] = append(slices.Clone(e), nil)
		}
		return s
	case []any:
		return s
	}
	return schema{"anyOf": []any{s, schema{"type": "null"}}}
}

func clone(s schema) schema {
	c := make(schema, len(s))
	for k, v := range s {
		c[k] = v
	}
	return c
}

// of returns the schema of a type, and sees to it that the components have what
// it refers to.
func (g *schemas) of(t reflect.Type) schema {
	if s, ok := scalars[t]; ok {
		g.need(s)
		return s
	}
	switch t.Kind() {
	case reflect.Pointer:
		return nullable(g.of(t.Elem()))
	case reflect.Slice, reflect.Array:
		return schema{"type": "array", "items": g.of(t.Elem())}
	case reflect.Map:
		return schema{"type": "object", "additionalProperties": g.of(t.Elem())}
	case reflect.Interface:
		return schema{}
	case reflect.Bool:
		return schema{"type": "boolean"}
	case reflect.String:
		return g.text(t)
	case reflect.Float32, reflect.Float64:
		return schema{"type": "number"}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return schema{"type": "integer"}
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return schema{"type": "integer", "minimum": 0}
	case reflect.Struct:
		name := componentOf(t)
		if had, ok := g.types[name]; ok && had != t {
			panic(fmt.Sprintf("%v and %v are both the component %s: name one in componentNames", had, t, name))
		}
		if g.types[name] == nil {
			g.types[name] = t
			g.components[name] = schema{} // it may refer to itself
			g.components[name] = g.object(t)
		}
		return refer(name)
	}
	panic(fmt.Sprintf("no schema of %v", t))
}

// text returns the schema of a type of text: a component where it has constants,
// which are then all its values unless it is open.
func (g *schemas) text(t reflect.Type) schema {
	name := t.PkgPath() + "." + t.Name()
	values := sources().constants[name]
	s := schema{"type": "string"}
	if values == nil {
		return s
	}
	if open[t] {
		s["examples"] = values
	} else {
		s["enum"] = values
	}
	about := []string{sources().comments[name]}
	for _, v := range values {
		if says := sources().comments[name+"="+v.(string)]; says != "" {
			about = append(about, v.(string)+": "+says+".")
		}
	}
	s["description"] = strings.Join(about, " ")
	g.components[t.Name()] = s
	return refer(t.Name())
}

// componentOf names a struct's component.
func componentOf(t reflect.Type) string {
	if name, ok := componentNames[t]; ok {
		return name
	}
	return strings.TrimSuffix(t.Name(), "Answer")
}

// need adds the shapes that s refers to.
func (g *schemas) need(s any) {
	switch s := s.(type) {
	case schema:
		if ref, ok := s["$ref"].(string); ok {
			name := strings.TrimPrefix(ref, "#/components/schemas/")
			if g.components[name] == nil {
				g.shape(name)
			}
		}
		for _, v := range s {
			g.need(v)
		}
	case []any:
		for _, v := range s {
			g.need(v)
		}
	}
}

// shape returns the schema of a shape, or of a Go type that is a component already.
func (g *schemas) shape(name string) schema {
	if g.components[name] == nil {
		s, ok := shapes()[name]
		if !ok {
			panic("no shape " + name)
		}
		g.components[name] = s
		g.need(s)
	}
	return refer(name)
}

// object returns the schema of a struct as encoding/json writes it.
func (g *schemas) object(t reflect.Type) schema {
	properties, required := schema{}, []any{}
	g.fields(t, t.Name(), properties, &required, false)
	s := schema{"type": "object", "properties": properties, "additionalProperties": false}
	if len(required) > 0 {
		s["required"] = sorted(required)
	}
	if about := sources().comments[t.PkgPath()+"."+t.Name()]; about != "" {
		s["description"] = about
	}
	return s
}

func (g *schemas) fields(t reflect.Type, in string, properties schema, required *[]any, optional bool) {
	// What is embedded comes first, so that what hides it comes after.
	for f := range embeddedFirst(t) {
		tag := f.Tag.Get("json")
		if f.Anonymous && tag == "" {
			inner, pointer := f.Type, f.Type.Kind() == reflect.Pointer
			if pointer {
				inner = inner.Elem()
			}
			g.fields(inner, in, properties, required, optional || pointer)
			continue
		}
		name, options, _ := strings.Cut(tag, ",")
		if name == "-" || !f.IsExported() {
			continue
		}
		if name == "" {
			name = f.Name
		}
		omitted := strings.Contains(options, "omitempty") || strings.Contains(options, "omitzero")
		s := g.field(t, f, in, name, omitted)
		properties[name] = s
		*required = slices.DeleteFunc(*required, func(have any) bool { return have == name })
		if !omitted && !optional {
			*required = append(*required, name)
		}
	}
}

// sorted orders the names of members.
func sorted(names []any) []any {
	slices.SortFunc(names, func(a, b any) int { return strings.Compare(a.(string), b.(string)) })
	return names
}

func embeddedFirst(t reflect.Type) func(func(reflect.StructField) bool) {
	return func(yield func(reflect.StructField) bool) {
		for _, embedded := range []bool{true, false} {
			for i := range t.NumField() {
				if f := t.Field(i); f.Anonymous == embedded && !yield(f) {
					return
				}
			}
		}
	}
}

// field returns the schema of one field.
func (g *schemas) field(t reflect.Type, f reflect.StructField, in, name string, omitted bool) schema {
	s, own := members[in+"."+name]
	if !own {
		s, own = members[t.Name()+"."+name]
	}
	if own {
		g.need(s)
	} else {
		ft := f.Type
		if omitted && ft.Kind() == reflect.Pointer {
			ft = ft.Elem()
		}
		s = g.of(ft)
	}
	s = g.tagged(clone(s), f.Tag.Get("schema"))
	if about := sources().comments[t.PkgPath()+"."+t.Name()+"."+f.Name]; about != "" {
		s["description"] = about
	}
	return s
}

// tagged adds the keywords of a schema tag.
func (g *schemas) tagged(s schema, tag string) schema {
	if tag == "" {
		return s
	}
	for item := range strings.SplitSeq(tag, ",") {
		keyword, value, _ := strings.Cut(item, "=")
		switch keyword {
		case "as":
			s = g.shape(value)
		case "items":
			s["items"] = g.shape(value)
		case "nullable":
			s = nullable(s)
		case "minimum", "maximum", "minLength", "maxLength":
			n, err := strconv.Atoi(value)
			if err != nil {
				panic(err)
			}
			s[keyword] = n
		case "enum":
			s[keyword] = words(strings.Split(value, "|"))
		case "pattern":
			s[keyword] = value
		default:
			panic("schema tag " + tag + ": no such keyword")
		}
	}
	return s
}

// source is what the Go sources of this package and of the vocabulary say.
type source struct {
	comments  map[string]string // by package.Type, package.Type.Field and package.Type=constant
	constants map[string][]any  // of types of text, by package.Type, in their order and without ""
}

var sources = sync.OnceValue(func() source {
	s := source{make(map[string]string), make(map[string][]any)}
	for path, dir := range map[string]string{
		reflect.TypeFor[Row]().PkgPath(): ".", reflect.TypeFor[odometer.Result]().PkgPath(): "..",
	} {
		files, err := fs.Glob(os.DirFS(dir), "*.go")
		if err != nil {
			panic(err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			parsed, err := parser.ParseFile(token.NewFileSet(), dir+"/"+file, nil, parser.ParseComments|parser.SkipObjectResolution)
			if err != nil {
				panic(err)
			}
			for _, decl := range parsed.Decls {
				if g, ok := decl.(*ast.GenDecl); ok {
					s.read(path+".", g)
				}
			}
		}
	}
	return s
})

func (s source) read(prefix string, g *ast.GenDecl) {
	for _, spec := range g.Specs {
		switch spec := spec.(type) {
		case *ast.ValueSpec:
			of, ok := spec.Type.(*ast.Ident)
			if g.Tok != token.CONST || !ok || len(spec.Values) != 1 {
				continue
			}
			if lit, ok := spec.Values[0].(*ast.BasicLit); ok && lit.Kind == token.STRING && lit.Value != `""` {
				value, _ := strconv.Unquote(lit.Value)
				s.constants[prefix+of.Name] = append(s.constants[prefix+of.Name], value)
				if spec.Comment != nil {
					s.comments[prefix+of.Name+"="+value] = plain(spec.Names[0].Name, spec.Comment.Text())
				}
			}
		case *ast.TypeSpec:
			doc := g.Doc
			if spec.Doc != nil {
				doc = spec.Doc
			}
			name := prefix + spec.Name.Name
			if about := plain(spec.Name.Name, doc.Text()); about != "" {
				s.comments[name] = strings.ToUpper(about[:1]) + about[1:]
			}
			st, ok := spec.Type.(*ast.StructType)
			if !ok {
				continue
			}
			for _, f := range st.Fields.List {
				about := f.Doc.Text()
				if f.Comment != nil {
					about = f.Comment.Text()
				}
				for _, n := range f.Names {
					s.comments[name+"."+n.Name] = plain(n.Name, about)
				}
			}
		}
	}
}

var (
	goLink = regexp.MustCompile(`\[\*?([A-Za-z.]+)\]`)
	spaces = regexp.MustCompile(`[ \t]*\n[ \t]*`)
)

// plain returns a Go comment as a text about what it describes: without its name
// at the beginning, on one line for each paragraph.
func plain(name, comment string) string {
	var paragraphs []string
	for p := range strings.SplitSeq(strings.TrimSpace(comment), "\n\n") {
		paragraphs = append(paragraphs, spaces.ReplaceAllString(strings.TrimSpace(p), " "))
	}
	text := strings.Join(paragraphs, "\n\n")
	for _, begins := range []string{name + " is ", name + " are ", name + " has ", name + " "} {
		if rest, ok := strings.CutPrefix(text, begins); ok {
			text = rest
			break
		}
	}
	return goLink.ReplaceAllString(text, "$1")
}
