package queue

import (
	"encoding/json"
	"fmt"

	"example.org/odometer"
	"github.com/nats-io/nats.go"
)

const (
	// ownersPartBytes is how much of a list one message has, well below what NATS
	// takes by default.
	ownersPartBytes = 384 << 10
	// maxOwnersParts bounds the parts of a list: more than a host with 20,000
	// machines needs that each changed hands a few times.
	maxOwnersParts = 64
)

// ownersMessage is a part of a list on its way to an agent. It names the agent: an
// answer that somebody else had sent to this subject names another.
type ownersMessage struct {
	Agent    odometer.AgentID `json:"agent_id"`
	Revision string           `json:"revision"`
	Part     int              `json:"part"` // from 1
	Parts    int              `json:"parts"`
	Owners   []ownersEntry    `json:"owners"`
}

type ownersEntry struct {
	Instance odometer.InstanceID `json:"instance_id"`
	User     odometer.UserID     `json:"user_id"`
	Org      odometer.OrgID      `json:"org_id,omitempty"`
	From     int64               `json:"from_us"`
	Until    int64               `json:"until_us"`
}

// SendOwners tells an agent whose its instances are. It does not wait: the agent says
// which list it has, and one that is lost is sent again. A list that does not fit into
// 64 parts is an error wrapping [odometer.ErrInvalid].
func (c *Conn) SendOwners(agent odometer.AgentID, o odometer.Owners) error {
	var parts []ownersMessage
	part, bytes := ownersMessage{Agent: agent, Revision: o.Revision}, 0
	for _, own := range o.List {
		e := ownersEntry{own.Instance, own.Owner.User, own.Owner.Org, own.From, own.Until}
		size := 128 + len(e.Instance) + len(e.User) + len(e.Org) // and what JSON may add to them
		if bytes += size; bytes > ownersPartBytes/2 && len(part.Owners) > 0 {
			parts = append(parts, part)
			part.Owners, bytes = nil, size
		}
		part.Owners = append(part.Owners, e)
	}
	if parts = append(parts, part); len(parts) > maxOwnersParts {
		return fmt.Errorf("queue: owners for %s: %d parts, at most %d are sent: %w", agent, len(parts), maxOwnersParts, odometer.ErrInvalid)
	}
	for i := range parts {
		parts[i].Part, parts[i].Parts = i+1, len(parts)
		data, err := json.Marshal(&parts[i])
		if err == nil {
			err = sendError(c.nc.Publish(ownersPrefix+Token(string(agent)), data))
		}
		if err != nil {
			return fmt.Errorf("queue: owners for %s: %w", agent, err)
		}
	}
	return nil
}

// Owners calls take with each list of whose the instances of an agent are that the
// server tells, until stop is called. Lists of which a part is missing are left out.
func (c *Conn) Owners(agent odometer.AgentID, take func(odometer.Owners)) (stop func(), err error) {
	var coming odometer.Owners
	next := 1 // part
	sub, err := c.nc.Subscribe(ownersPrefix+Token(string(agent)), func(m *nats.Msg) {
		part, err := decodeOwners(m.Data, agent)
		if err != nil {
			c.log.Warn("owners that cannot be read are ignored", "err", err)
			return
		}
		if part.Part == 1 {
			coming, next = odometer.Owners{Revision: part.Revision}, 1
		}
		if part.Part != next || part.Revision != coming.Revision {
			next = 0 // until the next list begins
			return
		}
		for _, e := range part.Owners {
			coming.List = append(coming.List, odometer.Ownership{
				Instance: e.Instance, Owner: odometer.Owner{User: e.User, Org: e.Org}, From: e.From, Until: e.Until,
			})
		}
		if next++; part.Part == part.Parts {
			take(coming)
			coming, next = odometer.Owners{}, 0
		}
	})
	if err != nil {
		return nil, unavailable("subscribe to owners", err)
	}
	return func() { _ = sub.Unsubscribe() }, nil
}

func decodeOwners(data []byte, agent odometer.AgentID) (m ownersMessage, err error) {
	if err := json.Unmarshal(data, &m); err != nil {
		return m, fmt.Errorf("owners: %w: %w", odometer.ErrInvalid, err)
	}
	if m.Agent != agent || m.Revision == "" || m.Part < 1 || m.Part > m.Parts || m.Parts > maxOwnersParts {
		return m, fmt.Errorf("owners for agent %q, revision %q, part %d of %d: %w", m.Agent, clip(m.Revision), m.Part, m.Parts, odometer.ErrInvalid)
	}
	return m, nil
}
