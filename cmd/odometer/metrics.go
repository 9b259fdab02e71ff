package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"example.org/odometer/api"
	"example.org/odometer/api/client"
)

// metricsConfig is what `odometer metrics` is told.
type metricsConfig struct {
	serverFlags
	client.MetricsQuery
	JSON bool
}

func newMetrics(s streams) *cobra.Command {
	var c metricsConfig
	cmd := &cobra.Command{
		Use:   "metrics",
		Short: "List what the machines use now",
		Long: `List what the machines use now: means over the newest period of each that is open,
half a minute or so. CPU is processors in use: 1.50 is one and a half. OUT, IN, READ
and WRITTEN are a second. What is not known is -.

On a pipe, and with --json, sizes are exact bytes.`,
		Example: `  odometer metrics --host host-2
  odometer metrics --sort=-cpu_percent --limit 10
  odometer metrics --instance vm-7 --json`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, word := range c.Sort {
				if !slices.Contains(api.MetricsKeys(), strings.TrimPrefix(word, "-")) {
					return misuse(fmt.Errorf("--sort %q: one or several of %s are possible, each with - before it or not", word, strings.Join(api.MetricsKeys(), ", ")))
				}
			}
			if c.State != "" && !slices.Contains(api.InstanceStates, c.State) {
				return misuse(fmt.Errorf("--state %q: one of %s is possible", c.State, strings.Join(api.InstanceStates, ", ")))
			}
			if c.Limit < 0 || c.Sort != nil && c.Limit > api.MaxPage {
				return misuse(fmt.Errorf("--limit %d: a number from 1, with --sort at most %d, or 0 for all that there may be", c.Limit, api.MaxPage))
			}
			server, err := c.client()
			if err != nil {
				return err
			}
			var answer api.MetricsAnswer
			q := c.MetricsQuery
			answer.Metrics, answer.Next, err = pagesOf(c.Limit, func(after string, most int) ([]api.CurrentMetrics, *string, error) {
				q.After, q.Limit = after, most
				page, err := server.CurrentMetrics(cmd.Context(), q)
				answer.At = page.At
				return page.Metrics, page.Next, err
			})
			if err != nil {
				return err
			}
			if c.JSON {
				return printJSON(s.out, answer)
			}
			return showMetrics(s, answer.Metrics)
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&c.Instance, "instance", "", "only this machine")
	flags.StringVar(&c.User, "user", "", "only those of this user")
	flags.StringVar(&c.Org, "org", "", "only those of this organisation")
	flags.StringVar(&c.Host, "host", "", "only those on this host")
	flags.StringVar(&c.State, "state", "", "only those in this state: "+strings.Join(api.InstanceStates, ", "))
	flags.StringSliceVar(&c.Sort, "sort", nil, "sort by these, with - before one downwards: "+strings.Join(api.MetricsKeys(), ", "))
	flags.IntVar(&c.Limit, "limit", 0, fmt.Sprintf("at most so many; 0 for all, with --sort for %d", api.MaxPage))
	flags.BoolVar(&c.JSON, "json", false, "as JSON")
	c.register(flags, s.env)
	cmd.RegisterFlagCompletionFunc("state", cobra.FixedCompletions(api.InstanceStates, cobra.ShellCompDirectiveNoFileComp))
	cmd.RegisterFlagCompletionFunc("sort", cobra.FixedCompletions(api.MetricsKeys(), cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

var metricsColumns = []column{
	{"INSTANCE", "instance_id", false}, {"NAME", "name", false}, {"HOST", "agent_id", false}, {"STATE", "state", false}, {"USER", "user_id", false},
	{"CPU", "cpu_cores", true}, {"CPU %", "cpu_percent", true}, {"MEM", "memory_bytes", true}, {"MEM %", "memory_percent", true}, {"DISK", "storage_bytes", true},
	{"OUT", "network_egress_bytes_per_s", true}, {"IN", "network_ingress_bytes_per_s", true}, {"READ", "disk_read_bytes_per_s", true}, {"WRITTEN", "disk_write_bytes_per_s", true},
	{"GPUS", "gpus", true}, {"GPU %", "gpu_percent", true}, {"AGE", "age_s", true},
}

func showMetrics(s streams, list []api.CurrentMetrics) error {
	var rows [][]cell
	for i := range list {
		m := &list[i]
		rows = append(rows, []cell{
			plain(string(m.Instance)), plain(m.Name), plain(string(m.Agent)), plain(m.State), optional(m.User),
			decimalCell(m.CPUCores, 2), decimalCell(m.CPUPercent, 1), bytesCell(m.Memory), decimalCell(m.MemoryPercent, 1), bytesCell(m.Storage),
			bytesCell(m.Egress), bytesCell(m.Ingress), bytesCell(m.DiskRead), bytesCell(m.DiskWrite),
			decimalCell(m.GPUs, 2), decimalCell(m.GPUPercent, 1), ageCell(m.Age),
		})
	}
	return printTable(s.out, s.outTTY, metricsColumns, rows)
}

// decimalCell writes a number with so many digits for a person.
func decimalCell(f *float64, digits int) cell {
	if f == nil {
		return plain("")
	}
	return cell{strconv.FormatFloat(*f, 'f', digits, 64), strconv.FormatFloat(*f, 'f', -1, 64)}
}
