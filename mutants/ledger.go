package main

var ledgerBugs = []bug{
	// What is booked.
	{"the watermark's sequence is not moved", "ledger/fold.go",
		`e.sequence, e.end, e.vector, e.closed = ev.Sequence, ev.Span.End, ev.Readings.End, ev.Final`,
		`e.end, e.vector, e.closed = ev.Span.End, ev.Readings.End, ev.Final`,
		"ledger.TestWatermark"},
	{"the watermark's vector is not moved", "ledger/fold.go",
		`e.sequence, e.end, e.vector, e.closed = ev.Sequence, ev.Span.End, ev.Readings.End, ev.Final`,
		`e.sequence, e.end, e.closed = ev.Sequence, ev.Span.End, ev.Final`,
		"ledger.TestWatermark"},
	{"an epoch never ends", "ledger/fold.go",
		`e.sequence, e.end, e.vector, e.closed = ev.Sequence, ev.Span.End, ev.Readings.End, ev.Final`,
		`e.sequence, e.end, e.vector = ev.Sequence, ev.Span.End, ev.Readings.End`,
		"ledger.TestWatermark"},
	{"a coalesced event is booked whole", "ledger/book.go",
		`		rest := ev.Readings.End.Sub(w.vector)`,
		`		rest := ev.Usage`,
		"ledger.TestWatermark"},
	{"the last event is counted again when it comes again", "ledger/fold.go",
		`	if ev.Sequence <= e.sequence {
		v, err := f.recordedBefore(e, ev, digest)
		if err != nil {
			return err
		}
		return f.settle`,
		`	if ev.Sequence < e.sequence {
		v, err := f.recordedBefore(e, ev, digest)
		if err != nil {
			return err
		}
		return f.settle`,
		"ledger.TestWatermark"},
	{"a changed event is taken for a repeated one", "ledger/fold.go",
		`	case found && same:`,
		`	case found || same:`,
		"ledger.TestWatermark"},
	{"digests of old events are forgotten", "ledger/fold.go",
		`		if err := f.insertDigests(e); err != nil {
			return err
		}`,
		`		e.digests = nil`,
		"ledger.TestWatermark"},
	{"what is physically impossible is booked", "ledger/book.go",
		`			if why := b.check(k.usage); why != "" {`,
		`			if why := b.check(k.usage); why == "never" {`,
		"ledger.TestWatermark"},
	{"readings need not begin at the watermark", "ledger/book.go",
		`		if start.Vector != w.vector.Vector {
			return refuse(`,
		`		if start.Vector != w.vector.Vector && w.closed {
			return refuse(`,
		"ledger.TestWatermark"},
	{"spans need not begin where the last one ended", "ledger/book.go",
		`		if ev.Span.Start-ev.Span.Step != w.end {`,
		`		if ev.Span.Start-ev.Span.Step > w.end+odometer.DayMicros {`,
		"ledger.TestWatermark"},
	{"an event after a hole is booked at once", "ledger/fold.go",
		`		if !explained {
			return f.hold(w, index, r, e, digest, reasonHole)
		}`,
		`		_ = explained`,
		"ledger.TestWatermark"},
	{"a hole is given up at the next tick", "ledger/tick.go",
		`h.reason == reasonHole && now >= h.since+maxHold:`,
		`h.reason == reasonHole && now >= h.since:`,
		"ledger.TestWatermark"},
	{"what is recovered is booked as if it had been measured", "ledger/book.go",
		`				kind: odometer.KindRecovered, span:`,
		`				kind: odometer.KindUsage, span:`,
		"ledger.TestWatermark"},
	{"an event from the future is booked", "ledger/book.go",
		`	case ev.Span.End > at+maxAhead:`,
		`	case ev.Span.End > at+1000*maxAhead:`,
		"ledger.TestWatermark"},
	{"an event is released from quarantine twice", "ledger/quarantine.go",
		`	case released != 0:`,
		`	case released < 0:`,
		"ledger.TestRelease"},
	{"two events of version 1.0 may cover one time", "ledger/coverage.go",
		`		case start != span.Start || end != span.End:`,
		`		case start > span.Start && end < span.End:`,
		"ledger.TestVersion10"},
	{"a period of version 1.0 is not remembered", "ledger/coverage.go",
		`AND start_us < ? AND end_us > ? ORDER BY`,
		`AND start_us < ? AND end_us > ? AND end_us < start_us ORDER BY`,
		"ledger.TestVersion10"},

	// What is kept beside it.
	{"what goes to quarantine is dropped", "ledger/fold.go",
		`	if v.outcome == odometer.Quarantined {
		again, err := f.quarantine(w, index, r, v)`,
		`	if v.outcome == odometer.Quarantined && v.reason == reasonConflict {
		again, err := f.quarantine(w, index, r, v)`,
		"ledger.TestFramesThatAreNoFrames"},
	{"a poisoned event is put in quarantine again each time it comes", "ledger/quarantine.go",
		`	if n > 0 {
		return true, nil
	}`,
		`	_ = n`,
		"ledger.TestWatermark"},
	{"a held event is dropped when it is let go", "ledger/held.go",
		`		if err := f.book(w, e, ev, v.bookings, digest, &h.at); err != nil {
			return err
		}`,
		`		_ = ev`,
		"ledger.TestWatermark"},
	{"received events are not counted", "ledger/fold.go",
		`	f.count(w.rec.partition, countReceived, 1)
`, ``,
		"ledger.TestWatermark"},
	{"the cache keeps what a failed commit had changed", "ledger/ledger.go",
		`		l.fold.forget()
`, ``,
		"ledger.TestACommitThatFailsLeavesNothing"},
	{"two processes write one ledger", "ledger/ledger.go",
		`	if token != l.token {`,
		`	if token == "" {`,
		"ledger.TestASecondWriterFencesTheFirst"},
	{"a commit is not flushed to the disk", "ledger/ledger.go",
		`_pragma=synchronous(FULL)`,
		`_pragma=synchronous(NORMAL)`,
		"ledger.TestCommitsAreFlushed"},

	// Receipts.
	{"a frame that lies beyond a hole is taken", "ledger/commit.go",
		`if fr.First > committed+1 && fr.Err == nil {`,
		`if fr.First > committed+2 && fr.Err == nil {`,
		"ledger.TestReceipts"},
	{"a receipt reaches beyond what is committed", "ledger/commit.go",
		`f.advance(k, fr.Last, now)`,
		`f.advance(k, fr.Last+1, now)`,
		"ledger.TestReceipts"},
	{"a receipt goes back with an old frame", "ledger/tables.go",
		`	f.spools[k] = max(f.spools[k], position)`,
		`	f.spools[k] = position`,
		"ledger.TestReceipts"},
	{"a restored ledger does not say so", "ledger/ledger.go",
		`SET value = CAST(CAST(value AS INTEGER) + 1 AS TEXT)`,
		`SET value = CAST(CAST(value AS INTEGER) + 0 AS TEXT)`,
		"ledger.TestReceipts"},

	// Hours and owners.
	{"a piece of an hour that comes late is lost", "ledger/fold.go",
		`		return f.insertHour(e, &b, "late")`,
		`		return nil`,
		"audit.TestRandomStories"},
	{"sealing a silent hour misses it", "ledger/tick.go",
		`			if err := f.insertHour(e, &e.open, "sealed"); err != nil {
				return err
			}`,
		`			_ = e.open`,
		"ledger.TestUsageIsCutToTheUnit"},
	{"a new owner within the hour pays for the old one", "ledger/fold.go",
		`	case b.hour == o.hour && b.owner == o.owner:`,
		`	case b.hour == o.hour:`,
		"ledger.TestOwnersWithinAnHour"},
	{"compacting a day forgets what was compacted before", "ledger/days.go",
		`		if !d[hour].sums.Add(sums) {
			return fmt.Errorf("sum overflows: %w", odometer.ErrInvalid)
		}
		d[hour].recovered += recovered
		return nil`,
		`		return nil`,
		"audit.TestRandomStories"},
	{"an owner's day forgets what was compacted before", "ledger/days.go",
		`		if !o.sums.Add(sums) {
			return fmt.Errorf("sum overflows: %w", odometer.ErrInvalid)
		}
	}
	_, err = f.exec(`,
		`		_ = sums
	}
	_, err = f.exec(`,
		"audit.TestRandomStories"},
	{"recovered time is lost in compaction", "ledger/days.go",
		`		h.recovered += recovered
`, ``,
		"audit.TestRandomStories"},

	// The journal.
	{"the hash leaves out when a record was committed", "ledger/journal.go",
		`	integer(uint64(r.at))
	text([]byte(r.kind))`,
		`	text([]byte(r.kind))`,
		"audit.TestCleanLedger"},
	{"the hash leaves out what was decided", "ledger/journal.go",
		`	text(r.result)
`, ``,
		"audit.TestCleanLedger"},
	{"a record is not chained to the one before", "ledger/fold.go",
		`	h.position, h.hash = w.rec.position, w.rec.hash`,
		`	h.position = w.rec.position`,
		"audit.TestCleanLedger"},
	{"an entry number is given twice", "ledger/fold.go",
		`	rec.firstEntry = h.entry + 1`,
		`	rec.firstEntry = max(h.entry, 1)`,
		"audit.TestCleanLedger"},

	{"the checksum of a record of the journal is not compared", "ledger/journal.go",
		`	if sum != int64(r.checksum()) {`,
		`	if sum == noChecksum {`,
		"ledger.TestADamagedRecordIsNotRead"},
	{"the checksum leaves out the span that queries go by", "ledger/journal.go",
		`range [...]uint64{r.first, r.last, uint64(r.minUS), uint64(r.maxUS), r.firstEntry, r.entries} {`,
		`range [...]uint64{r.first, r.last, r.firstEntry, r.entries} {`,
		"audit.TestCleanLedger"},

	// What is read.
	{"open hours are left out of answers", "ledger/query.go",
		`	if err := u.open(whole, end); err != nil {
		return err
	}
`, ``,
		"ledger.TestUsageIsCutToTheUnit"},
	{"an hour that is cut by the question counts whole", "ledger/query.go",
		`				part := ev.Usage.Between(ev.Span, max(a, from), min(odometer.Hour(a)+odometer.HourMicros, to))`,
		`				part := ev.Usage`,
		"ledger.TestUsageIsCutToTheUnit"},
	{"a page of entries leaves out the first of the next", "ledger/query.go",
		`if r.id == id && i < index {`,
		`if r.id == id && i <= index {`,
		"ledger.TestEntriesArePaged"},
	{"the feed skips a record", "ledger/feed.go",
		`p.Record, p.Entry = r.position, r.firstEntry+r.entries-1`,
		`p.Record, p.Entry = r.position+1, r.firstEntry+r.entries-1`,
		"ledger.TestFeed"},
	{"an agent that lost its disk gets an old checkpoint", "ledger/commit.go",
		`		if !ok || p.position > was.position ||`,
		`		if !ok || p.position < was.position ||`,
		"ledger.TestCheckpointsOfALostDisk"},
}
