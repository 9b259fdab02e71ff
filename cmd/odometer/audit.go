package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"runtime/debug"

	"github.com/spf13/cobra"

	"example.org/odometer/audit"
	"example.org/odometer/ledger"
)

// auditGC is by how many percent the memory of an audit grows between two
// collections.
const auditGC = 400

// auditConfig is what `odometer audit` is told.
type auditConfig struct {
	serverFlags
	NATSTokenFile string // of an external queue
	JSON          bool
}

func newAudit(s streams) *cobra.Command {
	var c auditConfig
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Prove that the ledger's sums are right",
		Long: `Prove that the ledger's sums are right, with code that shares nothing with what
made them: everything received is accounted for once, spans tile, usage is the
difference of two readings, tables are what the journal says, and the topic USAGE
carries what is booked.

It reads one moment of the ledger, may run beside the server and changes nothing.
Exit code 0: everything holds. 1: something does not. 2: it could not run.`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			// What is read lives shortly and what is kept is bounded: to collect
			// less often makes it a third faster.
			debug.SetGCPercent(auditGC)
			report, err := runAudit(cmd.Context(), s, c)
			if err != nil {
				return &failure{code: exitUsage, err: err}
			}
			if c.JSON {
				err = printJSON(s.out, report)
			} else {
				err = showAudit(s, report)
			}
			if err == nil && !report.OK {
				err = silent(exitFailed)
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&c.JSON, "json", false, "as JSON")
	c.register(cmd.Flags(), s.env)
	cmd.Flags().StringVar(&c.NATSTokenFile, "nats-token-file", "", "file that holds the token of an external queue (default: the server's token)")
	return cmd
}

func runAudit(ctx context.Context, s streams, c auditConfig) (*audit.Report, error) {
	_, token, err := c.resolve()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	trust, err := c.trustFlags.config()
	if err != nil {
		return nil, err
	}
	server := c.Server
	if c.NATSTokenFile != "" {
		// With a token of its own the queue is asked directly.
		if token, err = readToken(c.NATSTokenFile); err != nil {
			return nil, err
		}
		if info, err := readServerInfo(c.DataDir); err == nil && server == "" {
			server = info.NATS
		}
	}
	bar := newProgress(s)
	defer bar.end()
	return audit.Run(ctx, audit.Options{
		DataDir: c.DataDir, Server: server, Token: token, TLS: trust,
		Progress: func(done, all int64) { bar.set(done, all, fmt.Sprintf("%d of %d records", done, all)) },
	})
}

func showAudit(s streams, r *audit.Report) error {
	verdict := "everything holds"
	if !r.OK {
		verdict = fmt.Sprintf("%d things do not hold", r.FindingsTotal)
	}
	fmt.Fprintf(s.out, "%s\n", verdict)
	fmt.Fprintf(s.out, "received %d = recorded %d + covered %d + duplicate %d + quarantined %d + held %d\n",
		r.Received, r.Recorded, r.Covered, r.Duplicates, r.Quarantined, r.Held)
	fmt.Fprintf(s.out, "entries %d (%d recovered, %d corrections) of %d instances in %d epochs; gaps %d s\n",
		r.Entries, r.Recovered, r.Corrections, r.Instances, r.Epochs, r.GapSeconds)
	_, err := fmt.Fprintf(s.out, "duplicated %d · lost %d · overlaps %d · unreconciled %d · conflicts refused %d\n",
		r.Duplicated, r.Lost, r.Overlaps, r.Unreconciled, r.Conflicts)
	if r.Pruned.Records > 0 {
		fmt.Fprintf(s.out, "journal before %s was pruned: %s, head signed by key %s; the audit starts from there\n",
			r.Pruned.Before, count(r.Pruned.Records, "record", "records"), r.Pruned.Key)
	}
	for _, f := range r.Findings {
		fmt.Fprintf(s.out, "%s: %s\n", f.Code, printable(f.Detail))
	}
	for _, w := range r.Warnings {
		fmt.Fprintf(s.err, "note: %s\n", printable(w))
	}
	return err
}

// rebuildConfig is what `odometer rebuild` is told.
type rebuildConfig struct {
	DataDir string // of the server
	JSON    bool
}

func newRebuild(s streams) *cobra.Command {
	var c rebuildConfig
	cmd := &cobra.Command{
		Use:   "rebuild",
		Short: "Build the ledger's tables anew from its journal and compare",
		Long: `Build the ledger's tables anew from its journal, in a temporary database, and
compare them with those that stand. It changes nothing and may run beside the
server. Exit code 0: they are equal. 1: they are not, or it failed.`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			bar := newProgress(s)
			report, err := ledger.Rebuild(cmd.Context(), filepath.Join(c.DataDir, ledgerFile), func(done, all int64) {
				bar.set(done, all, fmt.Sprintf("%d of %d records", done, all))
			})
			bar.end()
			if err != nil {
				return advise(fmt.Errorf("rebuild %s: %w", c.DataDir, err), "--data-dir names the server's data directory")
			}
			if c.JSON {
				err = printJSON(s.out, report)
			} else {
				err = showRebuild(s, report)
			}
			if err == nil && report.Total > 0 {
				err = silent(exitFailed)
			}
			return err
		},
	}
	cmd.Flags().StringVar(&c.DataDir, "data-dir", defaultDataDir(s.env, ""), "the server's data directory")
	cmd.Flags().BoolVar(&c.JSON, "json", false, "as JSON")
	return cmd
}

func showRebuild(s streams, r *ledger.Report) error {
	if r.Pruned > 0 {
		fmt.Fprintf(s.out, "%s of the journal were pruned; what they came to is taken from the signed base\n", count(r.Pruned, "record", "records"))
	}
	if r.Total == 0 {
		_, err := fmt.Fprintf(s.out, "%d records of the journal fold to the tables that stand: %d entries, no difference\n", r.Records, r.Entries)
		return err
	}
	_, err := fmt.Fprintf(s.out, "%d differences between the journal's fold and the tables that stand\n", r.Total)
	for _, d := range r.Differences {
		fmt.Fprintln(s.out, printable(d))
	}
	return err
}
