package queue

import (
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"sync"

	"example.org/odometer"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"
)

// Who is let in, and what they may do then:
//
//	account  who                                   what
//	$G       who has the token                     everything: the streams are here
//	$G       who has it and names an agent         what that agent does
//	HOSTS    an agent by its own key               what that agent does
//
// HOSTS has no streams and no JetStream: what an agent sends there the server
// hands to $G, subject by subject, and what is for an agent it hands back. So a
// reply subject, which NATS lets everybody choose freely and to which JetStream
// answers with its own rights, leads from HOSTS to nowhere but HOSTS.
const hostsAccount = "HOSTS"

// maxPerKey connections may be open with one key: an agent has one, and one that
// the server has not noticed yet is gone. The oldest makes room.
const maxPerKey = 4

// Peers knows whose key it is, and forgets keys that are revoked.
type Peers interface {
	// AgentOf returns the agent that has a key. It waits for nothing.
	AgentOf(key odometer.Key) (odometer.AgentID, bool)
}

// door is the server's [server.Authentication].
type door struct {
	token string // "" for none
	peers Peers  // nil for nobody

	mu    sync.Mutex // held while a key is looked up and its connection noted
	nats  *server.Server
	hosts *server.Account // nil until there is one
	open  map[odometer.Key][]uint64
}

// prepare makes the account of the hosts, once the server runs.
func (d *door) prepare(ns *server.Server) error {
	hosts, err := ns.RegisterAccount(hostsAccount)
	if err != nil {
		return fmt.Errorf("queue: account of the hosts: %w", err)
	}
	main, only := ns.GlobalAccount(), []*server.Account{hosts}
	for _, prefix := range []string{ingestPrefix, receiptRequestPrefix, livePrefix} {
		err := main.AddServiceExport(prefix+"*", only)
		if err == nil {
			err = hosts.AddServiceImport(main, prefix+"*", prefix+"*")
		}
		if err != nil {
			return fmt.Errorf("queue: hand on %s*: %w", prefix, err)
		}
	}
	for _, subject := range []string{receiptPrefix + "*", inboxPrefix + ">"} {
		err := main.AddStreamExport(subject, only)
		if err == nil {
			err = hosts.AddStreamImport(main, subject, "")
		}
		if err != nil {
			return fmt.Errorf("queue: hand back %s: %w", subject, err)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.nats, d.hosts = ns, hosts
	return nil
}

// Check implements [server.Authentication].
func (d *door) Check(c server.ClientAuthentication) bool {
	o := c.GetOpts()
	if o.Nkey != "" {
		return d.checkKey(c, o)
	}
	if d.token == "" || subtle.ConstantTimeCompare([]byte(o.Token), []byte(d.token)) != 1 {
		return false
	}
	user := &server.User{Username: o.Username}
	if o.Username != "" {
		agent, err := ParseToken(o.Username)
		if err != nil || odometer.ValidID("agent", agent) != nil {
			return false
		}
		user.Permissions = agentPermissions(o.Username)
	}
	c.RegisterUser(user)
	return true
}

// checkKey lets in who has signed the server's nonce with a key that is known.
func (d *door) checkKey(c server.ClientAuthentication, o *server.ClientOpts) bool {
	if d.peers == nil || !signed(o.Nkey, c.GetNonce(), o.Sig) {
		return false
	}
	key := odometer.Key(o.Nkey)
	d.mu.Lock()
	defer d.mu.Unlock()
	agent, ok := d.peers.AgentOf(key)
	if !ok || d.hosts == nil || odometer.ValidID("agent", string(agent)) != nil {
		return false
	}
	ids := slices.DeleteFunc(d.open[key], func(id uint64) bool { return d.nats.GetClient(id) == nil })
	for len(ids) >= maxPerKey {
		go d.nats.DisconnectClientByID(ids[0]) // takes locks that the server may hold now
		ids = ids[1:]
	}
	d.open[key] = append(ids, c.GetID())
	c.RegisterUser(&server.User{Username: o.Nkey, Account: d.hosts, Permissions: agentPermissions(Token(string(agent)))})
	return true
}

// signed reports whether a text is the signature of the nonce by a user's key.
func signed(key string, nonce []byte, text string) bool {
	sig, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(text, "="))
	if err != nil || len(nonce) == 0 || !nkeys.IsValidPublicUserKey(key) {
		return false
	}
	public, err := nkeys.FromPublicKey(key)
	return err == nil && public.Verify(nonce, sig) == nil
}

// expel ends the connections that were made with a key.
func (d *door) expel(key odometer.Key) {
	d.mu.Lock()
	ids := d.open[key]
	delete(d.open, key)
	d.mu.Unlock()
	for _, id := range ids {
		_ = d.nats.DisconnectClientByID(id) // an error says that it is gone
	}
}

// agentPermissions says what an agent may do: send to its own subjects and
// read its own receipts and answers.
func agentPermissions(token string) *server.Permissions {
	return &server.Permissions{
		Publish:   &server.SubjectPermission{Allow: []string{ingestPrefix + token, receiptRequestPrefix + token, livePrefix + token}},
		Subscribe: &server.SubjectPermission{Allow: []string{receiptPrefix + token, inboxPrefix + token + ".>"}},
	}
}
