package main

var queueBugs = []bug{
	{"the circuit breaker never opens", "queue/breaker.go",
		`if b.state == BreakerHalfOpen || b.failures >= b.threshold {`,
		`if b.state == BreakerHalfOpen {`,
		"queue.TestBreakerOnFakeTime"},
	{"the circuit breaker never closes", "queue/breaker.go",
		`b.state, b.failures, b.next = BreakerClosed, 0, time.Time{}`,
		`b.failures, b.next = 0, time.Time{}`,
		"queue.TestBreakerOnFakeTime"},
	{"all agents try again at the same moment", "queue/conn.go",
		`return time.Duration(random() * float64(limit))`,
		`return limit`,
		"queue.TestFullJitterDoublesUpToTheCap"},
	{"the queue's acknowledgement frees the spool", "queue/sending.go",
		`	if a.err == nil {
		r.stored(a.frame)`,
		`	if a.err == nil {
		r.receipt(odometer.Receipt{Agent: r.o.Agent, Spool: r.spool.ID(), Ledger: "queue", Position: a.frame.last}, false)
		r.stored(a.frame)`,
		"queue.TestTheQueueForgets"},
	{"what the ledger misses is not sent again", "queue/sending.go",
		`case x.Ahead && !r.rewound:`,
		`case x.Ahead && r.rewound:`,
		"queue.TestAnAheadReceiptSendsTheMissingPartAgainOnce"},
	{"more frames are in flight than the window has", "queue/sending.go",
		`return r.flying < window && len(r.out) < unreceipted`,
		`return len(r.out) < unreceipted+window-window`,
		"queue.TestTheWindowAndTheUnreceiptedAreBounded"},
	{"a frame that failed is not sent again", "queue/sending.go",
		`	r.back(a.frame.from)
`, ``,
		"queue.TestBreakerOnFakeTime"},
	{"the ledger's word for another spool counts", "queue/sending.go",
		`if x.Spool != r.spool.ID() || x.Agent != r.o.Agent {`,
		`if x.Agent != r.o.Agent {`,
		"queue.TestReceiptsThatGoBack"},
	{"the cursor of the feed moves before its entries are stored", "queue/feed.go",
		`		n, err := f.publish(ctx, at, entries)
		progress`,
		`		_ = advance(ctx, "", 0, 0)
		n, err := f.publish(ctx, at, entries)
		progress`,
		"queue.TestFeedOverALedgerAndAServerThatFail"},
	{"the feed skips an entry", "queue/feed.go",
		`		held := e.ID.Number <= *hold`,
		`		held := e.ID.Number <= *hold+1`,
		"queue.TestFeedPublishesEachEntryOnceInOrder"},
	{"a feed that catches up does not see the topic lose its end again", "queue/feed.go",
		`	case noted == at.id && last <= at.seq:`,
		`	case noted == at.id && back <= at.seq:`,
		"queue.TestFeedSeesATopicLoseItsEndAgainWhileItCatchesUp"},
	{"a live message is shown in halves", "queue/live.go",
		`	if len(t.coming) == parts {
		l.bytes`,
		`	if len(t.coming) > 0 {
		l.bytes`,
		"queue.TestALiveMessageIsTakenAsAWhole"},
	{"the feed publishes again what it had published before a crash", "queue/feed.go",
		`			at.hold[id.Partition] = max(at.hold[id.Partition], id.Number)
`, `			_ = id
`,
		"queue.TestFeedAfterACrashBetweenPublishingAndAdvancing"},
	{"a topic that was lost is not fed again", "queue/feed.go",
		`		if err := f.source.Rewind(ctx); err != nil {
			return nil, fmt.Errorf("feed: rewind: %w", err)
		}
`, ``,
		"queue.TestFeedRewindsWhenTheTopicIsLost"},
	{"a delivery is acknowledged as it is received", "queue/receiver.go",
		`	if meta, err := m.Metadata(); err == nil {`,
		`	_ = m.Ack()
	if meta, err := m.Metadata(); err == nil {`,
		"queue.TestADeliveryComesAgainUntilItIsAcknowledged"},
	{"a delivery is made once only", "queue/receiver.go",
		`MaxDeliver:    -1,`,
		`MaxDeliver:    1,`,
		"queue.TestADeliveryComesAgainUntilItIsAcknowledged"},
	{"a checkpoint that is too large keeps its event from being sent", "queue/sending.go",
		`case n == 1 && records[0].Event != nil && records[0].Checkpoint != nil:`,
		`case n == 1 && records[0].Event == nil && records[0].Checkpoint == nil:`,
		"queue.TestAnEventIsSentWithoutACheckpointThatIsTooLarge"},
}
