package sampler

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"example.org/odometer"
)

// Note has what happened to machines told by the next reading of each. It comes
// before the Update that follows from it; what happened to a machine that is in
// neither list is not told.
func (s *VMs) Note(changes []odometer.Change) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range changes {
		s.noted[c.Instance] = append(s.noted[c.Instance], c)
	}
}

// Update says which machines there are from now on. What changed takes effect
// at this moment, not at the next sample: a machine that is new is read at
// once, one that is not listed any more gets its last reading, Final, in the
// next sample, or a later one where what its interfaces came to is not told yet.
// The list is copied.
//
// It waits up to [statPatience] for the filesystems of new disks.
func (s *VMs) Update(vms []odometer.VM) {
	s.updating.Lock()
	defer s.updating.Unlock()
	found := s.openRuns(vms)
	files := s.apply(vms, found)
	if files == nil {
		return
	}
	points := s.mountPoints()
	s.mu.Lock()
	s.images.replace(files, points)
	s.images.refresh()
	asked := slices.Collect(maps.Values(s.images.byFS))
	s.mu.Unlock()
	s.images.wait(asked)
	s.mu.Lock()
	s.share()
	s.mu.Unlock()
}

// opening is a run that was found to be new, or why it cannot be read.
type opening struct {
	run *run
	err error
}

// openRuns opens the runs that are not read yet. That takes a while where
// there are many, during which samples go on.
func (s *VMs) openRuns(vms []odometer.VM) map[odometer.InstanceID]opening {
	s.mu.Lock()
	kept := 0
	for _, v := range s.list {
		if v.run != nil && !v.run.loose {
			kept++
		}
	}
	var list []*odometer.VM
	for i := range vms {
		if def := &vms[i]; def.PID > 0 && !s.closed && !s.knows(s.byID[def.Instance], def) {
			list = append(list, def)
		}
	}
	s.mu.Unlock()
	found := make(map[odometer.InstanceID]opening, len(list))
	for _, def := range list {
		if _, twice := found[def.Instance]; twice {
			continue
		}
		r, err := s.openRun(def, !s.host || kept >= s.maxKept)
		if err == nil && !r.loose {
			kept++
		}
		found[def.Instance] = opening{r, err}
	}
	return found
}

// knows reports whether a definition's run is the one that v has, or had and
// that has ended.
func (s *VMs) knows(v *vm, def *odometer.VM) bool {
	if v == nil {
		return false
	}
	if v.run != nil && v.run.pid == def.PID && v.run.name == def.Run {
		return true
	}
	return v.run == nil && v.pastPID == def.PID && v.past == def.Run
}

// apply takes a list over. It returns the files of all disks where they have
// changed.
func (s *VMs) apply(vms []odometer.VM, found map[odometer.InstanceID]opening) (files []*diskFile) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		for _, o := range found {
			if o.run != nil {
				s.closeFiles(o.run)
			}
		}
		return nil
	}
	now := s.clock.Now()
	s.drain()
	for _, v := range s.list {
		v.listed = false
	}
	s.refused = s.refused[:0]
	changed := false
	for i := range vms {
		def := &vms[i]
		v := s.byID[def.Instance]
		if v != nil && v.listed {
			s.refused = append(s.refused, fmt.Sprintf("%s is listed twice", def.Instance))
			continue
		}
		isNew := v == nil
		if isNew {
			v = &vm{}
			s.byID[def.Instance] = v
			s.list = append(s.list, v)
		}
		o, opened := found[def.Instance]
		delete(found, def.Instance)
		changed = s.update(v, def, now) || changed
		if opened {
			s.begin(v, o, now)
		}
		if isNew {
			s.sinceBoot(v, now)
		}
	}
	for _, v := range s.list {
		if !v.listed {
			changed = changed || len(v.parts) > 0
			v.setParts(nil)
		}
	}
	slices.SortFunc(s.list, func(a, b *vm) int { return cmp.Compare(a.def.Instance, b.def.Instance) })
	maps.DeleteFunc(s.noted, func(id odometer.InstanceID, _ []odometer.Change) bool { return s.byID[id] == nil })
	if !changed {
		return nil
	}
	files = []*diskFile{}
	for _, v := range s.list {
		for _, p := range v.parts {
			files = append(files, p.diskFile)
		}
	}
	s.share()
	return files
}

// sinceBoot tells of a machine that was last read before the host booted that
// it did not run at that instant, and had used nothing since: the time before
// is not to be billed as if it had gone on.
func (s *VMs) sinceBoot(v *vm, now odometer.Moment) {
	p := s.opt.Previous
	if _, ok := p.Readings[v.def.Instance]; !ok || p.BootID == s.bootID {
		return
	}
	e := edge{at: moment(now, 1), state: odometer.Stopped, gauges: s.gauges(v)}
	e.gauges.Memory = 0
	e.counters = []odometer.Counter{{Quantity: odometer.CPU, Incarnation: s.bootID, Born: true}}
	v.edges = slices.Insert(v.edges, 0, e)
}

