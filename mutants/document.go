package main

// documentBugs have the API take or answer what its document does not say.
var documentBugs = []bug{
	{"a parameter that nobody declared passes", "api/params.go",
		`	q.unknown(given)
	return q`,
		`	return q`,
		"api.TestBadParametersAreRefusedByName"},
	{"the first of two parameters counts", "api/params.go",
		`q.fail(p.name, "is given %d times", len(list))`,
		`v.text = list[0]`,
		"api.TestBadParametersAreRefusedByName"},
	{"a number may be less than its least", "api/params.go",
		`n >= p.least && n <= p.most`,
		`n <= p.most`,
		"api.TestBadParametersAreRefusedByName"},
	{"a text may have any length", "api/params.go",
		`int64(len(v.text)) > p.most {`,
		`p.most < 0 {`,
		"api.TestBadParametersAreRefusedByName"},
	{"what is wrong with a parameter is left to the handler", "api/router.go",
		`		if row.takes == nil {
			err = q.done()`,
		`		if row.takes != nil {
			err = q.done()`,
		"api.TestBadParametersAreRefusedByName"},
	{"the document leaves out that a scope may be missing", "api/declare.go",
		`if row.access.scope() != "" {`,
		`if row.access.scope() == "" {`,
		"api.TestOpenAPIIsCurrent"},
	{"the page allows every style", "api/openapi.go",
		`style-src '" + hashOf(style) + "'; base-uri`,
		`style-src 'unsafe-inline'; base-uri`,
		"api.TestDocsWorkUnderTheirPolicy"},
	{"an answer of a status that the document has not passes", "api/apicheck/apicheck.go",
		`return errors.New("the status is not there")`,
		`return nil`,
		"api/apicheck.TestWhatIsNotInTheDocumentIsFound"},
	{"a request that the document refuses passes", "api/apicheck/apicheck.go",
		`errs = append(errs, c.request(x, op, at, path))`,
		`_ = path`,
		"api/apicheck.TestWhatIsNotInTheDocumentIsFound"},
}
