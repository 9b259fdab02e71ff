package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"example.org/odometer"
	"example.org/odometer/api"
	"example.org/odometer/api/client"
)

// thresholdConfig is what `odometer threshold` is told.
type thresholdConfig struct {
	peopleConfig
	Holder      string
	Description string
	Disabled    bool
	Shared      bool
	scope       api.ThresholdScope
	Instance    string
	User        string
	Org         string
	Resource    string
	Condition   string
	Unit        string
	Limit       float64
	Levels      []string
	Every       string
	Timezone    string
	For         time.Duration
	Hysteresis  float64
	CoolDown    time.Duration
	Forecast    bool
	Alert       bool
	Channels    []string
	From, To    string
}

func newThreshold(s streams) *cobra.Command {
	parent := &cobra.Command{Use: "threshold", Short: "From which usage on somebody is told", Args: cobra.ArbitraryArgs, RunE: group}
	parent.AddCommand(newThresholdCreate(s), newThresholdList(s), newThresholdShow(s), newThresholdUpdate(s), newThresholdTest(s), newThresholdDelete(s), newThresholdHistory(s))
	return parent
}

// describe registers the flags that describe a threshold.
func (c *thresholdConfig) describe(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&c.Instance, "instance", "", "it covers this machine")
	flags.StringVar(&c.User, "user", "", "it covers the machines of this user")
	flags.StringVar(&c.Org, "org", "", "it covers the machines of this organisation")
	flags.BoolVar(&c.scope.All, "all", false, "it covers every machine that its holder sees")
	flags.BoolVar(&c.scope.Sum, "sum", false, "it watches their sum, in place of each by itself")
	flags.StringVar(&c.Resource, "resource", "", "what it watches: "+joinWords(api.Resources)+"; nothing for silence and gap")
	flags.StringVar(&c.Condition, "condition", "", "period, sustained, rate, budget, silence or gap (default: budget with --every, sustained with --for, else period)")
	flags.StringVar(&c.Unit, "unit", "", "of the limit and the levels, such as percent, hours, cores, gb, gb_hours or mbit_per_s (default: the usual one)")
	flags.Float64Var(&c.Limit, "limit", 0, "what levels are percentages of")
	flags.StringSliceVar(&c.Levels, "levels", nil, "such as 50,80,100, or with their names warning=80,critical=95")
	flags.StringVar(&c.Every, "every", "", "of a budget: hour, day or month")
	flags.StringVar(&c.Timezone, "timezone", "", "where days and months of a budget begin, such as Europe/Berlin (default: UTC)")
	flags.DurationVar(&c.For, "for", 0, "of what is sustained: how long it lasts before it is told")
	flags.BoolVar(&c.Forecast, "forecast", false, "of a budget: tell also when the limit will be reached at this rate")
	flags.Float64Var(&c.Hysteresis, "hysteresis", 0, "by how many percent of a level the value falls below it before it can be reached again")
	flags.DurationVar(&c.CoolDown, "cool-down", 0, "between two violations of one level")
	flags.StringSliceVar(&c.Channels, "notify", nil, "id of a channel that it tells; may be repeated (default: it only writes to the log)")
	flags.BoolVar(&c.Alert, "alert", false, "tell the channels urgently, and never in a digest")
	flags.StringVar(&c.Description, "description", "", "for people")
	flags.BoolVar(&c.Shared, "shared", false, "what is reached of it is seen by whoever sees the usage, and told to his webhooks")
	flags.BoolVar(&c.Disabled, "disabled", false, "it tells nothing for now")
	fixed := func(flag string, list []string) {
		cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(list, cobra.ShellCompDirectiveNoFileComp))
	}
	fixed("resource", words(api.Resources))
	fixed("condition", words([]odometer.Condition{odometer.ConditionPeriod, odometer.ConditionSustained, odometer.ConditionRate, odometer.ConditionBudget, odometer.ConditionSilence, odometer.ConditionGap}))
	fixed("every", words([]odometer.Cycle{odometer.CycleHour, odometer.CycleDay, odometer.CycleMonth}))
	fixed("unit", words([]odometer.Unit{
		odometer.UnitPercent, odometer.UnitSeconds, odometer.UnitHours, odometer.UnitCores, odometer.UnitGB, odometer.UnitMB, odometer.UnitGBHours,
		odometer.UnitMBPerSec, odometer.UnitMbitPerS, odometer.UnitIntervals,
	}))
	cmd.RegisterFlagCompletionFunc("notify", func(cmd *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
		return c.completeChannel(cmd, nil, word)
	})
}

