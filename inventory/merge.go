package inventory

import (
	"maps"

	"example.org/odometer"
)

// listed is the last list of a source.
type listed struct {
	vms       []odometer.VM
	at        int64 // when it was begun, boot time in microseconds
	answering bool  // the next list can be waited for
}

// merge makes one list of those of several sources, the one that knows best
// first. A machine that two of them know, by its identity or its process, is
// one: as the first has it, with what only the other knows.
//
// gone has the processes that have ended, and when that was seen. A list from
// before that still has one is waited for; one that does not come, or has it
// still, is overruled.
func merge(lists []listed, gone map[int]int64) []odometer.VM {
	n := 0
	for _, l := range lists {
		n += len(l.vms)
	}
	ended := func(pid int) bool { _, ok := gone[pid]; return ok }
	merged := make([]odometer.VM, 0, n)
	from := make([]int, 0, n) // the source of each
	byID := make(map[odometer.InstanceID]int, n)
	byPID := make(map[int]int, n)
	for s, l := range lists {
		for _, v := range l.vms {
			if at, ok := gone[v.PID]; ok && (l.at >= at || !l.answering) {
				v.State, v.Run, v.PID, v.Began = odometer.Stopped, "", 0, 0
			}
			i, ok := byPID[v.PID]
			if !ok || v.PID == 0 {
				i, ok = byID[v.Instance]
				ok = ok && (merged[i].PID == 0 || v.PID == 0 || ended(merged[i].PID) || ended(v.PID))
			}
			if !ok || from[i] == s {
				i = len(merged)
				merged, from = append(merged, v), append(from, s)
				if _, taken := byID[v.Instance]; !taken {
					byID[v.Instance] = i
				}
			} else {
				complete(&merged[i], &v, ended)
			}
			if pid := merged[i].PID; pid != 0 {
				byPID[pid] = i
			}
		}
	}
	return merged
}

// complete adds to v what another source knows of the same machine: the run
// that it is in, where v knows of none or of one that is over, and what is
// missing.
func complete(v, other *odometer.VM, ended func(pid int) bool) {
	if other.PID != 0 && !ended(other.PID) && (v.PID == 0 || ended(v.PID)) {
		if v.State == odometer.Stopped || v.PID != 0 {
			v.State = other.State
		}
		v.Run, v.PID, v.Began = other.Run, other.PID, other.Began
	}
	if v.Control == "" {
		v.Control = other.Control
	}
	if v.Owner == (odometer.Owner{}) {
		v.Owner = other.Owner
	}
	if v.VCPUs == odometer.Unknown {
		v.VCPUs = other.VCPUs
	}
	if v.Memory == odometer.Unknown {
		v.Memory, v.Ballooned = other.Memory, other.Ballooned
	}
	if v.Disks == nil {
		v.Disks = other.Disks
	}
	if v.NICs == nil {
		v.NICs = other.NICs
	}
	if v.GPUs == nil {
		v.GPUs = other.GPUs
	}
	if len(other.Attributes) > 0 {
		all := maps.Clone(other.Attributes)
		maps.Copy(all, v.Attributes)
		v.Attributes = all
	}
}
