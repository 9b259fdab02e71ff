package main

// exportBugs have what streams out of the API say less, more or something else than
// there is.
var exportBugs = []bug{
	{"entries of hours that are open are not found", "ledger/places.go",
		`err = u.openHours(add)`,
		`_ = u.openHours`,
		"ledger.TestEntriesAreFoundBeforeTheirHourIsPacked"},
	{"entries of hours that are not packed yet are not found", "ledger/places.go",
		`err = u.loosePieces(add)`,
		`_ = u.loosePieces`,
		"ledger.TestEntriesAreFoundBeforeTheirHourIsPacked"},
	{"the records of a user are those of everybody", "ledger/places.go",
		`	if u.epochs == "" { // of everything`,
		`	if u.epochs == "" || q.User != "" {`,
		"ledger.TestFewEntriesAreFoundAmongMany"},
	{"an export of entries has what is booked meanwhile", "ledger/export.go",
		` && after.compare(x.end) <= 0`, ``,
		"ledger.TestAnExportOfEntriesIsOfItsBeginning"},
	{"an export of usage leaves out the ends of its time", "ledger/export.go",
		`rows = append(u.result(), edges...)`,
		`rows = u.result()`,
		"ledger.TestAnExportHasTheEndsOfItsTime"},
	{"a time has a revision while something is booked in it", "ledger/revision.go",
		`			return 0, false`,
		`			break`,
		"ledger.TestRevisionsAreOfTheirHours"},
	{"what is booked in an hour again leaves its revision", "ledger/revision.go",
		`v.hours[hour] = v.last`,
		`v.hours[hour] = 1`,
		"ledger.TestRevisionsAreOfTheirHours"},
	{"who falls behind is told what is new, and not what he has missed", "ledger/follow.go",
		`t.from = t.list[over-1].after`,
		`_ = over`,
		"ledger.TestWhoFollowsIsToldEachOnce"},
	{"a text that begins with a minus is a formula", "api/csv.go",
		"=+-@",
		"=+@",
		"api.TestCSVIsNoFormula"},
	{"an export that fails ends as one that is whole", "api/export.go",
		`		_ = l.control.Flush() // before the connection is closed
	}
	return err`,
		`		_ = l.control.Flush() // before the connection is closed
	}
	return nil`,
		"api.TestAnExportThatFailsIsNoWhole"},
	{"answers that tell a secret are compressed", "api/pack.go",
		`	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return w`,
		`	if r.Method == http.MethodDelete {
		return w`,
		"api.TestSecretsAreNotCompressed"},
	{"an ETag does not say who sees the answer", "api/etag.go",
		`v.All(), v.User(), v.Orgs(), v.Granted())`,
		`v.All(), "", "", "")`,
		"api.TestAnAnswerThatStaysIsNotSentAgain"},
	{"an ETag does not say what is open", "api/etag.go",
		`		h.Write(b)
`, ``,
		"api.TestAnAnswerThatStaysIsNotSentAgain"},
	{"a stream has no longer than an answer that is not one", "api/export.go",
		`	l.extend()
	_, err`,
		`	_, err`,
		"api.TestAStreamOutlivesAnyAnswer"},
	{"a stream goes on when its token is revoked", "api/stream.go",
		`again, err := authorise(st.s.router.auth, reader, st.r)`,
		`again, err := st.r, error(nil)`,
		"api.TestAStreamEndsWithItsToken"},
}