// given changes a threshold to what the flags say that are given.
func (c *thresholdConfig) given(flags *pflag.FlagSet, d *api.ThresholdChange) error {
	var bad []error
	has := flags.Changed
	if has("instance") || has("user") || has("org") || has("all") {
		d.Scope = api.ThresholdScope{Instance: odometer.InstanceID(c.Instance), User: odometer.UserID(c.User), Org: odometer.OrgID(c.Org), All: c.scope.All, Sum: d.Scope.Sum}
	}
	if has("sum") {
		d.Scope.Sum = c.scope.Sum
	}
	put := func(flag string, into *string, value string) {
		if has(flag) {
			*into = value
		}
	}
	put("description", &d.Description, c.Description)
	put("resource", (*string)(&d.Resource), c.Resource)
	put("unit", (*string)(&d.Unit), c.Unit)
	put("timezone", &d.Timezone, c.Timezone)
	switch {
	case has("condition"):
		d.Condition = odometer.Condition(c.Condition)
	case has("every"):
		d.Condition = odometer.ConditionBudget
	case has("for"):
		d.Condition = odometer.ConditionSustained
	case d.Condition == "":
		d.Condition = odometer.ConditionPeriod
	}
	put("every", (*string)(&d.Every), c.Every)
	put("for", &d.For, c.For.String())
	put("cool-down", &d.CoolDown, c.CoolDown.String())
	number := func(flag string, into *float64, value float64) {
		if has(flag) && !odometer.Finite(value) {
			bad = append(bad, fmt.Errorf("--%s %v is no number", flag, value))
		} else if has(flag) {
			*into = value
		}
	}
	number("limit", &d.Limit, c.Limit)
	if has("levels") {
		var err error
		d.Levels, err = levelsOf(c.Levels, d.Limit != 0)
		bad = append(bad, wrong("--levels", err))
	}
	number("hysteresis", &d.Hysteresis, c.Hysteresis)
	if has("forecast") {
		d.Forecast = c.Forecast
	}
	if has("shared") {
		d.Shared = c.Shared
	}
	if has("disabled") {
		d.Enabled = new(!c.Disabled)
	}
	if has("notify") {
		d.Channels, d.Action = nil, ""
		for _, id := range c.Channels {
			bad = append(bad, wrong("--notify", odometer.ValidChannelID(id)))
			d.Channels = append(d.Channels, odometer.ChannelID(id))
		}
	}
	if has("alert") {
		if d.Action = ""; c.Alert {
			d.Action = odometer.ActionAlert
		}
	}
	return errors.Join(bad...)
}

// levelsOf reads levels: numbers, or names and numbers. Of a limit they are percentages.
func levelsOf(list []string, ofLimit bool) ([]api.ThresholdLevel, error) {
	usual := []string{"warning", "critical"}
	var levels []api.ThresholdLevel
	for i, text := range list {
		name, number, named := strings.Cut(text, "=")
		if !named {
			name, number = "", text
		}
		number = strings.TrimSuffix(strings.TrimSpace(number), "%")
		n, err := strconv.ParseFloat(number, 64)
		if err != nil || !odometer.Finite(n) {
			return nil, fmt.Errorf("%q is no number, and no name=number", text)
		}
		l := api.ThresholdLevel{Name: strings.TrimSpace(name), Value: n}
		if ofLimit {
			l.Value, l.Percent = 0, n
		} else if l.Name == "" {
			if l.Name = number; len(list) <= len(usual) {
				l.Name = usual[i]
			}
		}
		levels = append(levels, l)
	}
	return levels, nil
}

