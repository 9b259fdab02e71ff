package main

// alertBugs publish violations twice or never, or show and change what is another's.
var alertBugs = []bug{
	{"what a restored ledger finds again is never published", "queue/violations.go",
		`	case len(have) == 0:
		return false, nil`,
		`	case len(have) == 0:
		return true, nil`,
		"queue.TestViolationsOfWhatTheStreamDoesNotHave"},
	{"changes of a restored ledger pass for those that were published", "queue/violations.go",
		`return have[0].ChangeID() == last.Header.Get(jetstream.MsgIDHeader), nil`,
		`return true, nil`,
		"queue.TestViolationsOfWhatTheStreamDoesNotHave"},
	{"how far the stream is ahead is not noted", "queue/violations.go",
		`config.Metadata[aheadKey] = strconv.FormatInt(int64(ahead), 10)`,
		`config.Metadata[aheadKey] = "0"`,
		"queue.TestViolationsOfWhatTheStreamDoesNotHave"},
	{"a consumer of one organisation reads what others watch on its machines", "queue/reader.go",
		`{ViolationStream, violationPrefix, false}`,
		`{ViolationStream, violationPrefix, true}`,
		"queue.TestWhoReadsViolations"},
	{"every member keeps the thresholds of an organisation", "access.go",
		`c.RoleIn(h.Org).Gives(ManageThresholds)`,
		`c.RoleIn(h.Org).Gives(SeeOrganisation)`,
		"odometer.TestWhoMayManageWhat"},
	{"a token that only reads changes thresholds", "access.go",
		`	case !c.May(ScopeAccount):
		return false`,
		`	case !c.May(ScopeRead):
		return false`,
		"odometer.TestWhoMayManageWhat"},
	{"violations are listed whose usage is not seen", "api/violations.go",
		`To: p.time("to", 0), View: new(seen(r)),`,
		`To: p.time("to", 0),`,
		"api.TestForeignIsAbsent"},
	{"who is deleted sees what he saw", "account/view.go",
		`		if known {
			return`,
		`		if known && h.Org == "-" {
			return`,
		"account.TestWhatAHolderSees"},
	{"the interval of an agent is taken for the server's", "cmd/odometer/running.go",
		`				if interval == 0 {
`, `				if interval > 0 {
`,
		"cmd/odometer.TestWhoRunsAndWhenMoreIsDue"},
	{"machines with short intervals seem to be silent", "cmd/odometer/running.go",
		`if now.Sub(s.at) >= s.interval/2 {`,
		`if now.Sub(s.at) >= runningEvery {`,
		"cmd/odometer.TestWhoRunsAndWhenMoreIsDue"},
	{"after a start all are silent that were not heard yet", "cmd/odometer/running.go",
		`		m.Interval = 0
`, `		m.Interval += 0
`,
		"cmd/odometer.TestWhoRunsAndWhenMoreIsDue"},
	{"what is open ends where it is too early to tell", "threshold/silence.go",
		`			heard[w][string(m.Instance)] = true
`, `			heard[w][string(m.Instance)] = m.Interval > 0
`,
		"threshold.TestSilenceIsTold"},
	{"an agent's interval is forgotten by a restart", "account/store.go",
		`(a.heard.Sub(a.saved) >= time.Minute || a.interval != a.intervalSaved)`,
		`a.heard.Sub(a.saved) >= time.Minute`,
		"account.TestAnAgentsInterval"},
	{"agents do not say their interval", "cmd/odometer/live.go",
		`Interval: h.interval.Microseconds(), Owners`,
		`Owners`,
		"cmd/odometer.TestAnAgentTellsItsInterval"},
}
