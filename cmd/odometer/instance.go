package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"example.org/odometer"
	"example.org/odometer/api"
	"example.org/odometer/api/client"
)

// instanceConfig is what `odometer instance` is told.
type instanceConfig struct {
	serverFlags
	client.InstanceQuery
	JSON       bool
	Unassigned bool
}

func newInstance(s streams) *cobra.Command {
	parent := &cobra.Command{Use: "instance", Short: "The machines of all hosts", Args: cobra.ArbitraryArgs, RunE: group}
	parent.AddCommand(newInstanceList(s), newInstanceShow(s), newInstanceHistory(s), newInstanceOwner(s), newInstanceGrant(s), newInstanceImport(s),
		newInstanceCreate(s), newInstanceUpdate(s), newInstanceDelete(s))
	return parent
}

func newInstanceList(s streams) *cobra.Command {
	var c instanceConfig
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the machines of all hosts",
		Long: `List the machines of all hosts, in order of their ids: those that agents
describe, and those of which something is booked.

A machine is running, paused or stopped; gone, where its host no longer has it;
unobserved, where nothing is heard of its host; unknown, where nobody describes
it. AGE is that of its last reading. What runs on two hosts at once is named
below the table.

--unassigned shows those that are nobody's, and what their hypervisor says of whose
they are: "serve --owner-map" and "instance owner assign" make them somebody's.

On a pipe amounts are exact, and what is not known is -.`,
		Example: `  odometer instance list --state running --agent host-2
  odometer instance list --attribute openstack.project_id:3f1c --json`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if c.State != "" && !slices.Contains(api.InstanceStates, c.State) {
				return misuse(fmt.Errorf("--state %q: one of %s is possible", c.State, strings.Join(api.InstanceStates, ", ")))
			}
			if key, _, ok := strings.Cut(c.Attribute, ":"); c.Attribute != "" && (!ok || key == "") {
				return misuse(fmt.Errorf("--attribute %q: key:value is expected, such as rack:r12", c.Attribute))
			}
			if _, err := readLabels([]string{c.Label}); c.Label != "" && err != nil {
				return misuse(fmt.Errorf("--label: %w", err))
			}
			if c.Limit < 0 {
				return misuse(fmt.Errorf("--limit %d: a number from 1, or 0 for all", c.Limit))
			}
			if c.Unassigned && c.User != "" && c.User != string(odometer.Unassigned) {
				return misuse(errors.New("--unassigned and --user are both given; one of them is enough"))
			}
			if c.Unassigned {
				c.User = string(odometer.Unassigned)
			}
			server, err := c.client()
			if err != nil {
				return err
			}
			answer, err := allInstances(cmd.Context(), server, c.InstanceQuery)
			if err != nil {
				return err
			}
			if c.JSON {
				return printJSON(s.out, answer)
			}
			return showInstances(s, answer, c.Unassigned)
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&c.Agent, "agent", "", "only those on this host")
	flags.StringVar(&c.State, "state", "", "only those in this state: "+strings.Join(api.InstanceStates, ", "))
	flags.StringVar(&c.Name, "name", "", "only those with this name, by their host or by people")
	flags.StringVar(&c.Attribute, "attribute", "", "only those with this attribute, as key:value")
	flags.StringVar(&c.Label, "label", "", "only those with this label, as key:value")
	flags.StringVar(&c.User, "user", "", "only those of this user")
	flags.StringVar(&c.Org, "org", "", "only those of this organisation")
	flags.BoolVar(&c.Unassigned, "unassigned", false, "only those that are nobody's, with what their hypervisor says of whose they are")
	flags.IntVar(&c.Limit, "limit", 0, "at most so many; 0 for all")
	flags.BoolVar(&c.JSON, "json", false, "as JSON")
	c.register(flags, s.env)
	cmd.RegisterFlagCompletionFunc("state", cobra.FixedCompletions(api.InstanceStates, cobra.ShellCompDirectiveNoFileComp))
	cmd.RegisterFlagCompletionFunc("agent", func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		return c.complete(cmd.Context(), func(ctx context.Context, server *client.Client) (words []string, err error) {
			st, err := server.Status(ctx)
			for _, a := range st.Agents {
				words = append(words, string(a.ID))
			}
			return words, err
		})
	})
	return cmd
}

