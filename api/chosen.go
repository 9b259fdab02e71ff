package api

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"example.org/odometer"
)

// sortedOnce says of a list that is paged what sort does to that.
const sortedOnce = "In order of their ids, page by page; with `sort` only the first `limit` of all are answered, and `after` is refused."

// mostSorted is how many instances are looked at for those that come first.
const mostSorted = 100_000

// chosen returns the instances that a request asks for as its list has them: one
// page in the order of their ids, or the first of all by the parameter sort. Where
// only one is asked for, it is that or none.
func chosen[T any](s *server, w http.ResponseWriter, r *http.Request, q InstanceQuery, only odometer.InstanceID, of func(*KnownInstance, time.Time) T, keys keysOf[T]) ([]T, *string, error) {
	p := queryOf(r)
	list, words, limit := []T{}, p.words("sort"), p.limit()
	take := func(known []KnownInstance) {
		for i := range known {
			list = append(list, of(&known[i], p.now))
		}
	}
	switch {
	case words != nil && q.After != "":
		return nil, nil, FieldError{"query", "sort", "a list that is sorted has one page, and after asks for another"}
	case only != "":
		known, _, err := s.Instances.Instance(r.Context(), seen(r), only)
		switch {
		case err == nil && only > q.After && q.Matches(&known.Instance):
			take([]KnownInstance{known})
		case err != nil && !errors.Is(err, odometer.ErrNotFound):
			return nil, nil, fmt.Errorf("instance %s: %w", only, err)
		}
		return list, nil, nil
	case words == nil:
		q.Limit = limit + 1 // one more says whether there are more
		known, err := s.Instances.Instances(r.Context(), seen(r), q)
		if err != nil {
			return nil, nil, fmt.Errorf("list instances: %w", err)
		}
		known, next := paged(w, r, known, func(k KnownInstance) string { return string(k.Description.Instance) })
		take(known)
		return list, next, nil
	}
	for q.Limit = MaxPage; ; {
		known, err := s.Instances.Instances(r.Context(), seen(r), q)
		if err != nil {
			return nil, nil, fmt.Errorf("list instances: %w", err)
		}
		if take(known); len(known) < q.Limit {
			break
		}
		if q.After = known[len(known)-1].Description.Instance; len(list) > mostSorted {
			return nil, nil, FieldError{"query", "sort", fmt.Sprintf("there are more than %d instances to sort: ask for fewer by a filter", mostSorted)}
		}
	}
	keys.sort(list, words)
	return list[:min(limit, len(list))], nil, nil
}

// Matches reports whether an instance is one of those that q asks for, by what it
// says of them.
func (q *InstanceQuery) Matches(i *Instance) bool {
	value, there := i.Attributes[q.Attribute]
	var name, label string
	var labelled bool
	key, wanted, _ := strings.Cut(q.Label, ":")
	if i.Record != nil {
		name = i.Record.Name
		label, labelled = i.Record.Labels[key]
	}
	return (q.State == "" || string(i.State) == q.State) &&
		(q.Name == "" || i.Name == q.Name || name == q.Name) &&
		(q.Label == "" || labelled && label == wanted) &&
		(q.Attribute == "" || there && value == q.Value) &&
		(q.Agent == "" || i.Agent == q.Agent || i.Conflict != nil && slices.Contains(i.Conflict.Agents, q.Agent)) &&
		(q.User == "" || i.User != nil && *i.User == q.User) &&
		(q.Org == "" || i.Org != nil && *i.Org == q.Org)
}

var (
	instanceNames = []string{"instance_id", "name", "agent_id", "state", "user_id", "org_id", "first_seen", "last_reading", "age_s"}
	instanceKeys  = keysOf[Instance]{
		"instance_id":  textKey(func(i *Instance) *odometer.InstanceID { return &i.Description.Instance }),
		"name":         textKey(func(i *Instance) *string { return &i.Name }),
		"agent_id":     textKey(func(i *Instance) *odometer.AgentID { return &i.Agent }),
		"state":        textKey(func(i *Instance) *odometer.State { return &i.State }),
		"user_id":      textKey(func(i *Instance) *odometer.UserID { return i.User }),
		"org_id":       textKey(func(i *Instance) *odometer.OrgID { return i.Org }),
		"first_seen":   momentKey(func(i *Instance) *time.Time { return i.FirstSeen }),
		"last_reading": momentKey(func(i *Instance) *time.Time { return i.LastReading }),
		"age_s":        numberKey(func(i *Instance) *int64 { return i.Age }),
	}
	instancesSort   = sortParam("InstancesSort", "state,-last_reading", instanceNames)
	instancesFields = fieldsParam("InstancesFields", "instance_id,state,agent_id", fieldsOf[Instance]())
)
