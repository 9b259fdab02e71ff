package main

var ingestBugs = []bug{
	{"deliveries are acknowledged before the commit", "ingest/ingest.go",
		`		begin := time.Now()
`, `		begin := time.Now()
		for i := range batch {
			if d := batch[i].delivery; d != nil {
				_ = d.Ack()
			}
		}
`,
		"ingest.TestALedgerThatCannotCommitLosesNothing"},
	{"receipts are sent before the commit", "ingest/ingest.go",
		`		begin := time.Now()
`, `		begin := time.Now()
		for i := range frames {
			_ = in.receipts.SendReceipt(odometer.Receipt{Agent: frames[i].Agent, Spool: frames[i].Spool, Position: frames[i].Last})
		}
`,
		"ingest.TestDeliveriesAreCommittedThenReceiptedThenAcknowledged"},
	{"what is no frame is dropped", "ingest/ingest.go",
		`	it.frames = []odometer.Frame{{Agent: d.Agent, Packed: d.Data, Err: err}}
`, ``,
		"ingest.TestWhatIsNoFrameGoesToQuarantine"},
	{"an agent may send frames in another's name", "ingest/ingest.go",
		`if err == nil && f.Agent != d.Agent {`,
		`if err == nil && f.Agent == "" {`,
		"ingest.TestWhatIsNoFrameGoesToQuarantine"},
	{"a batch that did not commit is given up", "ingest/ingest.go",
		`		if len(batch) == 0 {
			return nil
		}`,
		`		if len(batch) >= 0 {
			return nil
		}`,
		"ingest.TestALedgerThatCannotCommitLosesNothing"},
	{"a ledger that belongs to another process is tried for ever", "ingest/ingest.go",
		`		if permanent(err) {`,
		`		if permanent(err) && len(batch) == 0 {`,
		"ingest.TestAFencedLedgerEndsTheRun"},
	{"a submission is told that it is stored when it is not", "ingest/ingest.go",
		`it.answer <- answer{err: fmt.Errorf("nothing was stored: %w", errors.Join(odometer.ErrUnavailable, why))}`,
		`it.answer <- answer{results: []odometer.Result{{Outcome: odometer.Recorded}}}`,
		"ingest.TestSubmissionsAreRefusedWhileTheLedgerCannotCommit"},
}
