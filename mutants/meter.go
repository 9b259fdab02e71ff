package main

var meterBugs = []bug{
	{"nanoseconds below a microsecond are dropped", "meter/fold.go",
		`used, c.remainder[q] = used/nanos+(used%nanos+c.remainder[q])/nanos, (used%nanos+c.remainder[q])%nanos`,
		`used = used / nanos`,
		"meter.TestSumOfUsageIsTheTruth"},
	{"the remainder of an integral is dropped", "meter/fold.go",
		`lo, carry = bits.Add64(lo, c.remainder[row.quantity], 0)`,
		`lo, carry = bits.Add64(lo, 0, 0)`,
		"meter.TestSumOfUsageIsTheTruth"},
	{"an unknown gauge counts as zero", "meter/fold.go",
		`	for i, n := range in.gauges {
		if n < 0 {
			continue
		}
		row := &table[i]`,
		`	for i, n := range in.gauges {
		n = max(n, 0)
		row := &table[i]`,
		"meter.TestGauges"},
	{"a stopped machine pays for memory", "meter/fold.go",
		`{odometer.Memory, mibSecond, true, true, false},`,
		`{odometer.Memory, mibSecond, true, true, true},`,
		"meter.TestGauges"},
	{"a stopped machine's disks are free", "meter/fold.go",
		`{odometer.Storage, mibSecond, true, true, true},`,
		`{odometer.Storage, mibSecond, true, true, false},`,
		"meter.TestGauges"},
	{"a gauge counts for the time before it was read", "meter/meter.go",
		`		if err := in.integrate(&c, elapsed); err != nil {`,
		`		in.gauges = amounts(r.Gauges)
		if err := in.integrate(&c, elapsed); err != nil {`,
		"meter.TestGauges"},
	{"a counter that was reset is taken for usage", "meter/fold.go",
		`			case n.Born:
				used = n.Value
				c.born++
			default:
				continue
			}`,
		`			default:
				used = n.Value
				c.born++
			}`,
		"meter.TestCounters"},
	{"what a device counted before it was seen is usage", "meter/fold.go",
		`			if !n.Born && !in.fresh {
				continue
			}
`, ``,
		"meter.TestCounters"},
	{"a step of the clock is ignored", "meter/meter.go",
		`stepped := step > StepMicros || step < -StepMicros`,
		`stepped := step > StepMicros && step < -StepMicros`,
		"meter.TestTime"},
	{"a period runs over the edge of an hour", "meter/meter.go",
		`in.label-in.since >= m.opts.Interval || odometer.Hour(in.label) != odometer.Hour(in.since)) {`,
		`in.label-in.since >= m.opts.Interval) {`,
		"meter.TestPeriods"},
	{"a new owner pays for the last one's period", "meter/meter.go",
		`if !(r.Final || gap || owned || stepped ||`,
		`if !(r.Final || gap || stepped ||`,
		"meter.TestPeriods"},
	{"a period begins a microsecond early", "meter/meter.go",
		`in.from, in.since, in.known, in.step, in.changes = in.total, in.label, 0, 0, nil`,
		`in.from, in.since, in.known, in.step, in.changes = in.total, in.label-1, 0, 0, nil`,
		"meter.TestSumOfUsageIsTheTruth"},
	{"what happened is told with every event after it", "meter/meter.go",
		`in.from, in.since, in.known, in.step, in.changes = in.total, in.label, 0, 0, nil`,
		`in.from, in.since, in.known, in.step = in.total, in.label, 0, 0`,
		"meter.TestPeriods"},
	{"what happened waits for the period to close", "meter/meter.go",
		`shown != in.shown() || len(in.changes) > 0 ||`,
		`shown != in.shown() ||`,
		"meter.TestPeriods"},
	{"a checkpoint forgets what is to be told", "meter/checkpoint.go",
		`	if len(in.changes) > 0 {`,
		`	if len(in.changes) > 1<<20 {`,
		"meter.TestCrashAnywhereGivesTheSameEvents"},
	{"what is gone counts as metered until then", "meter/meter.go",
		`e := m.cut(in, odometer.Gap)`,
		`e := m.cut(in, odometer.Measured)`,
		"meter.TestGone"},
	{"time that nobody measured counts as measured", "meter/fold.go",
		`		return odometer.GapTime`,
		`		return odometer.MeasuredTime`,
		"meter.TestTime"},
	{"the time that the host was down is left out", "meter/meter.go",
		`		if c.born > 0 && c.continued == 0 && at.Boot > 0 {
			down, elapsed = elapsed-at.Boot, at.Boot
		}`,
		`		if c.born > 0 && c.continued == 0 && at.Boot > 0 {
			elapsed = at.Boot
		}`,
		"meter.TestTime"},
	{"a part of a second is forgotten with its epoch", "meter/meter.go",
		`p.cpu = (p.cpu + e.Usage.Vector[odometer.CPU]) % odometer.SecondMicros`,
		`p.cpu = 0`,
		"meter.TestWholeSecondsDoNotDriftAcrossEpochsAndHosts"},
	{"an epoch's id comes again with the next one", "meter/meter.go",
		`return odometer.NewEpoch(in.instance, in.agent, m.opts.Nonce, moment)`,
		`return odometer.NewEpoch(in.instance, in.agent, m.opts.Nonce, moment[:0])`,
		"meter.TestEpochIDs"},
	{"an epoch's id comes again in another state directory", "meter/meter.go",
		`return odometer.NewEpoch(in.instance, in.agent, m.opts.Nonce, moment)`,
		`return odometer.NewEpoch(in.instance, in.agent, "", moment)`,
		"meter.TestEpochIDs"},
	{"a reading is folded again after a crash", "meter/meter.go",
		`	if !rebooted && at.Boot <= in.last.Boot {`,
		`	if !rebooted && at.Boot < in.last.Boot {`,
		"meter.TestRestoredReplaySkipsWhatItHas"},
	{"a checkpoint forgets the remainders", "meter/checkpoint.go",
		`remainder: c.Remainders,
`, `
`,
		"meter.TestCrashAnywhereGivesTheSameEvents"},
	{"an agent that lost its disk goes on in the epoch that it lost", "meter/checkpoint.go",
		`	in.epoch = m.epoch(in)
	m.emit(in, nil, emit)`,
		`	m.emit(in, nil, emit)`,
		"meter.TestAdoptGoesOnFromTheRawReadingsInANewEpoch"},
}
