package cli

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/core/internal/cli/render"
	"github.com/aetherium/aetherium/services/core/pkg/client"
)

var logLevels = []string{"debug", "info", "warn", "error"}

func (a *app) systemCommand() *cobra.Command {
	return group("system", "See the servers themselves, for administrators", a.systemLogsCommand())
}

func (a *app) systemLogsCommand() *cobra.Command {
	var f client.LogFilter
	var since, until string
	var follow bool
	limit := 100
	cmd := &cobra.Command{
		Use:   "logs",
		Short: "Show what the servers have logged",
		Long: `Shows lines of the servers' logs, the oldest first: the last ones, as many as --limit
says. Where the servers send them to a Loki (log.loki) they are those of all, of the
last day unless --since says more; otherwise those of the gateway that answers and of all
workers, out of their files (log.file). Whose lines are missing, and why, is told on
stderr. With --follow it goes on with those to come.`,
		Example: `  aetherium system logs --since 1h --level warn
  aetherium system logs --service worker --grep snapshot
  aetherium system logs --follow -o json`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkFirst(checkLimit(cmd, limit), checkChoices(cmd, "level", given1(f.Level), logLevels)); err != nil {
				return err
			}
			if follow && until != "" {
				return usagef(cmd, "--until: what is followed has no end")
			}
			now := a.Now()
			var err error
			if f.Since, err = moment(since, now); err != nil {
				return flagged(cmd, "since", err)
			}
			if f.Until, err = moment(until, now); err != nil {
				return flagged(cmd, "until", err)
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			f.Missing = a.showMissingLogs
			if follow {
				for l, err := range c.FollowLogs(cmd.Context(), f) {
					if err == nil {
						err = a.showLogLine(l)
					}
					if err != nil {
						return err
					}
				}
				return nil
			}
			lines, err := client.Collect(c.Logs(cmd.Context(), f, limit))
			if err != nil {
				return err
			}
			for _, l := range slices.Backward(lines) {
				if err := a.showLogLine(l); err != nil {
					return err
				}
			}
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&since, "since", "", "not before: a time, or how long ago, such as 2h")
	flags.StringVar(&until, "until", "", "before: a time, or how long ago")
	flags.StringVar(&f.Level, "level", "", "this level and above: debug, info, warn or error")
	flags.StringVar(&f.Service, "service", "", "only this program, such as worker")
	flags.StringVar(&f.Host, "host", "", "only this host")
	flags.StringVar(&f.Text, "grep", "", "only lines that contain this text")
	flags.StringVar(&f.VM, "vm", "", "only lines about this VM, by ID")
	flags.StringVar(&f.Request, "request", "", "only lines about this request, by ID")
	flags.StringVar(&f.Trace, "trace", "", "only lines about this trace, by ID")
	flags.IntVar(&limit, "limit", limit, "so many at most; 0: all")
	flags.BoolVarP(&follow, "follow", "f", false, "go on with lines to come")
	must(cmd.RegisterFlagCompletionFunc("level", fixed(logLevels...)))
	return cmd
}

// showMissingLogs tells whose lines are missing.
func (a *app) showMissingLogs(m api.LogMissing) {
	a.say("lines of %s are missing: %s (%s)", m.Name, m.Detail, m.Reason)
}

// showLogLine shows a line on one of ours.
func (a *app) showLogLine(l api.LogLine) error {
	switch {
	case a.namesOnly():
		return a.showNames([]string{l.ID})
	case a.asJSON():
		return render.JSONLine(a.Stdout, l)
	}
	at := render.Cell{Human: l.At.Local().Format(time.DateTime), Plain: l.At.UTC().Format(time.RFC3339Nano)}
	service := strings.TrimPrefix(l.Service, "aetherium-")
	if l.Host != "" {
		service += "@" + l.Host
	}
	row := []render.Cell{at, render.Text(l.Level), render.Text(service), render.Text(l.Message), render.Text(fieldsText(l.Fields))}
	if a.human { // alone on its line there is nothing to align with
		for i := range row {
			row[i].Plain = row[i].Human
		}
	}
	return render.Table(a.Stdout, false, nil, [][]render.Cell{row})
}

// fieldsText is a line's fields as name=value, by name.
func fieldsText(fields map[string]json.RawMessage) string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		text := string(fields[name])
		var s string
		if json.Unmarshal(fields[name], &s) == nil && s != "" && !strings.ContainsAny(s, " \"=\n") {
			text = s
		} else if b := new(bytes.Buffer); json.Compact(b, fields[name]) == nil {
			text = b.String()
		}
		all = append(all, name+"="+text)
	}
	return strings.Join(all, " ")
}
