package main

// usageBugs answer questions about usage wrongly: days of a place, shares of an
// hour, orders, and cursors that lead somebody on who did not begin.
var usageBugs = []bug{
	{"an hour that a midnight cuts counts whole for the day before", "ledger/zone.go",
		`at := u.nextEdge(start); at < end;`,
		`at := u.nextEdge(start); at < start;`,
		"ledger.TestAnHourThatAMidnightCutsIsShared"},
	{"March ends with the whole hour that its last midnight cuts", "ledger/zone.go",
		`if at >= u.From && edge <= u.To &&`,
		`if at >= u.From &&`,
		"ledger.TestAnHourThatAMidnightCutsIsShared"},
	{"a row with a part of an hour is not marked", "ledger/zone.go",
		`	row.Apportioned = true
`, ``,
		"ledger.TestAnHourThatAMidnightCutsIsShared"},
	{"a day of UTC that a place's midnight cuts counts whole", "ledger/zone.go",
		`		whole = u.rowStart(day) == u.rowStart(day+odometer.DayMicros-1)`,
		`		whole = true`,
		"ledger.TestAnHourThatAMidnightCutsIsShared"},
	{"an answer that is too long is cut off", "ledger/query.go",
		`	if u.full {
		return nil, fmt`,
		`	if u.full && false {
		return nil, fmt`,
		"ledger.TestTooManyRowsAreRefused"},
	{"what was recovered is lost where a row is shared", "calendar.go",
		`		part.Totals[q].AddSum(recovered)
`, ``,
		"odometer.TestPartsOfARowAddUp"},
	{"a clock that is put back over midnight begins the day before once more", "calendar.go",
		`next := c.begins(y, m, d+1); next <= us {`,
		`next := c.begins(y, m, d+1); next <= us && false {`,
		"odometer.TestDaysAndMonthsOfAPlace"},
	{"a day whose midnight is left out begins an hour later", "calendar.go",
		`		return until
`, `		return until.Add(time.Hour)
`,
		"odometer.TestDaysTile"},
	{"a cursor leads another user on", "api/cursor.go",
		`{c.pattern, string(c.caller.User), string(c.caller.Org), position}`,
		`{c.pattern, position}`,
		"api.TestACursorIsOfOneQuestionAndOneCaller"},
	{"a cursor leads on with another filter", "api/cursor.go",
		`			add(q.values[i].text)
`, ``,
		"api.TestACursorIsOfOneQuestionAndOneCaller"},
	{"a cursor of anybody's making is taken", "api/cursor.go",
		`hmac.Equal(b[:cursorSum], c.sum(q, position))`,
		`true`,
		"api.TestACursorIsOfOneQuestionAndOneCaller"},
	{"what is not known sorts first", "api/sort.go",
		`				if x.unknown {
					return 1`,
		`				if y.unknown {
					return 1`,
		"api.TestRowsAreSorted"},
	{"who sorts instances sees everybody's", "api/chosen.go",
		`		known, err := s.Instances.Instances(r.Context(), seen(r), q)
		if err != nil {
			return nil, nil, fmt.Errorf("list instances: %w", err)
		}
		if take(known)`,
		`		known, err := s.Instances.Instances(r.Context(), odometer.Everything, q)
		if err != nil {
			return nil, nil, fmt.Errorf("list instances: %w", err)
		}
		if take(known)`,
		"api.TestForeignIsAbsent"},
	{"who asks for the metrics of one instance sees somebody else's", "api/current.go",
		`s.Instances.Instance(r.Context(), seen(r), id)`,
		`s.Instances.Instance(r.Context(), odometer.Everything, id)`,
		"api.TestForeignIsAbsent"},
}
