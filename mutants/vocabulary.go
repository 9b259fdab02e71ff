package main

var vocabularyBugs = []bug{
	{"a share is rounded to the nearest unit instead of down", "vector.go",
		`	q, _ := bits.Div64(hi, lo, uint64(span))`,
		`	lo, carry := bits.Add64(lo, uint64(span)/2, 0)
	q, _ := bits.Div64(hi+carry, lo, uint64(span))`,
		"odometer.TestShareIsTheFloorIn128Bits"},
	{"a sum that overflows goes on from the other end", "vector.go",
		`if (s > sum[q]) != (v.Vector[q] > 0) && v.Vector[q] != 0 {`,
		`if false {`,
		"odometer.TestUsageAddRefusesOverflow" + "AndStaysAsItWas"},
	{"what adds a quantity does not make it known", "vector.go",
		`	u.Known |= v.Known
	return true`,
		`	return true`,
		"ledger.TestUnknownIsNotZero"},
	{"a time before 1970 belongs to the hour after it", "vector.go",
		`if us < 0 && h != us {`,
		`if false {`,
		"odometer.TestHourIsTheStartOfTheHour"},
	{"events of two owners are merged into one", "merge.go",
		`	case e.Owner != next.Owner:
		return refuse("they have different owners")
`, ``,
		"odometer.TestMergeRefusesWhatDoesNotFollow"},
	{"events are merged over a step of the clock", "merge.go",
		`case next.Span.Step != 0:`,
		`case false:`,
		"odometer.TestMergeRefusesWhatDoesNotFollow"},
	{"events are merged over a hole in their sequence", "merge.go",
		`case next.FirstSequence != e.Sequence+1:`,
		`case next.FirstSequence <= e.Sequence:`,
		"odometer.TestMergeRefusesWhatDoesNotFollow"},
	{"a merged event keeps the reading of its first part", "merge.go",
		`	e.Readings.End = next.Readings.End
`, ``,
		"odometer.TestMergingTwoEventsGivesTheGoldenOne"},
	{"amounts of version 1.0 are rounded down", "merge.go",
		`	case 1:
		n.Add(n, big.NewInt(1))
`, ``,
		"odometer.TestUsageOf10RoundsTheIntegralHalfToEven"},
	{"the digest of an event leaves out its last reading", "event.go",
		`		b = e.Readings.End.AppendBinary(b)
`, ``,
		"odometer.TestContentIsWhatAnEventSaysAndNotHowItIsLabelled"},
	{"whole seconds are those of the usage and drift", "event.go",
		`	return uint64((e.Readings.End.Vector[q]+carry)/SecondMicros - (e.Readings.Start.Vector[q]+carry)/SecondMicros)`,
		`	return uint64(e.Usage.Vector[q] / SecondMicros)`,
		"odometer.TestWholeSecondsNeverDrift"},
	{"usage that is not the difference of its readings is believed", "check.go",
		`if from, to := start.Vector[q], end.Vector[q]; to-from != n {`,
		`if from, to := start.Vector[q], end.Vector[q]; to-from < n {`,
		"odometer.TestHostileEventsAreRefusedWithTheReason"},
	{"a span may be longer than the time it accounts for", "check.go",
		`length > 0 && elapsed != SumOf(length)`,
		`length > 0 && elapsed.Cmp(SumOf(length)) > 0`,
		"odometer.TestHostileEventsAreRefusedWithTheReason"},
	{"a frame's checksum is not compared", "wire_binary.go",
		`binary.LittleEndian.Uint32(sum); got != want {`,
		`binary.LittleEndian.Uint32(sum); got != want && len(body) == 0 {`,
		"odometer.TestATurnedBitIsSeen"},
	{"the binary form leaves out a step of the clock", "binary.go",
		`		e.Span.Step = d.int()
`, `		d.int()
`,
		"odometer.TestWhatTheBinaryFormCannotHoldGoesAsJSON"},
	{"the binary form takes the first reading for the last", "binary.go",
		`			end.Vector[q] = start.Vector[q] + u.Vector[q]
`, `			end.Vector[q] = start.Vector[q]
`,
		"odometer.TestGoldenEventsSurviveTheBinaryForm"},
	{"a frame may end before its last position", "wire_binary.go",
		`	case next != f.Last+1:`,
		`	case next > f.Last+1:`,
		"odometer.TestBinaryFramesAreRefusedWithTheReason"},
}
