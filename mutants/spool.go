package main

var spoolBugs = []bug{
	{"a batch is not synced", "spool/append.go",
		`	err = s.file.Sync()
	took := time.Since(start)`,
		`	took := time.Since(start)`,
		"spool.TestKillAtEveryCall"},
	{"the name of a new segment is not synced", "spool/append.go",
		`	if err := f.Sync(); err != nil {
		return err
	}
	return s.fs.SyncDir(s.dir)
}`,
		`	return f.Sync()
}`,
		"spool.TestKillAtEveryCall"},
	{"a file gets its name before it is synced", "spool/ack.go",
		`		if err := f.Sync(); err != nil { // before the rename: the name must never stand for half of it
			return err
		}
		if err := s.fs.Rename(temp, s.path(name)); err != nil {
			return err
		}
		return s.fs.SyncDir(s.dir)`,
		`		if err := s.fs.Rename(temp, s.path(name)); err != nil {
			return err
		}
		if err := s.fs.SyncDir(s.dir); err != nil {
			return err
		}
		return f.Sync()`,
		"spool.TestKillAtEveryCall"},
	{"a segment is used on after its sync failed", "spool/append.go",
		`		s.abandon(g)
		return fmt.Errorf("sync segment %s, which is not used any more: %w", g.name, err)`,
		`		return fmt.Errorf("sync segment %s, which is not used any more: %w", g.name, err)`,
		"spool.TestEveryCallFailsOnce"},
	{"what a failed write left is read", "spool/append.go",
		`		if cut := s.file.Truncate(g.size); cut != nil {
			s.abandon(g)
		}
`, ``,
		"spool.TestEveryCallFailsOnce"},
	{"a segment is freed with its first record's receipt", "spool/ack.go",
		`for n < len(s.index.segs)-1 && s.index.segs[n].top <= s.cursor.position {`,
		`for n < len(s.index.segs)-1 && s.index.segs[n].first <= s.cursor.position {`,
		"spool.TestNothingUnreceiptedIsFreed"},
	{"a receipt counts although it could not be stored", "spool/ack.go",
		`	if err := s.inReserve(func() error { return s.saveCursor(now) }); err != nil {
		return err
	}`,
		`	_ = s.inReserve(func() error { return s.saveCursor(now) })`,
		"spool.TestEveryCallFailsOnce"},
	{"a receipt of an earlier generation counts", "spool/ack.go",
		`(r.Generation < c.generation || r.Generation == c.generation && r.Position <= c.position)`,
		`(r.Generation == c.generation && r.Position <= c.position)`,
		"spool.TestReceipts"},
	{"a receipt for another spool counts", "spool/ack.go",
		`	case r.Spool != s.id:
		return nil
`, ``,
		"spool.TestReceipts"},
	{"a spool that was itself restored gives positions a second time", "spool/ack.go",
		`s.reoffer, s.next = o, r.Position+1`,
		`s.reoffer = o`,
		"spool.TestRestoredSpoolOffersAgainUnderNewPositions"},
	{"what must be sent again is forgotten at a restart", "spool/spool.go",
		`	if err := s.loadReoffer(); err != nil {`,
		`	if err := error(nil); err != nil {`,
		"spool.TestRestoredSpoolGoesOnOfferingAfterARestart"},
	{"checkpoints are freed with the segments that they lie in", "spool/ack.go",
		`	if s.checks.only(gone[k-1].top) {`,
		`	if false {`,
		"spool.TestReceiptedSegmentsAreKeptAndFreed"},
	{"events are merged over the hour while hours would do", "spool/coalesce.go",
		`if m.level == withinHour && odometer.Hour`,
		`if m.level == levels && odometer.Hour`,
		"spool.TestMergesWithinHoursFirst"},
	{"what was merged is there with its parts", "spool/coalesce.go",
		`m.merge(&m.outs[i], &o) {
		m.drop(i)
	}`,
		`m.merge(&m.outs[i], &o) {
		m.merge(&m.outs[i], &o)
	}`,
		"spool.TestMergingKeepsEverySum"},
	{"merging forgets that something before was lost", "spool/coalesce.go",
		`		m.holes = append(m.holes, e.first-1)
`, ``,
		"spool.TestMergingKeepsWhatIsLostLost"},
	{"merging loses an event's checkpoint", "spool/coalesce.go",
		`			o.checkpoint = older.checkpoint
`, ``,
		"spool.TestAnEventWithoutCheckpointKeepsTheOneBefore"},
	{"positions of a torn tail are given a second time", "spool/index.go",
		`				s.next = max(s.next, x.burnt)
`, ``,
		"spool.TestTornTailAtEveryByte"},
	{"an epoch that comes back after damage waits for what is lost", "spool/index.go",
		`		x.resumes[e.position] = true
`, ``,
		"spool.TestAnEpochThatComesBackAfterTheDamageResumes"},
	{"a record's checksum is not compared", "spool/codec.go",
		`return b[frameSize:n], n, sum == le.Uint32(b[4:])`,
		`return b[frameSize:n], n, sum == sum`,
		"spool.TestEveryBitFlip"},
	{"a corrupt stretch is skipped in silence", "spool/index.go",
		`	x.lost += last - first + 1
`, ``,
		"spool.TestCorruptMiddleIsNamedSkippedAndCounted"},
}
