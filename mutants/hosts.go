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
}
