package main

// ownershipBugs charge the wrong account.
var ownershipBugs = []bug{
	{"the owner that the event names is charged, whoever is recorded", "ledger/charge.go",
		`	if !e.ownersKnown && f.someOwned {`,
		`	if !e.ownersKnown && false {`,
		"ledger.TestWhoIsCharged"},
	{"an epoch that is cached does not hear of a sale", "ledger/ownership.go",
		`			e.owners, e.ownersKnown = h, true`,
		`			_ = h`,
		"ledger.TestWhoIsCharged"},
	{"who owned what is forgotten at a restart", "ledger/tables.go",
		`Scan(&f.someOwned); err != nil {`,
		`Scan(new(bool)); err != nil {`,
		"ledger.TestWhoIsCharged"},
	{"a sale holds a microsecond too long", "ownership.go",
		`		case o.Until <= us:
			return -1`,
		`		case o.Until < us:
			return -1`,
		"ledger.TestHistory"},
	{"a sale over another one begins where that began", "ledger/history.go",
		`			before.Until = min(p.Until, o.From)
			add(before)`,
		`			_ = before`,
		"ledger.TestHistory"},
	{"what follows a sale that ends is lost", "ledger/history.go",
		`			after.From = max(p.From, o.Until)
			add(after)`,
		`			_ = after`,
		"ledger.TestHistory"},
	{"the parts of an event have not all of it", "ledger/charge.go",
		`	p.usage = k.usage.Between(k.span, from, until)`,
		`	p.usage = k.usage.Between(k.span, from, until-1)`,
		"ledger.TestPartsTellTheWhole"},
	{"each part of an event ends its epoch", "ledger/fold.go",
		`entry.Event.Final = ev.Final && !k.more`,
		`entry.Event.Final = ev.Final`,
		"ledger.TestPartsTellTheWhole"},
	{"an event that is booked as it is forgets who is charged", "ledger/journal.go",
		`						e.Event.Owner = c.owner()`,
		`						_ = c`,
		"ledger.TestOwnersAddUp"},
	{"what is folded again is charged anew", "ledger/rebuild.go",
		`	f.given = append(charges{}, res.Owners...) // not nil`,
		`	f.given = nil`,
		"ledger.TestWhatIsPrunedSaysWhomItCharged"},
	{"what was used before a sale stays where it was", "ledger/ownership.go",
		`		a.Moves = append(a.Moves, m...)`,
		`		_ = m`,
		"ledger.TestWhoIsCharged"},
	{"only whole hours are moved", "ledger/moves.go",
		`		for _, edge := range append(edges, to) {`,
		`		for _, edge := range []int64{to} {`,
		"ledger.TestWhoIsCharged"},
	{"the hour in which a sale ends is left as it is", "ledger/moves.go",
		`		until = ceilHour(o.Until)`,
		`		until = odometer.Hour(o.Until)`,
		"ledger.TestWhoIsCharged"},
	{"what is moved is put into an account and taken out of none", "ledger/moves.go",
		`		out := odometer.Usage{Known: usage.Known}.Sub(usage)`,
		`		out := odometer.Usage{Known: usage.Known}`,
		"ledger.TestWhoIsCharged"},
	{"recovered time is moved as if it had been measured", "ledger/moves.go",
		`		if recovered != 0 { // a`,
		`		if false { // a`,
		"ledger.TestOwnersAddUp"},
	{"the new owner is not found by questions about him", "ledger/moves.go",
		`	if err := f.own(e, owner); err != nil {
		return err
	}
	return f.insertHour(e, &b, "moved")`,
		`	return f.insertHour(e, &b, "moved")`,
		"ledger.TestOwnersAddUp"},
	{"what is reversed after a sale is to the good of who had it first", "ledger/moves.go",
		`		if owner != ev.Owner {
			m :=`,
		`		if owner != ev.Owner && false {
			m :=`,
		"ledger.TestWhoIsCharged"},
	{"a dry assignment is made", "ledger/ownership.go",
		`		if err != nil || dry {
			return err
		}`,
		`		if err != nil {
			return err
		}`,
		"ledger.TestADryAssignmentChangesNothing"},
	{"a later sale is overwritten without a word", "ledger/ownership.go",
		`			refused = h.endsAfter(o.From)`,
		`			refused = nil`,
		"ledger.TestAssignRefuses"},
	{"a correction names the other owner", "ledger/moves.go",
		`"moved from another owner: "+d.Cause`,
		`"moved from "+string(from.User)+": "+d.Cause`,
		"cmd/odometer.TestScript"},
	{"the audit does not look who has what", "audit/ownership.go",
		`		if t.owner == ev.Owner {
			return nil
		}`,
		`		if true {
			return nil
		}`,
		"audit.TestCorruption"},
	{"the audit takes any owner for the one that is named", "audit/ownership.go",
		`	if e.Event.Owner != payer(src.ev) && !`,
		`	if false && !`,
		"audit.TestCorruption"},
	{"somebody is shown whose an instance was before it was his", "api/ownership.go",
		`		if view.Sees(list[i].Owner) {`,
		`		if view.Sees(list[i].Owner) || true {`,
		"api.TestForeignOwnershipIsNotTold"},
}
