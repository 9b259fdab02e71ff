package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"

	"example.org/odometer"
	"example.org/odometer/api"
	"example.org/odometer/api/client"
	"example.org/odometer/queue"
)

// identity is who a host is to its server: a key of its own, and what the server
// answered when it let that in. Both are files of the agent's data directory, for
// its user alone; the seed of the key is sent to nobody.
//
// A host that has a one-time token and gets no answer asks again with the same key,
// over a crash too, and is answered what it would have been. A key that is let in no
// more is replaced where there is a token to let another one in.
type identity struct {
	dir    *dataDir
	agent  odometer.AgentID
	server string // http(s)://, or the queue's own address
	secret string // of a one-time token, "" for none
	logger *slog.Logger

	mu    sync.Mutex
	key   *queue.Key
	fresh bool // it was made here and no server is known to have let it in
	last  enrolled
}

// enrolled is what a server answered last, as enrolment.json has it.
type enrolled struct {
	Server     string           `json:"server"`
	Agent      odometer.AgentID `json:"agent_id"`
	Key        odometer.Key     `json:"public_key"`
	EnrolledAt time.Time        `json:"enrolled_at"`
	QueueURL   string           `json:"queue_url"`
}

// openIdentity returns who this host is, and makes a key where there is none and
// a secret by which it may be let in. Without both it returns nil: the host is
// nobody of its own.
func openIdentity(dir *dataDir, agent odometer.AgentID, server, secret string, logger *slog.Logger) (*identity, error) {
	i := &identity{dir: dir, agent: agent, server: server, secret: secret, logger: logger}
	seed, err := readPrivate("key file", dir.file(hostKeyFile))
	switch {
	case errors.Is(err, fs.ErrNotExist) && secret == "":
		return nil, nil
	case errors.Is(err, fs.ErrNotExist):
		err = i.renew()
	case err == nil:
		i.key, err = queue.ReadKey(bytes.TrimSpace(seed))
	}
	if err != nil {
		return nil, advise(fmt.Errorf("who this host is: %w", err), "without %s it can be enrolled anew", dir.file(hostKeyFile))
	}
	text, err := os.ReadFile(dir.file(enrolmentFile))
	if err == nil {
		err = json.Unmarshal(text, &i.last)
	}
	if err != nil {
		i.last = enrolled{} // the server tells it again
	}
	return i, nil
}

// known reports whether this server has let this key in.
func (i *identity) known() bool {
	return i.last.Server == i.server && i.last.Agent == i.agent && i.last.Key == i.key.Public()
}

// renew makes another key.
func (i *identity) renew() error {
	key, seed, err := queue.NewKey()
	if err != nil {
		return err
	}
	if err := writeFile(i.dir.file(hostKeyFile), append(seed, '\n')); err != nil {
		return fmt.Errorf("keep the key of this host: %w", err)
	}
	i.key, i.fresh = key, true
	return nil
}

// current returns the key.
func (i *identity) current() *queue.Key {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.key
}

// queue asks the server once to let this host in, or whether it still does, and
// returns where its queue is. While the server does not answer, or has too much to
// do, that is where it was last.
func (i *identity) queue(ctx context.Context, c *client.Client) (string, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	secret := ""
	if i.fresh {
		secret = i.secret
	}
	answer, err := i.ask(ctx, c, secret)
	if !i.fresh && i.secret != "" && errors.Is(err, odometer.ErrForbidden) {
		i.logger.Warn("the server does not let the key of this host in: it is enrolled anew, by another key and the one-time token", "key", i.key.Public(), "err", err)
		if err := i.renew(); err != nil {
			return "", err
		}
		answer, err = i.ask(ctx, c, i.secret)
	}
	if errors.Is(err, odometer.ErrUnavailable) && i.known() {
		return i.last.QueueURL, nil
	}
	if err != nil {
		return "", err
	}
	if answer.Agent != i.agent || answer.Key != i.key.Public() {
		return "", fmt.Errorf("%s let in host %.200q with key %.60q, which is not this one: %w", i.server, answer.Agent, answer.Key, odometer.ErrInvalid)
	}
	return i.keep(&answer)
}

func (i *identity) ask(ctx context.Context, c *client.Client, secret string) (api.Enrolled, error) {
	proof, err := i.key.Sign(odometer.EnrolStatement(i.agent, i.key.Public()))
	if err != nil {
		return api.Enrolled{}, fmt.Errorf("sign with the key of this host: %w", err)
	}
	ask := api.EnrolRequest{Agent: i.agent, Key: i.key.Public(), Proof: base64.StdEncoding.EncodeToString(proof)}
	if secret != "" {
		ask.Token = &secret
	}
	return c.Enrol(ctx, ask)
}

// keep notes what the server answered, and returns where the queue is.
func (i *identity) keep(a *api.Enrolled) (string, error) {
	now := enrolled{Server: i.server, Agent: a.Agent, Key: a.Key, EnrolledAt: a.EnrolledAt.UTC(), QueueURL: reachable(a.QueueURL, i.server)}
	i.fresh = false
	if now == i.last {
		return now.QueueURL, nil
	}
	if !i.known() {
		i.logger.Info("this host is enrolled", "agent", i.agent, "key", a.Key, "server", i.server)
	}
	text, err := json.MarshalIndent(now, "", "  ")
	if err == nil {
		err = writeFile(i.dir.file(enrolmentFile), append(text, '\n'))
	}
	if err != nil { // it is told again
		i.logger.Warn("what the server answered cannot be kept", "file", enrolmentFile, "err", err)
	}
	i.last = now
	return now.QueueURL, nil
}
