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
//	READERS  a consumer by its own key             reads its places in USAGE and VIOLATIONS
//
// HOSTS and READERS have no streams and no JetStream: what is sent there the server
// hands to $G, subject by subject, and what is for them it hands back. So a reply
// subject, which NATS lets everybody choose freely and to which JetStream answers
// with its own rights, leads from HOSTS to nowhere but HOSTS.
const (
	hostsAccount   = "HOSTS"
	readersAccount = "READERS"
)

// maxPerKey connections may be open with one key: an agent has one, and one that
// the server has not noticed yet is gone. The oldest makes room.
const maxPerKey = 4

// Peers knows whose key it is, and forgets keys that are revoked.
type Peers interface {
	// PeerOf returns who has a key. It waits for nothing.
	PeerOf(key odometer.Key) (odometer.Peer, bool)
}

// door is the server's [server.Authentication].
type door struct {
	token   string              // "" for none
	peers   Peers               // nil for nobody
	refused func(remote string) // nil for nobody

	mu      sync.Mutex // held while a key is looked up and its connection noted
	nats    *server.Server
	hosts   *server.Account // nil until there is one
	readers *server.Account
	open    map[odometer.Key][]uint64
}

// passage is what an account hands to another: requests from it, or messages to it.
type passage struct {
	subject string
	answers server.ServiceRespType // to requests
}

// Each account's passages to $G, and back.
var (
	hostsTo   = []passage{{ingestPrefix + "*", server.Singleton}, {receiptRequestPrefix + "*", server.Singleton}, {livePrefix + "*", server.Singleton}}
	hostsFrom = []string{receiptPrefix + "*", ownersPrefix + "*", inboxPrefix + ">"}
	readersTo = readerPassages()
)

// readerPassages are, for each topic, what a consumer asks of its place there.
func readerPassages() (list []passage) {
	for _, t := range topics {
		list = append(list, passage{nextPrefix + t.stream + ".*", server.Streamed}, passage{consumerInfoPrefix + t.stream + ".*", server.Singleton}, passage{ackPrefix + t.stream + ".>", server.Singleton})
	}
	return append(list, passage{accountInfo, server.Singleton})
}

// prepare makes the accounts, once the server runs.
func (d *door) prepare(ns *server.Server) error {
	hosts, err := join(ns, hostsAccount, hostsTo, hostsFrom)
	if err != nil {
		return err
	}
	readers, err := join(ns, readersAccount, readersTo, nil)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.nats, d.hosts, d.readers = ns, hosts, readers
	return nil
}

// join makes an account that is joined to $G by passages.
func join(ns *server.Server, name string, to []passage, from []string) (*server.Account, error) {
	account, err := ns.RegisterAccount(name)
	if err != nil {
		return nil, fmt.Errorf("queue: account %s: %w", name, err)
	}
	main, only := ns.GlobalAccount(), []*server.Account{account}
	for _, p := range to {
		err := main.AddServiceExportWithResponse(p.subject, p.answers, only)
		if err == nil {
			err = account.AddServiceImport(main, p.subject, p.subject)
		}
		if err != nil {
			return nil, fmt.Errorf("queue: hand on %s from %s: %w", p.subject, name, err)
		}
	}
	for _, subject := range from {
		err := main.AddStreamExport(subject, only)
		if err == nil {
			err = account.AddStreamImport(main, subject, "")
		}
		if err != nil {
			return nil, fmt.Errorf("queue: hand back %s to %s: %w", subject, name, err)
		}
	}
	return account, nil
}

// Check implements [server.Authentication].
func (d *door) Check(c server.ClientAuthentication) bool {
	known := d.check(c)
	if !known && d.refused != nil {
		d.refused(c.RemoteAddress().String())
	}
	return known
}

func (d *door) check(c server.ClientAuthentication) bool {
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
	peer, ok := d.peers.PeerOf(key)
	if !ok || d.hosts == nil {
		return false
	}
	user := d.user(peer)
	if user == nil {
		return false
	}
	user.Username = o.Nkey
	ids := slices.DeleteFunc(d.open[key], func(id uint64) bool { return d.nats.GetClient(id) == nil })
	for len(ids) >= maxPerKey {
		go d.nats.DisconnectClientByID(ids[0]) // takes locks that the server may hold now
		ids = ids[1:]
	}
	d.open[key] = append(ids, c.GetID())
	c.RegisterUser(user)
	return true
}

// user says what who has a key may do, nil for nothing.
func (d *door) user(p odometer.Peer) *server.User {
	switch {
	case odometer.ValidID("agent", string(p.Agent)) == nil && p.Consumer == "":
		return &server.User{Account: d.hosts, Permissions: agentPermissions(Token(string(p.Agent)))}
	case odometer.ValidConsumerID(string(p.Consumer)) == nil && p.Agent == "":
		return &server.User{Account: d.readers, Permissions: readerPermissions(string(p.Consumer))}
	}
	return nil
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
// read its own receipts, whose its own instances are, and its own answers.
func agentPermissions(token string) *server.Permissions {
	return &server.Permissions{
		Publish:   &server.SubjectPermission{Allow: []string{ingestPrefix + token, receiptRequestPrefix + token, livePrefix + token}},
		Subscribe: &server.SubjectPermission{Allow: []string{receiptPrefix + token, ownersPrefix + token, inboxPrefix + token + ".>"}},
	}
}

// readerPermissions says what a consumer may do: ask for what is next at its place
// in each topic, and acknowledge it.
func readerPermissions(id string) *server.Permissions {
	var ask []string
	for _, t := range topics {
		ask = append(ask, nextPrefix+t.stream+"."+id, consumerInfoPrefix+t.stream+"."+id, ackPrefix+t.stream+"."+id+".>")
	}
	return &server.Permissions{
		Publish:   &server.SubjectPermission{Allow: ask},
		Subscribe: &server.SubjectPermission{Allow: []string{inboxPrefix + id + ".>"}},
	}
}
