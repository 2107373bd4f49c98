package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/core/internal/cli/render"
	"github.com/aetherium/aetherium/services/core/pkg/client"
)

var archivedKinds = []string{api.ArchivedVM, api.ArchivedExecution, api.ArchivedTask}

func (a *app) archiveCommand() *cobra.Command {
	return group("archive", "See what ended long ago", a.archiveListCommand(), a.archiveCatCommand())
}

func (a *app) archiveListCommand() *cobra.Command {
	return listCommand(a, "List archives of ended VMs, executions and tasks", (*client.Client).Archives, func(now time.Time) listing[api.Archive] {
		return listing[api.Archive]{
			titles: []string{"ID", "VMS", "EXECUTIONS", "TASKS", "FIRST ENDED", "LAST ENDED", "SIZE"},
			name:   func(r api.Archive) string { return r.ID },
			row: func(r api.Archive) []render.Cell {
				return []render.Cell{
					render.Text(r.ID), render.Int(int64(r.VMs)), render.Int(int64(r.Executions)), render.Int(int64(r.Tasks)),
					render.Since(r.FirstEndedAt, now), render.Since(r.LastEndedAt, now), render.Bytes(r.SizeBytes),
				}
			},
		}
	})
}

func (a *app) archiveCatCommand() *cobra.Command {
	var of archiveFilter
	cmd := &cobra.Command{
		Use:   "cat [ARCHIVE…]",
		Short: "Print the records of archives, or of all, one in each line",
		Long: `Prints records of VMs, executions and tasks that ended long ago, as JSON, one in
each line: as they were told of last. Output is not archived.`,
		Example: `  aetherium archive cat --kind execution | jq -r '.execution | [.ended_at, .exit_code, (.args | join(" "))] | @tsv'
  aetherium archive cat --vm 4upqnzptf7rt3s45jqy7`,
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, id := range args {
				if err := checkArgument(cmd, "ARCHIVE", id); err != nil {
					return err
				}
			}
			if err := checkChoices(cmd, "kind", of.kinds, archivedKinds); err != nil {
				return err
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			all := len(args) == 0
			if all {
				list, err := client.Collect(c.Archives(cmd.Context(), client.Page{OldestFirst: true}))
				if err != nil {
					return err
				}
				for _, archive := range list {
					args = append(args, archive.ID)
				}
			}
			out := bufio.NewWriter(a.Stdout)
			for _, id := range args {
				err := of.copyTo(cmd.Context(), c, id, out)
				if err != nil && !(all && errors.HasCode(err, errors.NotFound)) { // one may be too old by now
					return err
				}
			}
			return out.Flush()
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringSliceVar(&of.kinds, "kind", nil, "only records of these kinds: vm, execution or task")
	cmd.Flags().StringVar(&of.vm, "vm", "", "only records of this VM and what ran in it, by its ID")
	must(cmd.RegisterFlagCompletionFunc("kind", fixed(archivedKinds...)))
	return cmd
}

// archiveFilter narrows what is printed. Zero fields do not filter.
type archiveFilter struct {
	kinds []string
	vm    string
}

func (f archiveFilter) copyTo(ctx context.Context, c *client.Client, id string, w io.Writer) error {
	records, err := c.ReadArchive(ctx, id)
	if err != nil {
		return err
	}
	defer func() { _ = records.Close() }()
	for lines := json.NewDecoder(records); ; {
		var line json.RawMessage
		err := lines.Decode(&line)
		if errors.Is(err, io.EOF) {
			return nil
		}
		var r api.ArchivedRecord
		if err == nil {
			err = json.Unmarshal(line, &r)
		}
		if err != nil {
			return errors.Wrap(err, errors.Unavailable, "the archive %s was not read to its end", id)
		}
		if !f.wants(r) {
			continue
		}
		if _, err := w.Write(append(line, '\n')); err != nil {
			return err
		}
	}
}

func (f archiveFilter) wants(r api.ArchivedRecord) bool {
	switch {
	case len(f.kinds) > 0 && !slices.Contains(f.kinds, r.Kind):
		return false
	case f.vm == "":
		return true
	}
	return r.VM != nil && r.VM.ID == f.vm || r.Execution != nil && r.Execution.VMID == f.vm || r.Task != nil && r.Task.VMID == f.vm
}