// boundTo is what the flag --holder says of whose a threshold or a channel is to be.
func boundTo(text string) (user *odometer.UserID, org *odometer.OrgID, err error) {
	kind, id, _ := strings.Cut(text, ":")
	switch {
	case text == "":
		return nil, nil, nil
	case kind == "user":
		return new(odometer.UserID(id)), nil, wrong("--holder", odometer.ValidUserID(odometer.UserID(id)))
	case kind == "org":
		return nil, new(odometer.OrgID(id)), wrong("--holder", odometer.ValidOrgID(odometer.OrgID(id)))
	}
	return nil, nil, fmt.Errorf("--holder %q: user:ID or org:ID", text)
}

// holderHelp describes the flag --holder where something is created.
const holderHelp = "whose it is to be, user:ID or org:ID (default: the token's own)"

// request is what the flags describe.
func (c *thresholdConfig) request(flags *pflag.FlagSet, name string) (ask api.ThresholdRequest, err error) {
	ask.Name = name
	ask.User, ask.Org, err = boundTo(c.Holder)
	return ask, errors.Join(wrong("NAME", odometer.ValidName(name)), err, c.given(flags, &ask.ThresholdChange))
}

const thresholdLong = `A threshold is of one machine, or of those of a user, of an organisation, or of all that
its holder sees; of each by itself, or with --sum of all together. It is of each period,
of what lasts (--for), of a rate, of the sum over an hour, a day or a month (--every), or
of a machine that is silent. docs/thresholds.md has all conditions and units.`

func newThresholdCreate(s streams) *cobra.Command {
	var c thresholdConfig
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Tell somebody from some usage on",
		Long:  "Tell somebody from some usage on. " + thresholdLong + "\n\nWhat is reached already is said, and told as well.",
		Example: `  odometer threshold create "processor of acme" --org acme --sum --resource cpu --every month --limit 500 --levels 50,80,100
  odometer threshold create busy --instance vm-1 --resource cpu --levels warning=80,critical=95 --for 10m --notify chn_…`,
		Args: arguments(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			ask, err := c.request(cmd.Flags(), args[0])
			if err != nil {
				return misuse(err)
			}
			server, err := c.client()
			if err != nil {
				return err
			}
			d, err := server.CreateThreshold(cmd.Context(), ask)
			if err != nil {
				return err
			}
			if err := show(&c.peopleConfig, s, d, thresholdColumns, thresholdCells(&d)); err != nil || c.JSON {
				return err
			}
			about := s.err
			if s.outTTY {
				about = s.out
			}
			now, err := server.TestThresholdOf(cmd.Context(), d.ID, "-1m", "now")
			if err != nil { // the threshold is there without it
				_, err = fmt.Fprintf(about, "what is reached already is not known: %s\n", whyNot(err))
				return err
			}
			return printNow(about, &d.ThresholdChange, now.Now)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	c.describe(cmd)
	cmd.Flags().StringVar(&c.Holder, "holder", "", holderHelp)
	c.common(cmd.Flags(), s)
	return cmd
}

func newThresholdUpdate(s streams) *cobra.Command {
	var c thresholdConfig
	cmd := newThresholdOne(s, &c, "update ID", "Change a threshold", `Change a threshold: what no flag says stays as it is. --disabled has it tell nothing for
now, and --disabled=false again.`,
		func(cmd *cobra.Command, server *client.Client, id odometer.ThresholdID) (d api.Threshold, err error) {
			if d, err = server.Threshold(cmd.Context(), id); err != nil {
				return d, err
			}
			if c.Name != "" {
				d.Name = c.Name
			}
			if err := c.given(cmd.Flags(), &d.ThresholdChange); err != nil {
				return d, misuse(err)
			}
			return server.UpdateThreshold(cmd.Context(), id, d.Version, d.ThresholdChange)
		})
	c.describe(cmd)
	cmd.Flags().StringVar(&c.Name, "name", "", "its other name")
	c.common(cmd.Flags(), s)
	return cmd
}

// newThresholdOne makes a command that does something with one threshold and shows it.
func newThresholdOne(s streams, c *thresholdConfig, use, short, long string, do func(*cobra.Command, *client.Client, odometer.ThresholdID) (api.Threshold, error)) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Long: long,
		Args: arguments(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := wrong("ID", odometer.ValidThresholdID(args[0])); err != nil {
				return misuse(err)
			}
			server, err := c.client()
			if err != nil {
				return err
			}
			d, err := do(cmd, server, odometer.ThresholdID(args[0]))
			if err != nil {
				return stale(err)
			}
			return show(&c.peopleConfig, s, d, thresholdColumns, thresholdCells(&d))
		},
		ValidArgsFunction: c.completeThreshold,
	}
}

