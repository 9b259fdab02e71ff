package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"example.org/odometer"
	"example.org/odometer/account"
	"example.org/odometer/api/client"
	"example.org/odometer/queue"
)

func newNATS(s streams) *cobra.Command {
	parent := &cobra.Command{Use: "nats", Short: "An external queue", Args: cobra.ArbitraryArgs, RunE: group}
	parent.AddCommand(newNATSConfig(s))
	return parent
}

// natsHeader begins what is printed.
const natsHeader = `# What the servers of an external queue have to be told of odometer, its hosts and its
# consumers; there is no secret in it. Include this file in the configuration of each,
# and have them read it again (nats-server --signal reload) whenever a host or a
# consumer was let in or put out.
`

func newNATSConfig(s streams) *cobra.Command {
	var c serverFlags
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Print what the servers of an external queue have to be told",
		Long: `Print what the NATS servers of an external queue have to be told, so that they let in
"odometer serve --nats-own-key", the hosts and the consumers, each by its own key, and
hold each to what is its own, as the embedded queue does. There is no secret in it.

Include it in the configuration of each server, beside its jetstream { … }, and have
them read it again (nats-server --signal reload) whenever a host or a consumer was let
in or put out: those that are left out lose their connection then, and not before. Run
it where the server runs, which may be stopped.`,
		Example: `  odometer nats config > /etc/nats/odometer.conf && nats-server --signal reload`,
		Args:    arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := absolute(c.DataDir)
			if err != nil {
				return misuse(err)
			}
			confine()
			if err := os.MkdirAll(dir, 0o700); err != nil {
				return advise(fmt.Errorf("create the data directory: %w", err), "--data-dir names another")
			}
			key, err := queueKey((&dataDir{path: dir}).file(queueKeyFile))
			if err != nil {
				return err
			}
			hosts, consumers, err := c.members(cmd.Context(), dir)
			if err != nil {
				return err
			}
			_, err = fmt.Fprint(s.out, natsHeader, queue.Config(key.Public(), hosts, consumers))
			return err
		},
	}
	c.register(cmd.Flags(), s.env)
	return cmd
}

// members returns the hosts and consumers that the server in a data directory knows:
// as it says itself, or as they are in the file while none runs.
func (c *serverFlags) members(ctx context.Context, path string) (hosts []odometer.Host, consumers []odometer.Consumer, err error) {
	server, err := c.client()
	if err != nil {
		return nil, nil, err
	}
	list, err := allHosts(ctx, server, 0)
	if _, away := errors.AsType[*client.UnreachableError](err); away {
		return storedMembers(ctx, path)
	}
	if err != nil {
		return nil, nil, err
	}
	for _, h := range list.Hosts {
		if h.RevokedAt == nil {
			hosts = append(hosts, odometer.Host{Agent: h.Agent, Key: h.Key})
		}
	}
	answer, err := server.Consumers(ctx)
	for _, a := range answer.Consumers {
		if a.RevokedAt == nil {
			consumers = append(consumers, odometer.Consumer{ID: a.ID, Key: a.Key})
		}
	}
	return hosts, consumers, err
}

// storedMembers reads them from the file that no server has open.
func storedMembers(ctx context.Context, path string) (hosts []odometer.Host, consumers []odometer.Consumer, err error) {
	dir, err := lockDataDir(path, "nats config")
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, dir.release()) }()
	if _, err := os.Stat(dir.file(ledgerFile)); errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	accounts, err := account.OpenAccounts(ctx, account.AccountsOptions{Path: dir.file(ledgerFile)})
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, accounts.Close()) }()
	for after := odometer.AgentID(""); ; {
		const some = 1000
		page, err := accounts.Hosts(ctx, after, some)
		if err != nil {
			return nil, nil, err
		}
		hosts = append(hosts, page...)
		if len(page) < some {
			break
		}
		after = page[some-1].Agent
	}
	consumers, err = accounts.Consumers(ctx)
	return hosts, consumers, err
}

// queueKey returns the key by which the server shows an external queue who it is,
// and makes one where there is none.
func queueKey(path string) (*queue.Key, error) {
	seed, err := readPrivate("key file", path)
	if err == nil {
		key, err := queue.ReadKey(bytes.TrimSpace(seed))
		if err != nil {
			return nil, fmt.Errorf("key file %s: %w", path, err)
		}
		return key, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	key, seed, err := queue.NewKey()
	if err == nil {
		err = writeFile(path, append(seed, '\n'))
	}
	if err != nil {
		return nil, fmt.Errorf("keep the server's key for the queue: %w", err)
	}
	return key, nil
}
