package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/internal/cli/render"
	"github.com/aetherium/aetherium/services/core/pkg/client"
)

func snapshotName(s api.Snapshot) string { return s.ID }

// vmSnapshotCommand is `vm snapshot VM`.
func (a *app) vmSnapshotCommand() *cobra.Command {
	var name string
	var memory bool
	cmd := &cobra.Command{
		Use:   "snapshot VM",
		Short: "Keep a VM's disk, or its memory too, as it is now; VMs can be made from it",
		Args:  exactly("VM"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := domain.ValidateName("name", name); err != nil {
				return flagged(cmd, "name", err)
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			s, err := c.CreateSnapshot(cmd.Context(), args[0], api.CreateSnapshot{Name: name, Memory: memory})
			if err != nil {
				return err
			}
			return showDone(a, []api.Snapshot{s}, snapshotName)
		},
		ValidArgsFunction: a.firstArg(a.completeVMs("running", "paused", "stopped")),
	}
	cmd.Flags().StringVar(&name, "name", "", "name for the snapshot")
	cmd.Flags().BoolVar(&memory, "memory", false, "keep its memory, too: VMs made from it go on from there")
	return cmd
}

func (a *app) snapshotCommand() *cobra.Command {
	create := a.vmSnapshotCommand()
	create.Use = "create VM"
	return group("snapshot", "Manage snapshots", create, a.snapshotListCommand(), a.snapshotRemoveCommand())
}

func (a *app) snapshotListCommand() *cobra.Command {
	var vm string
	cmd := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List snapshots",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			items, err := client.Collect(c.Snapshots(cmd.Context(), vm, client.Page{}))
			if err != nil {
				return err
			}
			now := a.Now()
			return showAll(a, items, listing[api.Snapshot]{
				titles: []string{"ID", "NAME", "VM", "KIND", "STATE", "SIZE", "AGE"},
				name:   snapshotName,
				row: func(s api.Snapshot) []render.Cell {
					return []render.Cell{
						render.Text(s.ID), render.Text(s.Name), render.Text(s.VMID), render.Text(s.Kind),
						render.Text(s.State), render.Bytes(s.SizeBytes), render.Since(s.CreatedAt, now),
					}
				},
			})
		},
	}
	cmd.Flags().StringVar(&vm, "vm", "", "only this VM's")
	must(cmd.RegisterFlagCompletionFunc("vm", a.flagValues(a.completeVMs())))
	return cmd
}

func (a *app) snapshotRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "rm SNAPSHOT…",
		Aliases: []string{"delete", "remove"},
		Short:   "Remove snapshots",
		Args:    atLeastOne("SNAPSHOT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			return a.removeEach(args, func(name string) (removed, error) {
				s, err := findSnapshot(cmd.Context(), c, name)
				if err != nil {
					return removed{}, err
				}
				return removed{ID: s.ID, Name: s.Name}, c.DeleteSnapshot(cmd.Context(), s.ID)
			})
		},
		ValidArgsFunction: a.completeSnapshots,
	}
}

// findSnapshot finds a snapshot by its name; the API takes IDs.
func findSnapshot(ctx context.Context, c *client.Client, name string) (api.Snapshot, error) {
	if domain.IsID(name) {
		return api.Snapshot{ID: name}, nil
	}
	for s, err := range c.Snapshots(ctx, "", client.Page{}) {
		if err != nil {
			return s, err
		}
		if s.Name == name {
			return s, nil
		}
	}
	return api.Snapshot{}, errors.New(errors.NotFound, "there is no snapshot %q", name).WithHint("`aetherium snapshot ls` lists snapshots")
}

// removed is what is left to say of a thing that is gone.
type removed struct {
	ID   string `json:"id,omitempty"`
	Name string `json:"name,omitempty"`
}

// removeEach removes several things, shows those that are gone as they were
// called, and fails when one could not be removed.
func (a *app) removeEach(names []string, remove func(string) (removed, error)) error {
	var gone []removed
	var last error
	for _, name := range names {
		r, err := remove(name)
		if err == nil {
			gone = append(gone, r)
			if !a.asJSON() {
				err = a.showNames([]string{name})
			}
		}
		if err == nil {
			continue
		}
		if last != nil {
			a.tell(a.explain(last))
		}
		last = err
	}
	if a.asJSON() && len(gone) > 0 {
		return errors.Join(showDone(a, gone, nil), last)
	}
	return last
}
