package audit_test

// handoverCorruptions are those of epochs that were offered to an agent.
var handoverCorruptions = []corruption{
	{"nobody is said to go on from an epoch", "handovers", func(f *forger) { f.exec(1, `DELETE FROM handovers`) }},
	{"an epoch is said to be gone on from later", "handovers", func(f *forger) { f.exec(1, `UPDATE handovers SET until_us = until_us + 1`) }},
	{"another epoch is said to be gone on from", "handovers", func(f *forger) { f.exec(1, `UPDATE handovers SET epoch = successor`) }},
	{"an epoch that another goes on from is said to wait for it", "handovers", func(f *forger) { f.exec(1, `UPDATE handovers SET successor = ''`) }},
	{"another epoch is said to go on", "handovers", func(f *forger) { f.exec(1, `UPDATE handovers SET successor = epoch`) }},
	{"an epoch was offered where it does not stand", "handovers", func(f *forger) {
		f.exec(1, `UPDATE journal SET body = CAST(replace(CAST(body AS TEXT), '"until_us":', '"until_us":1') AS BLOB) WHERE CAST(body AS TEXT) LIKE '{"decision":"offered"%'`)
		f.rehash(int64(hostTwo.Partition()))
	}},
	{"an epoch was offered that there is not", "handovers", func(f *forger) {
		f.exec(1, `UPDATE journal SET body = CAST(replace(CAST(body AS TEXT), '"epoch":"', '"epoch":"00') AS BLOB) WHERE CAST(body AS TEXT) LIKE '{"decision":"offered"%'`)
		f.rehash(int64(hostTwo.Partition()))
	}},
	{"an epoch is booked beyond where another goes on", "superseded", func(f *forger) {
		r := f.find(`"reason":"superseded"`)
		entry := f.number(`SELECT first_entry FROM journal WHERE partition = ? AND position = ?`, r.partition, r.position)
		f.exec(1, `UPDATE journal SET entries = 1, result = ? WHERE partition = ? AND position = ?`,
			`{"runs":[{"n":1,"outcome":"recorded","entry":`+itoa(entry)+`}]}`, r.partition, r.position)
		f.exec(-1, `UPDATE journal SET first_entry = first_entry + 1 WHERE partition = ? AND position > ?`, r.partition, r.position)
		f.rehash(r.partition)
	}},
}