func newInstanceShow(s streams) *cobra.Command {
	var c instanceConfig
	cmd := &cobra.Command{
		Use:   "show INSTANCE",
		Short: "Show what is known of one machine",
		Long: `Show what is known of one machine: where it is, what it was given, its attributes,
its last reading, and what is open. INSTANCE is its id, or its name where no other
machine has the same.`,
		Example: `  odometer instance show 5d0c7b0e-9e0f-4b66-8d2b-3c6a0a1f2e01
  odometer instance show web --json`,
		Args:              arguments(cobra.ExactArgs(1)),
		ValidArgsFunction: c.completeInstance,
		RunE: func(cmd *cobra.Command, args []string) error {
			server, err := c.client()
			if err != nil {
				return err
			}
			answer, err := findInstance(cmd.Context(), server, args[0])
			if err != nil {
				return err
			}
			if c.JSON {
				return printJSON(s.out, answer)
			}
			return showInstance(s, answer)
		},
	}
	cmd.Flags().BoolVar(&c.JSON, "json", false, "as JSON")
	c.register(cmd.Flags(), s.env)
	return cmd
}

// completeInstance completes the id of an instance.
func (c *serverFlags) completeInstance(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return c.complete(cmd.Context(), func(ctx context.Context, server *client.Client) (words []string, err error) {
		page, err := server.Instances(ctx, client.InstanceQuery{Limit: api.MaxPage})
		for _, i := range page.Instances {
			words = append(words, cobra.CompletionWithDesc(string(i.Description.Instance), cmp.Or(i.Name, string(i.State))))
		}
		return words, err
	})
}

// allInstances returns as many instances as q.Limit says, 0 for all.
func allInstances(ctx context.Context, server *client.Client, q client.InstanceQuery) (all api.InstancesAnswer, err error) {
	all.Instances, all.Next, err = pagesOf(q.Limit, func(after string, most int) ([]api.Instance, *string, error) {
		q.Limit = most
		if after != "" { // before that it goes on from where it was asked to
			q.After = after
		}
		page, err := server.Instances(ctx, q)
		all.At = page.At
		return page.Instances, page.Next, err
	})
	return all, err
}

// findInstance returns the instance that has an id, or else a name.
func findInstance(ctx context.Context, server *client.Client, word string) (api.InstanceAnswer, error) {
	answer, err := server.Instance(ctx, odometer.InstanceID(word))
	if err == nil || !errors.Is(err, odometer.ErrNotFound) && !errors.Is(err, odometer.ErrInvalid) {
		return answer, err
	}
	named, nameErr := server.Instances(ctx, client.InstanceQuery{Name: word, Limit: 2})
	switch {
	case nameErr != nil:
		return answer, errors.Join(err, nameErr)
	case len(named.Instances) == 0:
		return answer, advise(fmt.Errorf("no instance has the id or the name %q: %w", word, odometer.ErrNotFound), "odometer instance list shows them")
	case len(named.Instances) > 1:
		return answer, advise(fmt.Errorf("several instances have the name %q", word), "name one by its id: odometer instance list --name %q", word)
	}
	return server.Instance(ctx, named.Instances[0].Description.Instance)
}

// instanceNamed returns the id of the instance that has an id, or else a name.
func instanceNamed(ctx context.Context, server *client.Client, word string) (odometer.InstanceID, error) {
	answer, err := findInstance(ctx, server, word)
	return answer.Description.Instance, err
}

var instanceColumns = []column{
	{"INSTANCE", "instance_id", false}, {"NAME", "name", false}, {"HOST", "agent_id", false}, {"STATE", "state", false},
	{"SOURCE", "source", false}, {"VCPUS", "vcpus", true}, {"MEM", "memory_bytes", true}, {"DISKS", "disks", true},
	{"NICS", "interfaces", true}, {"GPUS", "gpus", true}, {"USER", "user_id", false}, {"ORG", "org_id", false}, {"AGE", "age_s", true},
}

// hintAttributes are what hypervisors say of whose a machine is, the one that says most
// of all first.
var hintAttributes = []string{
	"openstack.project_id", "openstack.user_id", "opennebula.group_id", "opennebula.user_id", "cloudstack.account_id", "kubevirt.namespace",
}

