package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"example.org/odometer"
	"example.org/odometer/ledger"
)

// backupConfig is what `odometer backup` and `odometer restore` are told.
type backupConfig struct {
	DataDir string // of the server
	Force   bool   // restore: move a ledger that is there aside
	JSON    bool
}

func newBackup(s streams) *cobra.Command {
	var c backupConfig
	cmd := &cobra.Command{
		Use:   "backup DIR",
		Short: "Copy the ledger, of a running server too, into a new directory",
		Long: `Copy one moment of the ledger into the new directory DIR, with a manifest that says
what it is and by what it is checked. The server goes on meanwhile. DIR is complete
when it is there.

The tokens, hosts and consumers that were let in and the audit log are in it, without
any secret that could be read: those of channels are sealed. What is not in it: the token
in admin.token, the key in notify.key that they are sealed with, and the key in queue.key
where there is one, which are secrets and kept elsewhere;
the agents' spools, which keep what they have sent for seven days so that a
restored ledger gets it again; and the queue, which is fed again from the ledger.`,
		Example: `  odometer backup /backup/2026-11-27`,
		Args:    arguments(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := ledger.Backup(cmd.Context(), filepath.Join(c.DataDir, ledgerFile), args[0])
			switch {
			case errors.Is(err, odometer.ErrConflict):
				return advise(err, "name another directory, or remove that one")
			case errors.Is(err, fs.ErrNotExist):
				return advise(err, "--data-dir names the server's data directory; the directory that DIR is to lie in must be there")
			case err != nil:
				return err
			}
			if c.JSON {
				return printJSON(s.out, m)
			}
			fmt.Fprintf(s.out, "ledger %s as of %s is backed up in %s\n", m.Ledger, m.Made.Format(time.RFC3339), args[0])
			fmt.Fprintf(s.out, "%s, %s in %s · generation %d · tables of version %d · %s\n",
				count(m.Records, "record", "records"), count(m.Entries, "entry", "entries"), count(int64(len(m.Partitions)), "partition", "partitions"),
				m.Generation, m.Schema, humanBytes(float64(m.Files[0].Bytes)))
			_, err = fmt.Fprintf(s.out, "not in it: admin.token and notify.key, secrets to be kept elsewhere\nbring it back: odometer restore %s\n", args[0])
			return err
		},
	}
	cmd.Flags().StringVar(&c.DataDir, "data-dir", defaultDataDir(s.env, ""), "the server's data directory")
	cmd.Flags().BoolVar(&c.JSON, "json", false, "print the manifest as JSON")
	return cmd
}

func newRestore(s streams) *cobra.Command {
	var c backupConfig
	cmd := &cobra.Command{
		Use:   "restore DIR",
		Short: "Bring a backup back as the ledger of a server that does not run",
		Long: `Bring the backup in DIR back as the ledger of a server that does not run. The copy is
checked against its manifest first. A ledger that is there is refused; with --force
it is moved into a directory replaced-TIME beside it.

When the server is started the ledger begins another generation, by which agents
know to offer again what they sent since the backup: they keep it for seven days.
What they no longer have is booked from the difference of the readings around it.
Events that came over HTTP since, releases from quarantine and reversals are not
offered again by anybody: send them, and decide, once more. Tokens are as they
were, so that one which was revoked since is valid again: revoke it again.
docs/billing.md says what a consumer of the topic does at another generation.`,
		Example: `  odometer restore /backup/2026-11-27 --data-dir /srv/odometer`,
		Args:    arguments(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			dir, err := lockDataDir(c.DataDir, "restore")
			if err != nil {
				return err
			}
			if err := dir.create("restore"); err != nil {
				return err
			}
			defer func() { err = errors.Join(err, dir.release()) }()
			r, err := ledger.Restore(cmd.Context(), args[0], dir.file(ledgerFile), ledger.RestoreOptions{Replace: c.Force})
			switch {
			case errors.Is(err, odometer.ErrConflict):
				return advise(err, "--force moves it aside")
			case errors.Is(err, ledger.ErrNewer):
				return advise(err, "restore it with the version that made it, or a later one")
			case err != nil:
				return err
			}
			if c.JSON {
				return printJSON(s.out, r)
			}
			fmt.Fprintf(s.out, "ledger %s as of %s is back: %s, %s\n", r.Ledger, r.Made.Format(time.RFC3339), count(r.Records, "record", "records"), count(r.Entries, "entry", "entries"))
			if r.Replaced != "" {
				fmt.Fprintf(s.out, "the ledger that was there lies in %s\n", r.Replaced)
			}
			if _, err := os.Stat(dir.file(tokenFile)); errors.Is(err, fs.ErrNotExist) {
				fmt.Fprintf(s.out, "there is no %s: put the old one there before the start, or give the agents the new one after it\n", dir.file(tokenFile))
			}
			_, err = fmt.Fprintf(s.out, "next: odometer serve --data-dir %s\n"+
				"generation %d begins then, and agents offer again what they sent since the backup\n"+
				"when their backlog is 0: odometer audit --data-dir %s\n", c.DataDir, r.Next, c.DataDir)
			return err
		},
	}
	cmd.Flags().StringVar(&c.DataDir, "data-dir", defaultDataDir(s.env, ""), "the server's data directory")
	cmd.Flags().BoolVar(&c.Force, "force", false, "move a ledger that is there aside")
	cmd.Flags().BoolVar(&c.JSON, "json", false, "as JSON")
	return cmd
}