func newThresholdShow(s streams) *cobra.Command {
	var c thresholdConfig
	cmd := newThresholdOne(s, &c, "show ID", "Show one threshold", `Show one threshold.`,
		func(cmd *cobra.Command, server *client.Client, id odometer.ThresholdID) (api.Threshold, error) {
			return server.Threshold(cmd.Context(), id)
		})
	c.common(cmd.Flags(), s)
	return cmd
}

func newThresholdDelete(s streams) *cobra.Command {
	var c thresholdConfig
	cmd := newThresholdOne(s, &c, "delete ID", "Delete a threshold", `Delete a threshold, and show what it was. What it told stays.`,
		func(cmd *cobra.Command, server *client.Client, id odometer.ThresholdID) (d api.Threshold, err error) {
			if d, err = server.Threshold(cmd.Context(), id); err == nil {
				_, err = server.DeleteThreshold(cmd.Context(), id, d.Version)
			}
			return d, err
		})
	c.common(cmd.Flags(), s)
	return cmd
}

func newThresholdList(s streams) *cobra.Command {
	var c thresholdConfig
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the thresholds that the token sees",
		Long:  `List the thresholds that the token sees, in the order of their ids.`,
		Args:  arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := c.checkLimit(); err != nil {
				return err
			}
			server, err := c.client()
			if err != nil {
				return err
			}
			var a api.ThresholdsAnswer
			a.Thresholds, a.Next, err = pagesOf(c.peopleConfig.Limit, func(after string, most int) ([]api.Threshold, *string, error) {
				page, err := server.Thresholds(cmd.Context(), client.AlertQuery{Holder: c.Holder, Resource: c.Resource, After: after, Limit: most})
				return page.Thresholds, page.Next, err
			})
			if err != nil {
				return err
			}
			if c.JSON {
				return printJSON(s.out, a)
			}
			return printList(s, "There is no threshold: odometer threshold create NAME --all --resource cpu --levels 80,95", thresholdColumns, a.Thresholds, thresholdCells)
		},
	}
	cmd.Flags().StringVar(&c.Holder, "holder", "", "only those of this one's: operator, user:ID or org:ID")
	cmd.Flags().StringVar(&c.Resource, "resource", "", "only what watches this")
	cmd.RegisterFlagCompletionFunc("resource", cobra.FixedCompletions(words(api.Resources), cobra.ShellCompDirectiveNoFileComp))
	cmd.Flags().IntVar(&c.peopleConfig.Limit, "limit", 0, "at most so many; 0 for all")
	c.common(cmd.Flags(), s)
	return cmd
}

