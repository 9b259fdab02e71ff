package main

import (
	"encoding/json"
	"fmt"
	"runtime"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"example.org/odometer/internal/config"
)

// envPrefix begins the name of every environment variable that is a setting.
const envPrefix = "ODOMETER"

// newRoot builds the tree of commands.
func newRoot(s streams) *cobra.Command {
	root := &cobra.Command{
		Use:   "odometer",
		Short: "Meter virtual machines for billing",
		Long: `Odometer measures what every machine really used and keeps it in a ledger that
counts each of it exactly once.

  odometer serve        everything in one process, metering this machine
  odometer usage list   what was used

Every setting is a flag, a variable ODOMETER_… (--data-dir is ODOMETER_DATA_DIR)
and a key of the YAML file that --config names, in this order of precedence.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.ArbitraryArgs,
		RunE:          group,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			switch name := cmd.Name(); {
			case name == "help", name == cobra.ShellCompRequestCmd, name == cobra.ShellCompNoDescRequestCmd, strings.HasPrefix(cmd.CommandPath(), "odometer completion"):
				return nil
			}
			return misuse(loadSettings(cmd.Flags(), s.env))
		},
	}
	root.PersistentFlags().String("config", "", "YAML file of settings: the names of the flags are its keys")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return misuse(fmt.Errorf("%s: %w; `%s --help` lists the flags", cmd.Name(), err, cmd.CommandPath()))
	})
	root.AddCommand(
		newServe(s), newAgent(s), newReplay(s),
		newUsage(s), newInstance(s), newEvent(s), newQuarantine(s), newMonth(s), newOrg(s), newUser(s), newToken(s), newHosts(s), newConsumer(s), newThreshold(s), newViolation(s), newChannel(s), newNATS(s), newStatus(s), newTop(s), newMetrics(s),
		newAudit(s), newAuditLog(s), newRebuild(s), newBackup(s), newRestore(s), newDoctor(s), newVersion(s),
	)
	completing(root, s)
	return root
}

// loadSettings reads the settings of a command that are no flags: from the environment,
// and from the file that the flag --config names.
func loadSettings(flags *pflag.FlagSet, env func(string) (string, bool)) error {
	file := flags.Lookup("config").Value.String() // of the root
	if v, ok := env(config.Variable(envPrefix, "config")); ok && !flags.Changed("config") {
		file = v
	}
	return config.Load(flags, envPrefix, oneToken(flags, env), file, "help", "config")
}

// group runs a command that only has others below it: it shows them, and
// refuses what is none of them.
func group(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return cmd.Help()
	}
	hint := fmt.Sprintf("`%s --help` lists the commands", cmd.CommandPath())
	if cmd.SuggestionsMinimumDistance <= 0 {
		cmd.SuggestionsMinimumDistance = 2
	}
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		hint = fmt.Sprintf("did you mean `%s %s`?", cmd.CommandPath(), near[0])
	}
	return misuse(fmt.Errorf("unknown command %q; %s", args[0], hint))
}

func newVersion(s streams) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Say which version this is",
		Args:  arguments(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			if asJSON {
				return json.NewEncoder(s.out).Encode(map[string]string{
					"version": Version, "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH,
				})
			}
			_, err := fmt.Fprintf(s.out, "odometer %s %s %s/%s\n", versionText(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return cmd
}

// oneToken hides the variable for a token where the flag for a token file is
// given, and the other way round: a flag goes before a variable.
func oneToken(flags *pflag.FlagSet, env func(string) (string, bool)) func(string) (string, bool) {
	hidden := ""
	switch {
	case flags.Changed("token-file"):
		hidden = config.Variable(envPrefix, "token")
	case flags.Changed("token"):
		hidden = config.Variable(envPrefix, "token-file")
	}
	return func(name string) (string, bool) {
		if name == hidden {
			return "", false
		}
		return env(name)
	}
}
