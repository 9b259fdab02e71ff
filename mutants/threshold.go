package main

// thresholdBugs tell too often, too late, the wrong one, or not at all.
var thresholdBugs = []bug{
	{"a value that is just at a level does not reach it", "threshold/check.go",
		`if value >= t.Levels[i].Value {`,
		`if value > t.Levels[i].Value {`,
		"threshold.TestTheCheckHasNoMemory"},
	{"a mean is over the gap, too", "threshold/check.go",
		`u.Vector[odometer.MeasuredTime] + u.Vector[odometer.EstimatedTime]) // µs`,
		`u.Vector[odometer.MeasuredTime] + u.Vector[odometer.EstimatedTime] + u.Vector[odometer.GapTime])`,
		"threshold.TestTheCheckHasNoMemory"},
	{"another tenant's use is told", "threshold/index.go",
		`(h.Org == "" || h.Org == owner.Org)`,
		`true`,
		"threshold.TestOfAnotherTenantNothingIsTold"},
	{"a period has all of an entry that lies in two", "threshold/budget.go",
		`- odometer.Share(n, max(start, span.Start)-span.Start, length)`,
		``,
		"threshold.TestBudgetsAreTheFoldOfTheEntries"},
	{"a level of a budget is told by every entry", "threshold/budget.go",
		`case reached && l.Now == nil:`,
		`case reached:`,
		"threshold.TestBudgetsAreTheFoldOfTheEntries"},
	{"what a correction takes back stays told", "threshold/budget.go",
		`case !reached && below && l.Now != nil`,
		`case !reached && below && l.Now != nil && f == nil`,
		"threshold.TestBudgetsAreTheFoldOfTheEntries"},
	{"what begins to be watched is forgotten by a crash", "threshold/store.go",
		`for at, w := range f.touched {`,
		`for at, w := range map[place]*watch{} {`,
		"threshold.TestABudgetIsASumOverItsPeriod"},
	{"what was pruned before it was checked is missing in budgets", "threshold/skip.go",
		`return f.sumAll(ctx)
}

// resume`,
		`return nil
}

// resume`,
		"threshold.TestPrunedBeforeItWasChecked"},
	{"what was pruned before it was read is passed over in silence", "ledger/booked.go",
		`THEN ?2 - ?1 - (`,
		`THEN 0 * (`,
		"ledger.TestWhatWasPrunedIsCountedToReaders"},
	{"records that are only kept for others to refer to count as read", "ledger/booked.go",
		`id > ?1 AND id <= ?2 AND ` + "`+unpruned+`" + `) ELSE`,
		`id > ?1 AND id <= ?2) ELSE`,
		"ledger.TestWhatWasPrunedIsCountedToReaders"},
	{"a level that rests is told again", "threshold/fold.go",
		`case lasts && !l.open() && at.to >= l.Rests:`,
		`case lasts && !l.open():`,
		"threshold.TestWhatLastsIsTold"},
	{"a level is armed again at its own value", "threshold/fold.go",
		`case !hit && l.open() && at.value < w.rearm(limit):`,
		`case !hit && l.open():`,
		"threshold.TestWhatLastsIsTold"},
	{"a threshold of before counts what its budget had twice", "threshold/run.go",
		`w.from = record
	f.fold.begin`,
		`w.from = min(record, 0)
	f.fold.begin`,
		"threshold.TestABudgetThatBeginsBehindCountsOnce"},
	{"a server that lost the ledger decides on", "threshold/store.go",
		`if _, ours := errors.AsType[*sqlite.Error](err); err != nil && !ours && ctx.Err() == nil {`,
		`if _, ours := errors.AsType[*sqlite.Error](err); err != nil && !ours && ctx.Err() != nil {`,
		"threshold.TestOneOfTwoServersDecides"},
	{"a file that is wrong takes all thresholds away", "threshold/file.go",
		`		f.file.err = err.Error()
		return nil
	}`,
		`		f.file.err = err.Error()
	}`,
		"threshold.TestAFileOfThresholds"},
	{"what a changed threshold leaves stays open", "threshold/fold.go",
		`if l := &s.Levels[i]; l.open() && !(same && mine && is.has(l.Name)) {`,
		`if l := &s.Levels[i]; l.open() && !(same && mine) {`,
		"threshold.TestWhatAThresholdLeavesEnds"},
	{"what is open of a threshold that is gone stays open", "threshold/run.go",
		`for _, w := range gone {
		f.fold.end(w)`,
		`for _, w := range gone {
		clear(w.states)`,
		"threshold.TestWhatIsOpenOfNothingEnds"},
	{"a forecast says another day", "threshold/budget.go",
		`reaches := s.Period + ratio(gone, limit, s.Sum)`,
		`reaches := s.Period + ratio(gone, s.Sum, limit)`,
		"threshold.TestAForecastIsALevel"},
}
