package audit_test

// lifecycleCorruptions are those of the lifecycle log.
var lifecycleCorruptions = []corruption{
	{"what happened is forgotten", "lifecycle", func(f *forger) { f.exec(1, `DELETE FROM lifecycle WHERE what = 'crashed'`) }},
	{"it happened later", "lifecycle", func(f *forger) { f.exec(1, `UPDATE lifecycle SET at_us = at_us + 1 WHERE what = 'started'`) }},
	{"it happened in another way", "lifecycle", func(f *forger) { f.exec(1, `UPDATE lifecycle SET detail = 'otherwise' WHERE what = 'crashed'`) }},
	{"it happened to another", "lifecycle", func(f *forger) { f.exec(1, `UPDATE lifecycle SET instance = 'vm-1' WHERE what = 'crashed'`) }},
	{"something is said to have happened", "lifecycle", func(f *forger) {
		f.exec(1, `INSERT INTO lifecycle VALUES (?, 'vm-3', 1, 'stopped', '', 'host-2', 1, '')`, hostTwo.Partition())
	}},
	{"something is said to have happened where there is no journal", "lifecycle", func(f *forger) {
		f.exec(1, `INSERT INTO lifecycle VALUES (63, 'vm-3', 1, 'stopped', '', 'host-2', 1, '')`)
	}},
}
