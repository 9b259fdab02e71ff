package inventory

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"example.org/odometer"
)

// Source lists the machines of one kind that are on this host now.
type Source interface {
	Name() string // "libvirt", "processes", "file"
	// List returns all of them. The caller changes nothing in what it is given,
	// and the source nothing in what it gave. An error says that the list could
	// not be had and leaves what was known.
	List(ctx context.Context) ([]odometer.VM, error)
	Close() error
}

// A Reporter is a [Source] that names what it could not read of the machines
// that it lists: one line each, stable as long as the problem is.
type Reporter interface {
	Problems() []string
}

// A Teller is a [Source] that hears of changes as they happen. What it tells
// has the moment of the event; [Watch] takes kind, moment and detail from it
// rather than from the difference of two lists, and lists the source at once. A
// change of kind "" is only a reason to do that. The channel is never closed.
type Teller interface {
	Told() <-chan odometer.Change
}

// A Witness is a [Source] that looks at the processes themselves: one that is
// missing from its next list has ended, whatever others say.
type Witness interface {
	SeesEnds() bool
}

// Clock tells the present moment.
type Clock interface {
	Now() odometer.Moment
}

// RunName names a run of a machine, see [odometer.VM]: the boot, the
// hypervisor's process and its start time, field 22 of /proc/PID/stat.
func RunName(bootID string, pid int, start uint64) string {
	return fmt.Sprintf("%s/%d/%d", bootID, pid, start)
}

// Identity returns the identity of a machine that has no UUID: "<agent>:<name>".
// Characters that no identifier may have are written as in a URL, %20 for a
// space; of a name that is too long the end is replaced by its digest. Equal
// names give equal identities, and different ones different.
func Identity(agent odometer.AgentID, name string) odometer.InstanceID {
	var b strings.Builder
	b.WriteString(string(agent) + ":")
	for i, r := range name {
		s := name[i : i+runeLen(name[i:], r)]
		if r == '%' || odometer.ValidID("name", s) != nil {
			for _, c := range []byte(s) {
				fmt.Fprintf(&b, "%%%02X", c)
			}
			continue
		}
		b.WriteString(s)
	}
	return odometer.InstanceID(shorten(b.String(), name))
}

// distinct gives every machine of the list an identity of its own and returns
// what had to be done for that. Of several with one identity the one that began
// first keeps it. Another is known by its name where that tells it apart, and
// otherwise by its run: the same list always gives the same identities. The
// list is in order of identity afterwards.
func distinct(agent odometer.AgentID, vms []odometer.VM) (problems []string) {
	taken := make(map[odometer.InstanceID]int, len(vms)) // how many want it
	for i := range vms {
		taken[vms[i].Instance]++
	}
	if len(taken) < len(vms) {
		slices.SortStableFunc(vms, byAge)
		kept := map[odometer.InstanceID]int{} // PID of who has it
		for i := range vms {
			v := &vms[i]
			shared := v.Instance
			first, again := kept[shared]
			if !again {
				kept[shared] = v.PID
				continue
			}
			if named := Identity(agent, v.Name); v.Name != "" && taken[named] == 0 {
				v.Instance = named
			} else {
				v.Instance = odometer.InstanceID(shorten(string(shared)+"~"+runSuffix(v), string(shared)+v.Run))
			}
			taken[v.Instance]++
			kept[v.Instance] = v.PID
			problems = append(problems, fmt.Sprintf("two machines claim the identity %s: process %d keeps it, %s is metered as %s",
				shared, first, whose(v), v.Instance))
		}
	}
	slices.SortFunc(vms, func(a, b odometer.VM) int { return strings.Compare(string(a.Instance), string(b.Instance)) })
	return problems
}

// byAge orders machines by the beginning of their run, those without one last.
func byAge(a, b odometer.VM) int {
	if (a.Run == "") != (b.Run == "") {
		if a.Run == "" {
			return 1
		}
		return -1
	}
	if a.Began != b.Began {
		if a.Began < b.Began {
			return -1
		}
		return 1
	}
	return a.PID - b.PID
}

// runSuffix tells runs of one boot apart.
func runSuffix(v *odometer.VM) string {
	return strconv.Itoa(v.PID) + "." + strconv.FormatInt(v.Began/tickMicros, 10)
}

// whose names a machine for a person.
func whose(v *odometer.VM) string {
	switch {
	case v.PID != 0 && v.Name != "":
		return fmt.Sprintf("process %d (%s)", v.PID, v.Name)
	case v.PID != 0:
		return fmt.Sprintf("process %d", v.PID)
	}
	return strconv.Quote(v.Name)
}
