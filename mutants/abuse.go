package main

// abuseBugs let somebody take more than his share, or fill or read what is not his.
var abuseBugs = []bug{
	{"a certificate that has expired takes the place of one that has not", "cmd/odometer/tls.go",
		`	case now.After(next.NotAfter):
`, `	case now.After(next.NotAfter) && now.Before(next.NotBefore):
`,
		"cmd/odometer.TestACertificateThatCannotBeUsedLeavesTheLast"},
	{"a certificate that could not be used is not tried again", "cmd/odometer/tls.go",
		`	if err == nil && is == p.read && p.err == nil {`,
		`	if err == nil && is == p.read {`,
		"cmd/odometer.TestACertificateOfTomorrowIsUsedTomorrow"},
	{"a certificate that is replaced is not seen", "cmd/odometer/tls.go",
		`	p.loaded++
	p.current.Store(&cert)
	p.logger.Info`, `	p.loaded++
	p.logger.Info`,
		"cmd/odometer.TestACertificateIsReplacedWhileConnectionsAreOpen"},
	{"TLS 1.1 is spoken", "cmd/odometer/tls.go",
		`		MinVersion:     tls.VersionTLS12,
`, `		MinVersion:     tls.VersionTLS10,
`,
		"cmd/odometer.TestACertificateIsReplacedWhileConnectionsAreOpen"},
	{"health is well with a certificate that is over", "api/health_tls.go",
		`	case left <= 0:
`, `	case left < 0:
`,
		"api.TestHealthFromFacts"},
	{"what is refused costs nothing", "api/router.go",
		`	return r, cmp.Or(rt.limits.take(w, r, row, &by, now), err)`,
		`	if err != nil {
		return r, err
	}
	return r, rt.limits.take(w, r, row, &by, now)`,
		"api.TestATokenAsksSoOftenAndNoMore"},
	{"all tokens have one budget", "api/limit.go",
		`	return charge(of, w, holderID{by.ID, by.Bound, by.Name}, now)`,
		`	return charge(of, w, holderID{}, now)`,
		"api.TestATokenAsksSoOftenAndNoMore"},
	{"who guesses locks out all others at his address", "api/router.go",
		`	by := caller(r)
	return r, cmp.Or(`, `	by := caller(r)
	if e := rt.limits.guess(r, now); e != nil {
		return r, e
	}
	return r, cmp.Or(`,
		"api.TestWhoGuessesIsToldToWait"},
	{"who has many IPv6 addresses guesses with each", "api/conns.go",
		`		p, _ := a.Prefix(64) // of an IPv6 address there is one`,
		`		p, _ := a.Prefix(128) // of an IPv6 address there is one`,
		"api.TestWhoGuessesIsToldToWait"},
	{"every address that ever asked is remembered", "api/limit.go",
		`		if len(b.of) >= b.most {`,
		`		if len(b.of) >= 1000*b.most {`,
		"api.TestBucketsAreBounded"},
	{"who asks all the time is forgotten", "api/limit.go",
		`		b.order.MoveToFront(at)
`, `		_ = at
`,
		"api.TestBucketsAreBounded"},
	{"one address takes all connections", "api/conns.go",
		` || l.of[from] >= l.limits.OpenOfOne {`,
		` {`,
		"api.TestConnectionsAreBounded"},
	{"a connection that has ended is counted for ever", "api/conns.go",
		`	defer c.leave()
`, ``,
		"api.TestConnectionsAreBounded"},
	{"who sends slowly stays for ever", "api/conns.go",
		`		ReadTimeout:       c.RequestWithin,
`, ``,
		"api.TestWhoIsSlowIsCutOff"},
	{"who does not read stays for ever", "api/conns.go",
		`		WriteTimeout:      c.AnswerWithin,
`, ``,
		"api.TestWhoDoesNotReadIsCutOff"},
	{"a field again and again is one", "api/conns.go",
		`			n += len(values)`,
		`			n += min(1, len(values))`,
		"api.TestHeadersThatAreTooManyOrTooLarge"},
	{"a compressed body is read as it is", "api/router.go",
		`	if err == nil && row.takes != nil {
		err = plainBody(r)
	}
`, ``,
		"api.TestACompressedBodyIsRefused"},
	{"each refused change is a line", "api/refusals.go",
		`	if _, known := s.changes[is]; !known && len(s.changes) >= mostChanges {`,
		`	if _, known := s.changes[is]; !known && len(s.changes) >= 100*mostChanges {`,
		"api.TestTheAuditLogIsNotFloodedByWhatIsRefused"},
	{"the audit log has the secret that was in a path", "api/refusals.go",
		`actor(r).Remote, odometer.HideSecrets(clipPath(`,
		`actor(r).Remote, string(clipPath(`,
		"api.TestRefusedChangesAreInTheAuditLog"},
	{"who asks for what somebody did is told all", "account/auditlog.go",
		`	if q.Actor != "" {`,
		`	if q.Actor == "" {`,
		"api.TestTheAuditLogIsFiltered"},
	{"who is not let in by the queue makes a line each time", "queue/server.go",
		`	if o.free == 0 {`,
		`	if o.free < 0 {`,
		"queue.TestWhoIsNotLetInFillsNoLog"},
	{"the seed of a key is not hidden", "access.go",
		`	if len(s) >= seedChars {`,
		`	if len(s) > 100*seedChars {`,
		"odometer.TestSecretsAreHidden"},
	{"a shell is offered what it would run", "cmd/odometer/completion.go",
		`	return harmless(words), nothing
`, `	return words, nothing
`,
		"cmd/odometer.TestWhatAShellWouldRunIsNotOffered"},
	{"an address may have a password in it", "cmd/odometer/listen.go",
		`err == nil && u.User != nil {`,
		`err == nil && u.User != nil && u.Host == "" {`,
		"cmd/odometer.TestLocalTokenGoesToTheLocalServerOnly"},
}
