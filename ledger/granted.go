package ledger

import (
	"encoding/json"
	"slices"

	"example.org/odometer"
)

// What a view is granted to see of instances is asked for apart from what it sees as
// their owner's: by the index of the epochs' instances, and from the moment on from
// which each grant shows something.

// granted are instances, and in whose name each may be seen.
type granted map[odometer.InstanceID]odometer.Owner

// shows reports whether what an owner is charged for an instance is among them.
func (g granted) shows(instance odometer.InstanceID, owner odometer.Owner) bool {
	of, there := g[instance]
	return there && (of == odometer.Owner{} || of == owner)
}

// epochsOfList are the epochs of the instances of a list, as a table.
const epochsOfList = `(SELECT partition, epoch_no, instance FROM epochs WHERE instance` + ofList + `)`

// grantedList returns the instances that v is granted to see, as a JSON array, "" for
// none.
func grantedList(v *odometer.View) string {
	if v == nil || len(v.Granted()) == 0 {
		return ""
	}
	var ids []odometer.InstanceID
	for _, g := range v.Granted() {
		ids = append(ids, g.Instance)
	}
	b, _ := json.Marshal(ids) // strings always encode
	return string(b)
}

// ofInstances returns the instances that are asked for, as a table with what it takes:
// those of the epochs that are, and those that are granted.
func (u *usageQuery) ofInstances() (table string, args []any) {
	if u.epochs == "" {
		return `epochs`, nil
	}
	list := grantedList(u.View)
	if list == "" || u.Instance != "" {
		return u.epochs, u.args
	}
	return `(SELECT instance FROM ` + u.epochs + ` UNION SELECT instance FROM ` + epochsOfList + `)`, append(slices.Clip(u.args), list)
}

// sees reports whether what an owner is charged for an instance is asked for.
func (u *usageQuery) sees(instance odometer.InstanceID, owner odometer.Owner) bool {
	switch {
	case u.View == nil:
		return true
	case u.granted == nil:
		return u.View.Sees(owner)
	}
	return u.granted.shows(instance, owner) && !u.View.Sees(owner) // which is there already
}

// runGranted adds what the view is granted to see. By month of booking that is
// nothing: it is told as statements tell it, which grants do not show, and what
// adjusts a month is not told apart by when a grant begins.
func (u *usageQuery) runGranted() error {
	if u.Booked {
		return nil
	}
	parts, err := u.grantedParts()
	if err != nil {
		return err
	}
	for _, g := range parts {
		if err := g.run(); err != nil {
			return err
		}
		if err := g.revise(); err != nil {
			return err
		}
		u.full = u.full || g.full
	}
	return nil
}

// grantedParts are the questions for what the view is granted to see. Grants that
// show something from the same moment of the asked time on are asked for together:
// they begin with hours, and most before it.
func (u *usageQuery) grantedParts() (parts []*usageQuery, err error) {
	if u.View == nil {
		return nil, nil
	}
	since := map[int64]granted{}
	for _, g := range u.View.Granted() {
		from := max(u.From, g.Since.UnixMicro())
		if from >= u.To || u.Instance != "" && g.Instance != u.Instance {
			continue
		}
		if _, asked := slices.BinarySearch(u.within, g.Instance); u.within != nil && !asked {
			continue
		}
		if since[from] == nil {
			since[from] = granted{}
		}
		since[from][g.Instance] = g.Of
	}
	for from, of := range since {
		var ids []odometer.InstanceID
		for id := range of {
			ids = append(ids, id)
		}
		list, err := json.Marshal(ids)
		if err != nil {
			return nil, err
		}
		g := *u
		g.From, g.granted, g.lastRow, g.room = from, of, nil, nil
		g.epochs, g.args = epochsOfList, []any{string(list)}
		parts = append(parts, &g)
	}
	return parts, nil
}
