package main

var agentBugs = []bug{
	{"the time that the agent was away is taken for watched", "agent/agent.go",
		`			a.unwatched[h.Instance] = true
`, ``,
		"agent.TestRestartGoesOn"},
	{"what the spool does not take is dropped", "agent/agent.go",
		`		a.pending = a.compacted(rest)
`, `		a.pending = rest[:0]
`,
		"agent.TestAFailingSpoolCostsResolutionOnly"},
	{"the open periods are not stored at the end", "agent/agent.go",
		`	err := a.opts.Meter.Flush(a.collect)`,
		`	err := error(nil)`,
		"agent.TestOnTheRealSpool"},
	{"one record that is refused takes the others with it", "agent/pending.go",
		`			refuse(err)
		default:`,
		`			return stored, nil, nil
		default:`,
		"agent.TestARecordThatIsRefusedLeavesTheOthers"},
	{"waiting events are merged over the hour", "agent/pending.go",
		`if !beyond && odometer.Hour`,
		`if beyond && odometer.Hour`,
		"agent.TestCompact"},
	{"a merged event loses its checkpoint", "agent/pending.go",
		`					r.Checkpoint = out[i].Checkpoint
`, `					r.Checkpoint = nil
`,
		"agent.TestCompact"},
	{"what is here ends as if it were gone", "agent/agent.go",
		`		if here[id] {
			continue
		}
`, ``,
		"agent.TestWhatIsGoneEnds"},
}
