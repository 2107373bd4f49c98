package cli

import (
	"encoding/json"
	"time"

	"github.com/spf13/cobra"

	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/core/internal/cli/render"
)

func (a *app) eventsCommand() *cobra.Command {
	var follow bool
	var after int64
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Show what happened, in the order it did",
		Long: `Shows events after a cursor, each on a line as it comes (with -o json as a line of
JSON). With --follow it goes on with those to come, from now on unless --after is
given. The first column is the cursor to go on from.`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if after < 0 {
				return usagef(cmd, "--after: %d is negative", after)
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			seq := c.Events(cmd.Context(), after)
			if follow {
				if !cmd.Flags().Changed("after") {
					after = -1
				}
				seq = c.FollowEvents(cmd.Context(), after)
			}
			for ev, err := range seq {
				if err == nil {
					err = a.showEvent(ev)
				}
				if err != nil {
					return err
				}
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&follow, "follow", "f", false, "go on with events to come")
	f.Int64Var(&after, "after", 0, "only events after this cursor")
	return cmd
}

func (a *app) showEvent(ev api.Event) error {
	switch {
	case a.namesOnly() && ev.Type == api.TypeEventGap: // it is of nothing
		return nil
	case a.namesOnly():
		return a.showNames([]string{ev.Subject})
	case a.asJSON():
		return render.JSONLine(a.Stdout, ev)
	}
	at := render.Cell{Human: ev.At.Local().Format(time.TimeOnly), Plain: ev.At.UTC().Format(time.RFC3339Nano)}
	data := ""
	if len(ev.Data) > 0 && json.Valid(ev.Data) {
		data = string(ev.Data)
	}
	row := []render.Cell{render.Int(ev.Seq), at, render.Text(ev.Type), render.Text(ev.Subject), render.Text(data)}
	if a.human { // alone on its line there is nothing to align with
		for i := range row {
			row[i].Plain = row[i].Human
		}
	}
	return render.Table(a.Stdout, false, nil, [][]render.Cell{row})
}
