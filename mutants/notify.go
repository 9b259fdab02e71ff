package main

// notifyBugs tell wrongly, twice, not at all or out of order, or lead inside.
var notifyBugs = []bug{
	{"what a name leads to is not looked at when it is connected to", "internal/outward/outward.go",
		`Timeout: dialWithin, Control: o.Guard.Control, Resolver`,
		`Timeout: dialWithin, Resolver`,
		"internal/outward.TestDNSRebinding"},
	{"a redirect is followed", "internal/outward/outward.go",
		`error { return http.ErrUseLastResponse },`,
		`error { return nil },`,
		"internal/outward.TestNoRedirectAndNoProxy"},
	{"a range that is allowed leads to addresses of IPv4 that are not", "internal/outward/outward.go",
		`			return g.Addr(netip.AddrFrom4([4]byte(b[e.at : e.at+4])))
`, `			_ = b
			return nil
`,
		"internal/outward.TestRangesThatAreAllowed"},
	{"an address that is written as one number may be registered", "internal/outward/outward.go",
		`		return errors.New("its host ends in a number, and is no address as it is usually written")
`, `		_ = last
`,
		"internal/outward.TestHostileURLs"},
	{"a restored ledger tells a webhook under another id", "notify/outbox.go",
		`if c.Kind == odometer.ChannelWebhook { // of`,
		`if c.Kind == "" { // of`,
		"notify.TestARestoredLedgerTellsUnderTheSameIDs"},
	{"two webhooks are told under one id", "notify/outbox.go",
		`"%s\n%s\n%s", channel, kind, what)`,
		`"%s\n%s\n%s", "", kind, what)`,
		"notify.TestAChangeHasOneID"},
	{"a webhook does not say that it was not told all", "notify/outbox.go",
		`if u.missed != "" {`,
		`if u.missed == "-" {`,
		"notify.TestAPlaceThatIsUnknown"},
	{"what was pruned before a webhook was told is passed over in silence", "notify/outbox.go",
		`removed, err = n.o.Entries.Removed(ctx, seen.at, next); removed > 0 {`,
		`removed, err = n.o.Entries.Removed(ctx, seen.at, next); removed > 1<<30 {`,
		"notify.TestPrunedBeforeAWebhookWasTold"},
	{"entries in memory go on over what was pruned", "ledger/follow.go",
		`err != nil || removed > 0 { // nobody`,
		`err != nil || removed > 1<<30 { // nobody`,
		"ledger.TestFollowersFromMemoryHaveNoGap"},
	{"messages of one subject do not wait for each other", "notify/outbox.go",
		`LIMIT 1) w) = 0, 0, ?`,
		`LIMIT 1) w) >= 0, 0, ?`,
		"notify.TestTheOrderIsKept"},
	{"what waits behind a message that was delivered is forgotten", "notify/record.go",
		`	return advance(ctx, tx, c.ID, d.lane)
}

// advance`, `	return nil
}

// advance`,
		"notify.TestTheOrderIsKept"},
	{"a claim is over at once", "notify/claim.go",
		`d.attempts, now+claimFor.Microseconds(), string(d.id)`,
		`d.attempts, now, string(d.id)`,
		"notify.TestTwoServers"},
	{"who no longer has the ledger delivers", "notify/notify.go",
		`		if err := n.o.Owns(ctx, tx); err != nil {`,
		`		if err := n.o.Owns(ctx, tx); err != nil && tx == nil {`,
		"notify.TestTwoServers"},
	{"a message that was not recorded is made again under another id", "notify/claim.go",
		`		d.attempts++
`, `		d.attempts++
		d.id += odometer.DeliveryID(strings.Repeat("x", d.attempts-1))
`,
		"notify.TestTheOrderIsKept"},
	{"a webhook is told the usage of all", "notify/outbox.go",
		`odometer.EntryQuery{After: seen.at, View: &view}`,
		`odometer.EntryQuery{After: seen.at, User: view.User()}`,
		"notify.TestWebhooksOfUsage"},
	{"a dead receiver has all of the ledger in the outbox", "notify/outbox.go",
		`		if waiting >= usageWaiting {`,
		`		if waiting >= 1000*usageWaiting {`,
		"notify.TestWebhooksOfUsage"},
	{"a digest tells the first change only", "notify/claim.go",
		`head.body, head.events, head.subject = strings.Join(bodies, "\n"), events`,
		`head.body, head.events, head.subject = strings.Join(bodies[:1], "\n"), events`,
		"notify.TestAStormIsDamped"},
	{"what is urgent is held back", "notify/outbox.go",
		`	if groups(k) && v.Action != odometer.ActionAlert {`,
		`	if groups(k) {`,
		"notify.TestAStormIsDamped"},
	{"a receiver that asks to be left alone is not", "notify/retry.go",
		`	if wait > 0 {
`, `	if wait > 0 && ok {
`,
		"notify.TestAReceiverAsksToBeLeftAlone"},
	{"a receiver that is gone is asked on", "notify/attempt.go",
		`		r.gone = true
`, ``,
		"notify.TestAReceiverThatIsGone"},
	{"a breaker never opens", "notify/retry.go",
		`	if e.open() || e.failed >= breakAfter {`,
		`	if e.open() {`,
		"notify.TestTheBreaker"},
	{"a password is given without TLS", "notify/email.go",
		`		if _, secure := c.TLSConnectionState(); !secure {`,
		`		if _, secure := c.TLSConnectionState(); !secure && s.Password == "" {`,
		"notify.TestEmailIsNotSentInTheClear"},
	{"a channel of another is seen", "notify/channels.go",
		`	if err == nil && !by.MaySee(c.Holder) {`,
		`	if err == nil && by == nil {`,
		"notify.TestChannels"},
	{"the secret of before signs for ever", "notify/seal.go",
		`AND purpose = ? AND (until_us = 0 OR until_us > ?)
`, `AND purpose = ? AND (until_us = 0 OR until_us > 0 * ?)
`,
		"notify.TestAWebhookIsSigned"},
	{"an Alertmanager is told for ever of what is over", "notify/outbox.go",
		`DELETE FROM notify_open WHERE channel = ? AND violation = ?`,
		`DELETE FROM notify_open WHERE channel = ? AND violation = ? || 'x'`,
		"notify.TestAlertmanager"},
	{"an alert has a property that Alertmanager does not know", "notify/alertmanager.go",
		`json:"endsAt"`,
		`json:"endAt"`,
		"notify.TestAlertmanager"},
	{"what has ended is told to an Alertmanager as going on", "notify/alertmanager.go",
		`	if v.Standing != odometer.StandingOpen {
		a.EndsAt`, `	if v.Standing == "" {
		a.EndsAt`,
		"notify.TestARealAlertmanager"},
	{"a token is carried to another server", "notify/channels.go",
		`if has > 0 && shown(was.URL) != shown(is.URL) {`,
		`if has > 1 && shown(was.URL) != shown(is.URL) {`,
		"notify.TestATokenIsNotCarriedToAnotherServer"},
	{"what a correction undid is said to have recovered", "violation_text.go",
		`	case StandingRetracted:
		return fmt.Sprintf("Undone by a correction: %s: %s has not reached %s:`,
		`	case StandingRetracted:
		return fmt.Sprintf("Recovered: %s: %s is at %s no longer:`,
		"odometer.TestViolationsAsText"},
	{"a small value is said to be none", "violation_text.go",
		`size > 0 && size < 1 {`,
		`size > 1 && size < 1 {`,
		"odometer.TestAmounts"},
	{"a digest to Slack is cut off", "notify/slack.go",
		`if size > slackMost && n > 0 {`,
		`if size > 4*slackMost && n > 0 {`,
		"notify.TestADigestHasRoom"},
}
