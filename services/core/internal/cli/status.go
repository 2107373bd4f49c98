package cli

import (
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/aetherium/aetherium/libs/common/pkg/version"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/core/internal/cli/render"
	"github.com/aetherium/aetherium/services/core/internal/cli/units"
)

func (a *app) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show the server: where it is, its version, what it holds",
		Args:  exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			s, err := c.Status(cmd.Context())
			if err != nil {
				return err
			}
			return showOne(a, s, s.URL, describeStatus(s))
		},
	}
}

func describeStatus(s api.Status) [][2]string {
	var vms []string
	for _, state := range slices.Sorted(maps.Keys(s.VMs)) {
		vms = append(vms, strconv.Itoa(s.VMs[state])+" "+state)
	}
	if len(vms) == 0 {
		vms = []string{"none"}
	}
	return [][2]string{
		{"URL", s.URL}, {"Version", s.Version}, {"PID", strconv.Itoa(s.PID)}, {"Data directory", s.DataDir},
		{"Previews", "<port>-<vm>." + s.PreviewDomain},
		{"Up for", units.Duration((time.Duration(s.UptimeMS) * time.Millisecond).Truncate(time.Second))},
		{"VMs", strings.Join(vms, ", ")}, {"Workers", strconv.Itoa(s.Workers)},
	}
}

// versionAnswer is what `version -o json` shows.
type versionAnswer struct {
	Version  string `json:"version"`
	Commit   string `json:"commit"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Show the version of this command line",
		Args:  exactly(),
		RunE:  func(*cobra.Command, []string) error { return a.showVersion() },
	}
}

func (a *app) showVersion() error {
	v := versionAnswer{version.Version, version.Commit, runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}
	switch {
	case a.namesOnly():
		return a.showNames([]string{v.Version})
	case a.asJSON():
		return render.JSON(a.Stdout, v)
	}
	_, err := fmt.Fprintf(a.Stdout, "aetherium %s (%s) %s %s\n", v.Version, v.Commit, v.Go, v.Platform)
	return err
}