// hintsOf returns what is said of whose a machine is, "" for nothing.
func hintsOf(attributes map[string]string) string {
	var said []string
	for _, name := range hintAttributes {
		if value, ok := attributes[name]; ok {
			said = append(said, name+"="+value)
		}
	}
	return strings.Join(said, " ")
}

func showInstances(s streams, a api.InstancesAnswer, hints bool) error {
	columns := instanceColumns
	if hints {
		columns = append(slices.Clip(columns), column{"HINT", "hint", false})
	}
	var rows [][]cell
	for i := range a.Instances {
		v := &a.Instances[i]
		host := plain(string(v.Agent))
		if v.Conflict != nil {
			host.Text = joinWords(v.Conflict.Agents)
		}
		rows = append(rows, []cell{
			plain(string(v.Description.Instance)), plain(v.Called()), host, plain(string(v.State)), plain(v.Source),
			number(v.VCPUs), bytesCell(v.Memory), disksCell(v.Disks), nicsCell(v.NICs), gpusCell(v.GPUs),
			optional(v.User), optional(v.Org), ageCell(v.Age),
		})
		if hints {
			rows[i] = append(rows[i], plain(hintsOf(v.Attributes)))
		}
	}
	if err := printTable(s.out, s.outTTY, columns, rows); err != nil || !s.outTTY {
		return err
	}
	fmt.Fprintf(s.out, "%s.", count(int64(len(a.Instances)), "instance", "instances"))
	if a.Next != nil {
		fmt.Fprint(s.out, " There are more.")
	}
	_, err := fmt.Fprintln(s.out)
	for i := range a.Instances {
		if c := a.Instances[i].Conflict; c != nil {
			_, err = fmt.Fprintln(s.out, conflictText(c))
		}
	}
	return err
}

// conflictText says what is wrong, for a person.
func conflictText(c *api.InstanceConflict) string {
	return printable(fmt.Sprintf("! %s runs on %s at once since %s: two machines have one identity, or one was started twice",
		c.Instance, joinWords(c.Agents), c.Since.UTC().Format(time.DateTime)))
}

// showInstance prints one line for each thing that is known: what it is, and
// its value.
func showInstance(s streams, a api.InstanceAnswer) error {
	var b strings.Builder
	line := func(title, name string, cells ...cell) {
		if !s.outTTY {
			title = name
		}
		clean := strings.NewReplacer("\t", " ", "\n", " ", "\r", " ")
		words := []string{}
		for _, c := range cells {
			if s.outTTY {
				words = append(words, printable(c.Text))
			} else {
				words = append(words, clean.Replace(c.Raw))
			}
		}
		if s.outTTY {
			fmt.Fprintf(&b, "%-13s %s\n", title, strings.TrimRight(strings.Join(words, "  "), " "))
		} else {
			fmt.Fprintf(&b, "%s\t%s\n", title, strings.Join(words, "\t"))
		}
	}
	state := plain(string(a.State))
	if a.LastState != "" {
		state.Text += fmt.Sprintf(" (%s when it was described last)", a.LastState)
	}
	line("instance", "instance_id", plain(string(a.Description.Instance)))
	line("name", "name", plain(a.Name))
	if a.Record != nil {
		line("called", "called", plain(a.Record.Name))
		for _, key := range slices.Sorted(maps.Keys(a.Record.Labels)) {
			line("label", "label", plain(key), plain(a.Record.Labels[key]))
		}
	}
	line("host", "agent_id", plain(string(a.Agent)))
	line("state", "state", state)
	line("source", "source", plain(a.Source))
	line("user", "user_id", optional(a.User))
	line("organisation", "org_id", optional(a.Org))
	line("vCPUs", "vcpus", number(a.VCPUs))
	line("memory", "memory_bytes", bytesCell(a.Memory))
	for _, d := range a.Disks {
		access := cell{"", "read-write"}
		if d.ReadOnly {
			access = cell{"read-only", "read-only"}
		}
		line("disk", "disk", plain(d.Name), plain(string(d.Kind)), plain(d.Format), bytesCell(d.Provisioned), access)
	}
	for _, n := range a.NICs {
		line("interface", "interface", plain(n.Name), plain(string(n.Kind)), plain(n.Link), plain(n.MAC))
	}
	for _, g := range a.GPUs {
		line("GPU", "gpu", plain(g.Name), plain(string(g.Kind)), plain(g.Address))
	}
	for _, key := range slices.Sorted(maps.Keys(a.Attributes)) {
		line("attribute", "attribute", plain(key), plain(a.Attributes[key]))
	}
	if a.Cut {
		line("", "cut", cell{"there is more that did not fit", "true"})
	}
	line("first seen", "first_seen", moment(a.FirstSeen))
	line("described", "described_at", moment(a.DescribedAt))
	if a.GoneSince != nil {
		line("gone since", "gone_since", moment(a.GoneSince))
	}
	reading := moment(a.LastReading)
	if a.Age != nil {
		reading.Text += ", " + ageCell(a.Age).Text + " ago"
	}
	line("last reading", "last_reading", reading)
	for _, row := range a.Open {
		cells := []cell{moment(&row.Period.Start)}
		for _, c := range usageColumns {
			if total := row.Totals[c.quantity]; row.Known.Has(c.quantity) {
				cells = append(cells, cell{c.title + " " + humanAmount(c.quantity, total.Float64()), c.quantity.String() + "=" + total.String()})
			}
		}
		line("open since", "open", cells...)
	}
	for _, e := range a.Elsewhere {
		line("also on", "elsewhere", plain(string(e.Agent)), plain(e.State), moment(&e.DescribedAt))
	}
	if a.Conflict != nil {
		line("conflict", "conflict", cell{strings.TrimPrefix(conflictText(a.Conflict), "! "), joinWords(a.Conflict.Agents)})
	}
	_, err := s.out.Write([]byte(b.String()))
	return err
}

