package main

// hostBugs let a host do what is not its own, or one in that nobody enrolled.
var hostBugs = []bug{
	{"an agent may publish as another", "queue/door.go",
		`Allow: []string{ingestPrefix + token, receiptRequestPrefix`,
		`Allow: []string{ingestPrefix + "*", receiptRequestPrefix`,
		"queue.TestAHostIsHeldToItsOwnSubjects"},
	{"an agent hears everybody's inboxes", "queue/door.go",
		`Allow: []string{receiptPrefix + token, inboxPrefix + token + ".>"}`,
		`Allow: []string{receiptPrefix + token, inboxPrefix + ">"}`,
		"queue.TestAHostIsHeldToItsOwnSubjects"},
	{"hosts are let into the account of the streams", "queue/door.go",
		`Username: o.Nkey, Account: d.hosts, Permissions`,
		`Username: o.Nkey, Permissions`,
		"queue.TestNoReplyLeadsOutOfTheAccountOfHosts"},
	{"a public key is enough", "queue/door.go",
		`return err == nil && public.Verify(nonce, sig) == nil`,
		`return err == nil && len(sig) >= 0 && public != nil`,
		"queue.TestAKeyThatIsNotProvenIsNotLetIn"},
	{"who is revoked stays connected", "queue/door.go",
		`		_ = d.nats.DisconnectClientByID(id) // an error says that it is gone
`, `		_ = id
`,
		"queue.TestAHostThatIsRevokedIsOutAtOnce"},
	{"a key is looked up before its connection can be expelled", "queue/door.go",
		`	d.open[key] = append(ids, c.GetID())
`, `	d.open[key] = ids
`,
		"queue.TestNoConnectionOutlivesTheRevocation"},
	{"an id that is none is let in", "queue/door.go",
		`if !ok || d.hosts == nil || odometer.ValidID("agent", string(agent)) != nil {`,
		`if !ok || d.hosts == nil {`,
		"queue.TestIdsThatAreNoneAreNotLetIn"},
	{"a key has any number of connections", "queue/door.go",
		`	for len(ids) >= maxPerKey {`,
		`	for len(ids) >= 100*maxPerKey {`,
		"queue.TestAKeyHasAFewConnections"},
	{"a one-time token lets in again and again", "account/hosts.go",
		`case !e.Used.IsZero() || !e.Revoked.IsZero() ||`,
		`case !e.Revoked.IsZero() ||`,
		"account.TestTwoHostsRaceForOneToken"},
	{"a one-time token that was revoked lets in", "account/hosts.go",
		`case !e.Used.IsZero() || !e.Revoked.IsZero() ||`,
		`case !e.Used.IsZero() ||`,
		"account.TestWhoIsNotLetIn"},
	{"a one-time token lets in at the moment at which it expires", "account/hosts.go",
		`!e.Revoked.IsZero() || !now.Before(e.Expires):`,
		`!e.Revoked.IsZero() || now.After(e.Expires):`,
		"account.TestWhoIsNotLetIn"},
	{"a one-time token is any host's", "account/hosts.go",
		`case e.Agent != "" && e.Agent != ask.Agent:`,
		`case e.Agent != "" && ask.Agent == "":`,
		"account.TestWhoIsNotLetIn"},
	{"a host takes the place of another without being told to", "account/hosts.go",
		`	case !e.Replace:
`, `	case !e.Replace && old.Key == "":
`,
		"account.TestWhoIsNotLetIn"},
	{"a host need not have the key", "account/hosts.go",
		`	if public.Verify(odometer.EnrolStatement(ask.Agent, ask.Key), ask.Proof) != nil {`,
		`	if len(ask.Proof) == 0 || public == nil {`,
		"account.TestWhoIsNotLetIn"},
	{"a host that was revoked is let in until the next start", "account/hosts.go",
		`	a.dropKey(h.Key)
	return h, nil
`, `	return h, nil
`,
		"account.TestTheLifeOfAHost"},
	{"a host that was revoked is let in after the next start", "account/hosts.go",
		` FROM account_hosts WHERE revoked_us = 0` + "`)\n\tif err != nil {\n\t\treturn unavailable(err)",
		` FROM account_hosts` + "`)\n\tif err != nil {\n\t\treturn unavailable(err)",
		"account.TestTheLifeOfAHost"},
	{"a host that was replaced is let in", "account/hosts.go",
		`	return h, a.dropOthers(&h), nil
`, `	return h, nil, nil
`,
		"account.TestAHostIsReplaced"},
	{"a revoked key that asks is answered as if it were not", "account/hosts.go",
		`	case !h.Revoked.IsZero():
		return errHostRevoked
	case h.Agent`, `	case h.Agent`,
		"account.TestTheLifeOfAHost"},
	{"an enrolment has no line in the audit log", "account/hosts.go",
		`	return h, note(ctx, tx, micros(now), by, odometer.ActionHostEnrol,`,
		`	return h, nil
	_ = note(ctx, tx, micros(now), by, odometer.ActionHostEnrol,`,
		"account.TestTheLifeOfAHost"},
	{"what nobody has shown anything for is read to its end", "api/hosts.go",
		`	r.Body = http.MaxBytesReader(w, r.Body, maxEnrolBytes)
`, ``,
		"api.TestAHostIsEnrolledOverHTTP"},
	{"a host that is refused makes key after key", "cmd/odometer/identity.go",
		`	if !i.fresh && i.secret != ""`,
		`	if i.secret != ""`,
		"cmd/odometer.TestAHostThatIsNotLetInKeepsItsKey"},
	{"a host that got no answer makes another key", "cmd/odometer/identity.go",
		`	case err == nil:
		i.key, err = queue.ReadKey`, `	case err == nil && secret != "":
		err = i.renew()
	case err == nil:
		i.key, err = queue.ReadKey`,
		"cmd/odometer.TestAHostThatGotNoAnswerAsksAgain"},
	{"a host takes another's place that a server answers with", "cmd/odometer/identity.go",
		`	if answer.Agent != i.agent || answer.Key != i.key.Public() {`,
		`	if answer.Agent == "" || answer.Key == "" {`,
		"cmd/odometer.TestAServerThatLetsSomebodyElseIn"},
}