func newThresholdTest(s streams) *cobra.Command {
	var c thresholdConfig
	cmd := &cobra.Command{
		Use:   "test [ID]",
		Short: "Say what a threshold would have done",
		Long: `Say what a threshold would have done, that there is or that the flags describe, and how
it would stand now. Nothing is changed and nobody is told. ` + thresholdLong,
		Example: `  odometer threshold test --org acme --sum --resource cpu --every day --limit 20 --levels 50,100 --from -7d
  odometer threshold test thr_… --from -24h`,
		Args: arguments(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			var ask api.ThresholdRequest
			if len(args) == 1 {
				err = wrong("ID", odometer.ValidThresholdID(args[0]))
			} else {
				ask, err = c.request(cmd.Flags(), "a trial")
			}
			if err != nil {
				return misuse(err)
			}
			server, err := c.client()
			if err != nil {
				return err
			}
			var t api.ThresholdTest
			if len(args) == 1 {
				var d api.Threshold
				if d, err = server.Threshold(cmd.Context(), odometer.ThresholdID(args[0])); err != nil {
					return err
				}
				ask.ThresholdChange = d.ThresholdChange
				t, err = server.TestThresholdOf(cmd.Context(), d.ID, c.From, c.To)
			} else {
				t, err = server.TestThreshold(cmd.Context(), ask, c.From, c.To)
			}
			if err != nil {
				return err
			}
			if c.JSON {
				return printJSON(s.out, t)
			}
			if err := printList(s, "Nothing would have been told.", violationColumns, t.Changes, violationCells); err != nil {
				return err
			}
			about := s.err
			if s.outTTY {
				about = s.out
			}
			return printNow(about, &ask.ThresholdChange, t.Now)
		},
		ValidArgsFunction: c.completeThreshold,
	}
	c.describe(cmd)
	cmd.Flags().StringVar(&c.Holder, "holder", "", holderHelp)
	cmd.Flags().StringVar(&c.From, "from", "", "from when on it is tried, RFC 3339 or such as -30d (default: -7d)")
	cmd.Flags().StringVar(&c.To, "to", "", "up to when (default: now)")
	c.common(cmd.Flags(), s)
	return cmd
}

// mostNow is how many subjects are named of those of which something is reached.
const mostNow = 5

// printNow says what is reached of a threshold now.
func printNow(w interface{ Write([]byte) (int, error) }, d *api.ThresholdChange, now []api.SubjectTest) error {
	var b strings.Builder
	named, more := 0, 0
	for i := range now {
		n := &now[i]
		switch {
		case len(n.Reached) == 0 && len(now) > 1:
		case named == mostNow:
			more++
		default:
			named++
			fmt.Fprintf(&b, "now %s%s: %s\n", subjectText(n, len(now)), valueText(d, n.Value), reachedText(n.Reached))
		}
	}
	if more > 0 {
		fmt.Fprintf(&b, "and %d more of which something is reached already\n", more)
	}
	if named == 0 {
		b.WriteString("nothing is reached yet\n")
	}
	_, err := w.Write([]byte(b.String()))
	return err
}

// subjectText names a subject where there are several.
func subjectText(n *api.SubjectTest, of int) string {
	switch {
	case of == 1:
		return ""
	case n.Instance != nil:
		return printable(string(*n.Instance)) + " "
	case n.User != nil:
		return printable(string(*n.User)) + " "
	}
	return printable(orEmpty(n.Org)) + " "
}

// valueText writes a value beside the limit of a threshold, where it has one.
func valueText(d *api.ThresholdChange, value float64) string {
	text := decimal(value)
	if d.Limit == 0 {
		return text + " " + unitText(d.Unit)
	}
	return fmt.Sprintf("%s of %s %s (%.1f %%)", text, decimal(d.Limit), unitText(d.Unit), 100*value/d.Limit)
}

// decimal writes a value with two digits after the point at most.
func decimal(f float64) string {
	text := strconv.FormatFloat(f, 'f', 2, 64)
	return strings.TrimSuffix(strings.TrimRight(text, "0"), ".")
}

// unitText writes a unit for a person.
func unitText(u odometer.Unit) string {
	if u == odometer.UnitPercent {
		return "%"
	}
	return strings.ReplaceAll(string(u), "_", " ")
}

func reachedText(levels []string) string {
	for i := range levels {
		levels[i] = printable(levels[i])
	}
	switch n := len(levels); n {
	case 0:
		return "nothing is reached yet"
	case 1:
		return levels[0] + " is reached already"
	default:
		return strings.Join(levels[:n-1], ", ") + " and " + levels[n-1] + " are reached already"
	}
}

