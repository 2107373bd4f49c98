package cli

import (
	"strconv"

	"github.com/spf13/cobra"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/core/internal/cli/render"
	"github.com/aetherium/aetherium/services/core/internal/cli/units"
)

// quotaPart is one of the limits of a quota.
type quotaPart struct {
	name, flag, help string
	of               func(api.QuotaLimits) int64
	override         func(*api.SetQuota) **int64
	parse            func(string) (int64, error)
	show             func(int64) render.Cell
}

func quotaParts() []quotaPart {
	count := func(s string) (int64, error) {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || n < 0 {
			return 0, errors.New(errors.InvalidArgument, "%q is not a number", s).WithHint("a whole number, none or default")
		}
		return n, nil
	}
	cores := func(n int64) render.Cell {
		return render.Cell{Human: units.CPUs(n) + " cores", Plain: strconv.FormatInt(n, 10)}
	}
	return []quotaPart{
		{"VMs", "vms", "VMs that are not deleted", func(l api.QuotaLimits) int64 { return l.VMs }, func(s *api.SetQuota) **int64 { return &s.VMs }, count, render.Int},
		{"CPU", "cpus", "cores of VMs that run", func(l api.QuotaLimits) int64 { return l.MilliCPU }, func(s *api.SetQuota) **int64 { return &s.MilliCPU }, units.ParseCPUs, cores},
		{"Memory", "memory", "memory of VMs that run, such as 64GiB", func(l api.QuotaLimits) int64 { return l.MemoryBytes }, func(s *api.SetQuota) **int64 { return &s.MemoryBytes }, units.ParseBytes, render.Bytes},
		{"Disk", "disk", "disk of all VMs, such as 1TiB", func(l api.QuotaLimits) int64 { return l.DiskBytes }, func(s *api.SetQuota) **int64 { return &s.DiskBytes }, units.ParseBytes, render.Bytes},
		{"VMs made in a minute", "creates-per-minute", "VMs made in a minute, forks included", func(l api.QuotaLimits) int64 { return l.CreatesPerMinute }, func(s *api.SetQuota) **int64 { return &s.CreatesPerMinute }, count, render.Int},
		{"Snapshots", "snapshots", "snapshots", func(l api.QuotaLimits) int64 { return l.Snapshots }, func(s *api.SetQuota) **int64 { return &s.Snapshots }, count, render.Int},
		{"Templates", "templates", "templates", func(l api.QuotaLimits) int64 { return l.Templates }, func(s *api.SetQuota) **int64 { return &s.Templates }, count, render.Int},
	}
}

func (a *app) quotaCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "quota [PROJECT]",
		Short: "Show what a project may have, and has",
		Long: `Shows the limits of a project beside what it has: of the key's own, or for
administrators of any.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return exactly("PROJECT")(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			project := ""
			if len(args) > 0 {
				project = args[0]
			}
			q, err := c.Quota(cmd.Context(), project)
			if err != nil {
				return err
			}
			return a.showQuota(q)
		},
	}
	cmd.AddCommand(a.quotaSetCommand())
	return cmd
}

func (a *app) showQuota(q api.Quota) error {
	if a.namesOnly() {
		return a.showNames([]string{q.ProjectID})
	}
	if a.asJSON() {
		return render.JSON(a.Stdout, q)
	}
	parts := quotaParts()
	rows := make([][]render.Cell, len(parts))
	for i, p := range parts {
		limit := render.Cell{Human: "none", Plain: "0"}
		if n := p.of(q.Limits); n > 0 {
			limit = p.show(n)
		}
		from := "default"
		if *p.override(&q.Override) != nil {
			from = "project"
		}
		rows[i] = []render.Cell{render.Text(p.name), p.show(p.of(q.Use)), limit, render.Text(from)}
	}
	return render.Table(a.Stdout, a.human, []string{"QUOTA", "USED", "LIMIT", "SET BY"}, rows)
}

func (a *app) quotaSetCommand() *cobra.Command {
	parts := quotaParts()
	given := make([]string, len(parts))
	cmd := &cobra.Command{
		Use:   "set PROJECT",
		Short: "Change what a project may have",
		Long: `Changes the limits that are named and leaves the others. A limit of none is
without bound; one of default is the installation's again. What a project has
already it keeps. For administrators.`,
		Example: `  aetherium quota set web --vms 20 --cpus 16 --memory 64GiB
  aetherium quota set web --vms default --disk none`,
		Args: exactly("PROJECT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			set := map[int]*int64{}
			for i, p := range parts {
				switch text := given[i]; text {
				case "":
				case "default":
					set[i] = nil
				case "none":
					set[i] = new(int64)
				default:
					n, err := p.parse(text)
					if err != nil {
						return flagged(cmd, p.flag, err)
					}
					set[i] = &n
				}
			}
			if len(set) == 0 {
				return usagef(cmd, "say which limit changes, such as --vms 20")
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			q, err := c.Quota(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			for i, n := range set {
				*parts[i].override(&q.Override) = n
			}
			if q, err = c.SetQuota(cmd.Context(), args[0], q.Override); err != nil {
				return err
			}
			return a.showQuota(q)
		},
	}
	for i, p := range parts {
		cmd.Flags().StringVar(&given[i], p.flag, "", p.help)
	}
	return cmd
}
