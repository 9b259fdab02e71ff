package main

var samplerBugs = []bug{
	{"idle time counts as used", "sampler/parse.go",
		`	busy := f[0] + f[1] + f[2] + f[5] + f[6]`,
		`	busy := f[0] + f[1] + f[2] + f[3] + f[5] + f[6]`,
		"sampler.TestParseStat"},
	{"sent and received are swapped", "sampler/machine.go",
		`odometer.NetworkIngress, odometer.NetworkEgress, m.sampled)`,
		`odometer.NetworkEgress, odometer.NetworkIngress, m.sampled)`,
		"sampler.TestDevices"},
	{"a counter that starts anew is taken for one that goes on", "sampler/group.go",
		`d.incarnation = fmt.Sprintf("%s#%d", d.base, d.generation)`,
		`d.incarnation = d.base`,
		"sampler.TestDevices"},
	{"what an interface counted before it was moved in is usage", "sampler/group.go",
		`born := d.fresh && sampled && d.young &&`,
		`born := d.fresh && sampled &&`,
		"sampler.TestDevices"},
	{"a counter that steps back a little lowers the reading", "sampler/machine.go",
		`	return r.max, anew`,
		`	return v, anew`,
		"sampler.TestDevices"},
	{"time spent suspended is taken for watched", "sampler/machine.go",
		`r.Unwatched = m.suspended.since(m.clock) || !m.sampled`,
		`r.Unwatched = !m.sampled`,
		"sampler.TestTimeSuspendedIsUnwatched"},
	{"the reserve of a filesystem is taken for occupied", "sampler/storage.go",
		`occupied(uint64(fs.st.Blocks), uint64(fs.st.Bfree),`,
		`occupied(uint64(fs.st.Blocks), uint64(fs.st.Bavail),`,
		"sampler.TestWhatCounts"},
	{"a filesystem that hangs stops the sample", "sampler/storage.go",
		`		case <-s.timer.C:
			return
		}
	}
}

// waiting`,
		`		}
	}
}

// waiting`,
		"sampler.TestAFilesystemThatHangs"},
	{"what a machine did to its disks at the end is lost", "sampler/vms.go",
		`		v.run.ended.add(e)`,
		`		v.run.exit = max(v.run.exit, 0)`,
		"sampler.TestVMEnds"},
	{"a machine that ends during a sample loses what it used", "sampler/vm_sample.go",
		`			s.drain() // its end may have been told since the sample began`,
		``,
		"sampler.TestVMEndsDuringASample"},
	{"a record whose fields lie elsewhere is read", "sampler/vm_parse.go",
		`binary.NativeEndian.Uint16(value) == taskShifted`,
		`binary.NativeEndian.Uint16(value) == 0xffff`,
		"sampler.TestWalkTask"},
	{"a machine says itself how much memory it was allocated", "sampler/vms.go",
		`max(g.MemoryAllocated-b, kept))`,
		`max(g.MemoryAllocated-b, 0))`,
		"sampler.TestABalloonHidesNothingThatIsResident"},
	{"an image that was shared is billed to the last one", "sampler/vm_disks.go",
		`!uses[*p.as].several && !known[x]`,
		`!uses[*p.as].several`,
		"sampler.TestVMBackingImageIsShared"},
	{"what a thread used that is about to end counts twice", "sampler/vm_run.go",
		`	if n > whole+3*s.tickNanos {`,
		`	if n < whole {`,
		"sampler.TestVMThreadThatEndsCountsOnce"},
}