func newThresholdHistory(s streams) *cobra.Command {
	var c thresholdConfig
	var q client.ViolationQuery
	cmd := &cobra.Command{
		Use:   "history ID",
		Short: "What was reached of a threshold",
		Long: `What was reached of a threshold, the newest first, each as it is now: odometer violation
show ID tells what became of one.`,
		Args: arguments(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := wrong("ID", odometer.ValidThresholdID(args[0])); err != nil {
				return misuse(err)
			}
			return listViolations(s, &c.peopleConfig, q, func(ctx context.Context, server *client.Client, q client.ViolationQuery) (api.ViolationsAnswer, error) {
				return server.ThresholdViolations(ctx, odometer.ThresholdID(args[0]), q)
			}, cmd.Context())
		},
		ValidArgsFunction: c.completeThreshold,
	}
	filterViolations(cmd, &c.peopleConfig, &q)
	c.common(cmd.Flags(), s)
	return cmd
}

// completeThreshold completes the id of a threshold.
func (c *serverFlags) completeThreshold(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return c.complete(cmd.Context(), func(ctx context.Context, server *client.Client) (words []string, err error) {
		page, err := server.Thresholds(ctx, client.AlertQuery{Limit: api.MaxPage})
		for _, d := range page.Thresholds {
			words = append(words, cobra.CompletionWithDesc(string(d.ID), d.Name))
		}
		return words, err
	})
}

var thresholdColumns = []column{
	{"ID", "id", false}, {"NAME", "name", false}, {"OF", "holder", false}, {"COVERS", "scope", false}, {"WATCHES", "resource", false}, {"CONDITION", "condition", false},
	{"LEVELS", "levels", false}, {"UNIT", "unit", false}, {"TELLS", "channels", false}, {"STATE", "state", false}, {"VERSION", "version", true},
}

// thresholdCells are the values of thresholdColumns.
func thresholdCells(d *api.Threshold) []cell {
	condition := string(d.Condition)
	switch {
	case d.Every != "":
		condition += " every " + string(d.Every)
	case d.For != "":
		condition += " for " + d.For
	}
	var levels []string
	for _, l := range d.Levels {
		text := l.Name + "=" + decimal(l.Value)
		if l.Percent != 0 {
			if text = decimal(l.Percent) + "%"; l.Name != text {
				text = l.Name + "=" + text
			}
		}
		levels = append(levels, text)
	}
	list := strings.Join(levels, ",")
	if d.Limit != 0 {
		list += " of " + decimal(d.Limit)
	}
	tells := strings.Join(words(d.Channels), ",")
	if d.Action == odometer.ActionAlert {
		tells = "urgently " + tells
	}
	state := "enabled"
	if !*d.Enabled {
		state = "disabled"
	}
	if d.Shared {
		state += ", shared"
	}
	if d.Managed != nil {
		state += ", by " + *d.Managed
	}
	return []cell{
		plain(string(d.ID)), plain(d.Name), plain(holderText(d.User, d.Org)), plain(scopeText(&d.Scope)), plain(string(d.Resource)), plain(condition),
		plain(list), plain(string(d.Unit)), plain(tells), plain(state), plain(fmt.Sprint(d.Version)),
	}
}

// holderText writes a holder as --holder takes it.
func holderText(user *odometer.UserID, org *odometer.OrgID) string {
	switch {
	case user != nil:
		return "user:" + string(*user)
	case org != nil:
		return "org:" + string(*org)
	}
	return "operator"
}

func scopeText(sc *api.ThresholdScope) string {
	text := "all"
	switch {
	case sc.Instance != "":
		text = string(sc.Instance)
	case sc.User != "":
		text = "user:" + string(sc.User)
	case sc.Org != "":
		text = "org:" + string(sc.Org)
	}
	if sc.Sum {
		text = "sum of " + text
	}
	return text
}

// standings are what a violation may be now.
var standings = []odometer.Standing{odometer.StandingOpen, odometer.StandingRecovered, odometer.StandingRetracted}

// oneOf refuses a word that is none of a list.
func oneOf[T ~string](flag, word string, list []T) error {
	if word == "" || slices.Contains(list, T(word)) {
		return nil
	}
	return fmt.Errorf("--%s %q is none of %s", flag, word, joinWords(list))
}
