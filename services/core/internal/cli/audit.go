package cli

import (
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/core/internal/cli/render"
	"github.com/aetherium/aetherium/services/core/internal/cli/units"
	"github.com/aetherium/aetherium/services/core/pkg/client"
)

var auditResults = []string{"done", "refused", "failed"}

// auditCommand is `audit`.
func (a *app) auditCommand() *cobra.Command {
	var f client.AuditFilter
	var since, until string
	page := client.Page{Limit: 50}
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Show who changed what, newest first",
		Long: `Shows the audit log: every request that changed something or asked to, with who
made it, from where, and how it went. It needs a key with the scope manage;
administrators see every project.`,
		Example: `  aetherium audit --since 1h
  aetherium audit --subject web --operation delete-vm
  aetherium audit --result refused --limit 200 -o json`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			err := checkFirst(checkLimit(cmd, page.Limit), checkChoices(cmd, "result", given1(f.Result), auditResults))
			if err != nil {
				return err
			}
			now := a.Now()
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
			items, err := client.Collect(c.Audit(cmd.Context(), f, page))
			if err != nil {
				return err
			}
			return showAll(a, items, listing[api.AuditRecord]{
				titles: []string{"AT", "ACTOR", "OPERATION", "SUBJECT", "RESULT", "CLIENT"},
				name:   func(r api.AuditRecord) string { return r.ID },
				row:    func(r api.AuditRecord) []render.Cell { return auditRow(r, now) },
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.Project, "project", "", "only this project, by ID or name")
	flags.StringVar(&f.Actor, "actor", "", "only of this key or user, by name or ID")
	flags.StringVar(&f.Operation, "operation", "", "only this operation, such as create-vm")
	flags.StringVar(&f.Subject, "subject", "", "only what was done to this, by ID or name")
	flags.StringVar(&f.Result, "result", "", "only what was done, refused or failed")
	flags.StringVar(&since, "since", "", "not before: a time, or how long ago, such as 2h")
	flags.StringVar(&until, "until", "", "before: a time, or how long ago")
	flags.IntVar(&page.Limit, "limit", page.Limit, "so many at most; 0: all")
	must(cmd.RegisterFlagCompletionFunc("result", fixed(auditResults...)))
	return cmd
}

func auditRow(r api.AuditRecord, now time.Time) []render.Cell {
	result := r.Result
	if r.Code != "" {
		result += " (" + r.Code + ")"
	}
	return []render.Cell{
		render.Since(r.At, now), render.Text(r.Actor), render.Text(r.Operation),
		render.Text(strings.TrimSpace(r.SubjectKind + " " + r.SubjectID)), render.Text(result), render.Text(r.Client),
	}
}

// given1 is the values of a flag that takes one, or none.
func given1(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}

// moment reads a time, or how long ago it was. Returns InvalidArgument.
func moment(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t, nil
	}
	d, err := units.ParseDuration(s)
	if err != nil {
		return time.Time{}, errors.New(errors.InvalidArgument, "%q is neither a time nor how long ago one was", s).
			WithHint("such as 2026-03-04T05:06:07Z, 90s, 2h or 7d")
	}
	return now.Add(-d), nil
}