func number(n *int64) cell {
	if n == nil {
		return plain("")
	}
	return plain(strconv.FormatInt(*n, 10))
}

func bytesCell(n *int64) cell {
	if n == nil {
		return plain("")
	}
	return cell{humanBytes(float64(*n)), strconv.FormatInt(*n, 10)}
}

func optional[T ~string](s *T) cell {
	if s == nil {
		return plain("")
	}
	return plain(string(*s))
}

func moment(t *time.Time) cell {
	if t == nil {
		return plain("")
	}
	return instant(*t)
}

// ageCell writes an age of seconds.
func ageCell(s *int64) cell {
	if s == nil {
		return plain("")
	}
	c := cell{Raw: strconv.FormatInt(*s, 10)}
	switch n := *s; {
	case n < 120:
		c.Text = fmt.Sprintf("%d s", n)
	case n < 2*3600:
		c.Text = fmt.Sprintf("%d min", n/60)
	case n < 2*86400:
		c.Text = fmt.Sprintf("%d h", n/3600)
	default:
		c.Text = fmt.Sprintf("%d d", n/86400)
	}
	return c
}

// disksCell has for a person how many disks there are and their size, where all
// of it is known, and for a program name=bytes of each.
func disksCell(disks []odometer.DescribedDisk) cell {
	total, known, raw := int64(0), true, []string{}
	for _, d := range disks {
		size := absentText
		if d.Provisioned == nil {
			known = false
		} else {
			total += *d.Provisioned
			size = strconv.FormatInt(*d.Provisioned, 10)
		}
		raw = append(raw, d.Name+"="+size)
	}
	c := devices(raw)
	if known && len(disks) > 0 {
		c.Text = fmt.Sprintf("%d: %s", len(disks), humanBytes(float64(total)))
	}
	return c
}

func nicsCell(nics []odometer.DescribedNIC) cell {
	var raw []string
	for _, n := range nics {
		raw = append(raw, n.Name+"="+cmp.Or(n.MAC, absentText))
	}
	return devices(raw)
}

func gpusCell(gpus []odometer.DescribedDevice) cell {
	var raw []string
	for _, g := range gpus {
		raw = append(raw, g.Name+"="+cmp.Or(g.Address, absentText))
	}
	return devices(raw)
}

// devices has how many there are for a person, and each for a program.
func devices(each []string) cell {
	if len(each) == 0 {
		return plain("")
	}
	return cell{strconv.Itoa(len(each)), strings.Join(each, ",")}
}
