package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"example.org/odometer"
	"example.org/odometer/api"
	"example.org/odometer/api/client"
)

// recordConfig is what `odometer instance create|update|delete` is told.
type recordConfig struct {
	peopleConfig
	Labels  []string
	Without []string // keys of labels
}

// newRecordOne makes a command that does something with what is kept of one machine and
// shows that.
func newRecordOne(s streams, c *recordConfig, use, short, long string, do func(cmd *cobra.Command, server *client.Client, id odometer.InstanceID, labels map[string]string) (api.KeptInstance, error)) *cobra.Command {
	return &cobra.Command{
		Use: use + " INSTANCE", Short: short, Long: long,
		Args: arguments(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			labels, err := readLabels(c.Labels)
			bad := errors.Join(wrong("INSTANCE", odometer.ValidID("instance", args[0])), wrong("--name", odometer.ValidRegisteredName(c.Name)), wrong("--label", cmpErr(err, odometer.ValidLabels(labels))))
			if bad != nil {
				return misuse(bad)
			}
			server, err := c.client()
			if err != nil {
				return err
			}
			k, err := do(cmd, server, odometer.InstanceID(args[0]), labels)
			if err != nil {
				return stale(err)
			}
			return show(&c.peopleConfig, s, k, recordColumns, recordCells(&k))
		},
	}
}

// cmpErr returns err where it is one, and otherwise the other.
func cmpErr(err, other error) error {
	if err != nil {
		return err
	}
	return other
}

// readLabels reads key:value words.
func readLabels(words []string) (map[string]string, error) {
	var labels map[string]string
	for _, word := range words {
		key, value, ok := strings.Cut(word, ":")
		if !ok || key == "" {
			return nil, fmt.Errorf("%q is no key:value, such as tier:web", odometer.HideSecrets(word))
		}
		if labels == nil {
			labels = map[string]string{}
		}
		labels[key] = value
	}
	return labels, nil
}

func newInstanceCreate(s streams) *cobra.Command {
	var c recordConfig
	cmd := newRecordOne(s, &c, "create", "Keep a machine of which no host has told yet", `Keep a machine of which no host has told yet, with a name and labels. Machines need
not be created: each is there once its host tells of it, or usage of it is booked.
INSTANCE is the id that it will have: its hypervisor's UUID, or HOST:NAME.`,
		func(cmd *cobra.Command, server *client.Client, id odometer.InstanceID, labels map[string]string) (api.KeptInstance, error) {
			return server.CreateInstance(cmd.Context(), api.InstanceRequest{ID: id, InstanceChange: api.InstanceChange{Name: c.Name, Labels: labels}})
		})
	cmd.Example = `  odometer instance create 5d0c7b0e-9e0f-4b66-8d2b-3c6a0a1f2e01 --name shop --label tier:web`
	cmd.Flags().StringVar(&c.Name, "name", "", "what people call it")
	cmd.Flags().StringArrayVar(&c.Labels, "label", nil, "a label, as key:value; may be given several times")
	c.common(cmd.Flags(), s)
	return cmd
}

func newInstanceUpdate(s streams) *cobra.Command {
	var c recordConfig
	cmd := newRecordOne(s, &c, "update", "Give a machine another name and other labels", `Give a machine another name and other labels, beside what its host tells of it. What
is not named stays as it is. Its owner does, the owners and admins of the organisation
whose it is, who holds a grant of level manager or owner, and the administrator.`,
		func(cmd *cobra.Command, server *client.Client, id odometer.InstanceID, labels map[string]string) (k api.KeptInstance, err error) {
			if !cmd.Flags().Changed("name") && len(labels) == 0 && len(c.Without) == 0 {
				return k, misuse(errors.New("nothing is to be changed; --name, --label or --without says what"))
			}
			is, err := recordNow(cmd.Context(), server, id)
			if err != nil {
				return k, err
			}
			ask := api.InstanceChange{Name: is.Name, Labels: maps.Clone(is.Labels)}
			if cmd.Flags().Changed("name") {
				ask.Name = c.Name
			}
			maps.DeleteFunc(ask.Labels, func(key, _ string) bool { return slices.Contains(c.Without, key) })
			if ask.Labels == nil {
				ask.Labels = map[string]string{}
			}
			maps.Copy(ask.Labels, labels)
			return server.UpdateInstance(cmd.Context(), id, is.Version, ask)
		})
	cmd.Example = `  odometer instance update vm-1 --name "shop front" --label tier:web --without rack`
	cmd.ValidArgsFunction = c.completeInstance
	cmd.Flags().StringVar(&c.Name, "name", "", `what people call it; "" for nothing`)
	cmd.Flags().StringArrayVar(&c.Labels, "label", nil, "a label, as key:value; may be given several times")
	cmd.Flags().StringArrayVar(&c.Without, "without", nil, "the key of a label to take away; may be given several times")
	c.common(cmd.Flags(), s)
	return cmd
}

func newInstanceDelete(s streams) *cobra.Command {
	var c recordConfig
	cmd := newRecordOne(s, &c, "delete", "Erase the name and the labels of a machine", `Erase the name and the labels that people gave to a machine. Its usage and whose it is
stay, and it is listed for as long as its host tells of it or usage of it is booked.`,
		func(cmd *cobra.Command, server *client.Client, id odometer.InstanceID, _ map[string]string) (k api.KeptInstance, err error) {
			is, err := recordNow(cmd.Context(), server, id)
			if err != nil {
				return k, err
			}
			return server.DeleteInstance(cmd.Context(), id, is.Version)
		})
	cmd.ValidArgsFunction = c.completeInstance
	c.common(cmd.Flags(), s)
	return cmd
}

// recordNow returns what is kept of a machine, of version 0 for nothing.
func recordNow(ctx context.Context, server *client.Client, id odometer.InstanceID) (api.InstanceRecord, error) {
	is, err := server.Instance(ctx, id)
	if err != nil || is.Record == nil {
		return api.InstanceRecord{}, err
	}
	return *is.Record, nil
}

var recordColumns = []column{
	{"INSTANCE", "instance_id", false}, {"NAME", "name", false}, {"LABELS", "labels", false}, {"VERSION", "version", true},
	{"CREATED", "created_at", false}, {"UPDATED", "updated_at", false}, {"DELETED", "deleted_at", false},
}

// recordCells are the values of recordColumns.
func recordCells(k *api.KeptInstance) []cell {
	return []cell{
		plain(string(k.Instance)), plain(k.Name), plain(labelsText(k.Labels)), plain(fmt.Sprint(k.Version)), instant(k.CreatedAt), instant(k.UpdatedAt), moment(k.DeletedAt),
	}
}

// labelsText writes labels in the order of their keys.
func labelsText(labels map[string]string) string {
	var words []string
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		words = append(words, key+":"+labels[key])
	}
	return strings.Join(words, " ")
}