// update takes a machine's definition over and reports whether its disks
// have changed.
func (s *VMs) update(v *vm, def *odometer.VM, now odometer.Moment) (disks bool) {
	old := v.def
	v.def, v.listed = *def, true
	v.id, v.owner, v.declared, v.ballooned = def.Instance, def.Owner, def.State, def.Ballooned
	v.def.Disks, v.def.NICs, v.def.GPUs = slices.Clone(def.Disks), slices.Clone(def.NICs), slices.Clone(def.GPUs)
	v.given = odometer.Gauges{
		Memory: odometer.Unknown, MemoryAllocated: def.Memory, Storage: v.given.Storage, StorageProvisioned: v.provisioned(),
		VCPUs: def.VCPUs, GPUs: odometer.Unknown,
	}
	if v.hadGPU = v.hadGPU || len(def.GPUs) > 0; v.hadGPU {
		v.given.GPUs = int64(len(def.GPUs))
	}
	if v.end != nil && (def.PID == 0 || !s.knows(v, def)) {
		s.tellEnd(v, false)
	}
	if v.run != nil && !s.knows(v, def) {
		s.finishRun(v, now)
		s.tellEnd(v, false)
	}
	if disks = !slices.EqualFunc(old.Disks, v.def.Disks, odometer.Disk.Equal); disks {
		v.setParts(s.diskParts(v))
	}
	if v.run == nil {
		return disks
	}
	if old.Owner != def.Owner || old.State != def.State {
		v.run.ioAt = 0 // so that what is told by owner and state is as of now
	}
	if !slices.Equal(old.NICs, v.def.NICs) {
		s.replaceNICs(v.run, v.def.NICs, false)
	}
	if v.last > 0 && (old.State != def.State || old.VCPUs != def.VCPUs || old.Memory != def.Memory || old.Ballooned != def.Ballooned || len(old.GPUs) != len(def.GPUs)) {
		v.edges = append(v.edges, edge{at: now, state: v.state(), gauges: s.gauges(v)})
	}
	return disks
}

// begin takes a run over that was opened.
func (s *VMs) begin(v *vm, o opening, now odometer.Moment) {
	v.problem = nil
	if o.err != nil {
		v.problem = o.err
		if !isGone(o.err) {
			s.log.Warn("cannot read a machine", "instance", v.def.Instance, "err", o.err)
		}
		return
	}
	r := o.run
	if other := s.byPID[r.pid]; other != nil {
		v.problem = fmt.Errorf("its process %d is that of %s", r.pid, other.def.Instance)
		s.closeFiles(r)
		return
	}
	v.run = r
	s.byPID[r.pid] = v
	s.replaceNICs(r, v.def.NICs, r.born)
	ahead := s.compare(r)
	n, err := s.readCPU(r)
	s.tookCPU(r, n, err)
	s.lookIO(r)
	s.lookEndedIO(r)
	s.lookMemory(r)
	turn := func(every time.Duration) int64 {
		return now.Boot + (int64(r.pid)%max(1, int64(every/time.Second))+1)*odometer.SecondMicros
	}
	r.ioAt, r.memoryAt, r.compareAt = turn(s.ioEvery), turn(memoryEvery), turn(compareEvery)
	if r.born {
		e := edge{at: moment(now, r.began), state: v.state(), gauges: s.gauges(v)}
		cpu := odometer.Counter{Quantity: odometer.CPU, Incarnation: r.cpuName, Value: uint64(max(0, ahead)), Born: ahead <= 0}
		if ahead < 0 {
			cpu.Incarnation = r.device + "/before"
		}
		e.counters = append(e.counters, cpu,
			odometer.Counter{Quantity: odometer.DiskRead, Incarnation: r.device, Born: true},
			odometer.Counter{Quantity: odometer.DiskWrite, Incarnation: r.device, Born: true})
		for i := range r.nics {
			if n := &r.nics[i]; n.host != nil {
				e.counters = n.append(e.counters, n.born)
				n.born = false
			}
		}
		v.edges = append(v.edges, e)
		if ahead < 0 { // it was put into its cgroup when it had used this much
			cpu.Value, cpu.Born, r.cpuBorn = uint64(-ahead), false, true
			v.edges = append(v.edges, edge{at: now, state: e.state, gauges: e.gauges, counters: []odometer.Counter{cpu}})
		}
	}
	if r.loose {
		s.closeFiles(r)
	} else if s.ends != nil {
		s.byPidfd[r.pidfd] = v
		if err := s.ends.add(r.pidfd); err != nil {
			v.problem = err
		}
	}
}

// moment is when the boot clock stood at boot.
func moment(now odometer.Moment, boot int64) odometer.Moment {
	return odometer.Moment{Boot: boot, Wall: now.Wall - (now.Boot - boot)}
}

// replaceNICs takes over which interfaces a machine has. One that is not
// among them any more is told once more.
func (s *VMs) replaceNICs(r *run, defs []odometer.NIC, fresh bool) {
	old := r.nics
	r.nics = make([]nic, 0, len(defs))
	for _, def := range defs {
		i := slices.IndexFunc(old, func(n nic) bool { return n.def == def })
		if i >= 0 {
			r.nics = append(r.nics, old[i])
			old[i].host = nil
			continue
		}
		n := nic{def: def}
		s.findNIC(r, &n, fresh)
		r.nics = append(r.nics, n)
	}
	for _, n := range old {
		if n.host != nil && !slices.ContainsFunc(defs, func(d odometer.NIC) bool { return d.Name == n.def.Name }) {
			n.leaves = true
			r.nics = append(r.nics, n)
		} else if n.host != nil {
			n.drop()
		}
	}
}
