package cli

import (
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/internal/cli/render"
	"github.com/aetherium/aetherium/services/core/internal/cli/units"
	"github.com/aetherium/aetherium/services/core/pkg/client"
)

func (a *app) volumeCommand() *cobra.Command {
	return group("volume", "Make and manage directories that outlive VMs",
		a.volumeListCommand(), a.volumeCreateCommand(), a.volumeGetCommand(), a.volumeCopyCommand(), a.volumeRemoveCommand())
}

func volumeName(v api.Volume) string { return v.Name }

func (a *app) volumeListCommand() *cobra.Command {
	return listCommand(a, "List volumes", (*client.Client).Volumes, func(now time.Time) listing[api.Volume] {
		return listing[api.Volume]{
			titles: []string{"NAME", "ID", "SIZE", "AGE"},
			name:   volumeName,
			row: func(v api.Volume) []render.Cell {
				return []render.Cell{render.Text(v.Name), render.Text(v.ID), render.Bytes(v.DiskBytes), render.Since(v.CreatedAt, now)}
			},
		}
	})
}

func (a *app) volumeCreateCommand() *cobra.Command {
	var r api.Resources
	cmd := &cobra.Command{
		Use:     "create NAME",
		Aliases: []string{"new"},
		Short:   "Make a volume, which several VMs can have at once",
		Long: `Makes a directory that VMs are given by --volume, on the driver oci. It stays
when they go, and all of them see what one of them writes.`,
		Example: `  aetherium volume create data --disk 10GiB
  aetherium vm create --volume data:/mnt/data
  aetherium run --volume data:/mnt/data:ro -- ls /mnt/data`,
		Args: exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := domain.ValidateVolumeName("name", args[0]); err != nil {
				return secretUsage(cmd, "NAME", err)
			}
			if err := checkResources(cmd, r); err != nil {
				return err
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			v, err := c.CreateVolume(cmd.Context(), api.CreateVolume{Name: args[0], DiskBytes: r.DiskBytes})
			if err != nil {
				return err
			}
			return showDone(a, []api.Volume{v}, volumeName)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().Var((*bytesFlag)(&r.DiskBytes), "disk", "what it can hold, as 10GiB (default: the server's)")
	return cmd
}

func (a *app) volumeGetCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "get VOLUME",
		Aliases: []string{"show", "inspect"},
		Short:   "Show a volume",
		Args:    exactly("VOLUME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			v, err := c.Volume(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return showOne(a, v, v.Name, [][2]string{
				{"ID", v.ID}, {"Name", v.Name}, {"Size", units.Bytes(v.DiskBytes)}, {"Worker", v.WorkerID}, {"Made", at(&v.CreatedAt)},
			})
		},
		ValidArgsFunction: a.firstArg(a.completeVolumes),
	}
}

func (a *app) volumeRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "rm VOLUME…",
		Aliases: []string{"delete", "remove"},
		Short:   "Remove volumes with all that is in them",
		Args:    atLeastOne("VOLUME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			return a.removeEach(args, func(name string) (removed, error) {
				return removed{Name: name}, c.DeleteVolume(cmd.Context(), name)
			})
		},
		ValidArgsFunction: a.completeVolumes,
	}
}

func (a *app) volumeCopyCommand() *cobra.Command {
	c := &copier{app: a, volumes: true}
	return &cobra.Command{
		Use:   "cp SRC DST",
		Short: "Copy a file into or out of a volume, whether a VM has it or not",
		Long: `Copies one file between here and a volume. The side in the volume is VOLUME:PATH,
from the volume's root on. - is stdin or stdout.`,
		Example: `  aetherium volume cp data.csv data:in/
  aetherium volume cp data:out/result.json - | jq .`,
		Args: volumeCopyArgs,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if c.c, err = c.client(); err != nil {
				return err
			}
			return c.copy(cmd.Context(), parsePlace(args[0]), parsePlace(args[1]))
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
			if strings.ContainsAny(toComplete, ":/") || strings.HasPrefix(toComplete, ".") {
				return nil, cobra.ShellCompDirectiveDefault
			}
			return a.completeMount(cmd, args, toComplete)
		},
	}
}

func volumeCopyArgs(cmd *cobra.Command, args []string) error {
	if err := exactly("SRC", "DST")(cmd, args); err != nil {
		return err
	}
	inVolume := 0
	for _, arg := range args {
		p := parsePlace(arg)
		if p.vm == "" {
			continue
		}
		inVolume++
		if err := checkArgument(cmd, "VOLUME", p.vm); err != nil {
			return err
		}
	}
	if inVolume != 1 {
		return usage(cmd, errors.New(errors.InvalidArgument, "one side is to be in a volume, the other here").WithHint("write VOLUME:PATH for the side in a volume"))
	}
	return nil
}

// readOnly ends a mount that the VM cannot write to.
const readOnly = ":ro"

func mountText(m api.VolumeMount) string {
	text := m.Volume + ":" + m.Path
	if m.ReadOnly {
		text += readOnly
	}
	return text
}

// volumeMounts reads VOLUME:PATH or VOLUME:PATH:ro of --volume.
func volumeMounts(cmd *cobra.Command, texts []string) ([]api.VolumeMount, error) {
	var out []api.VolumeMount
	mounts := make([]domain.Mount, 0, len(texts))
	for _, t := range texts {
		volume, path, ok := strings.Cut(t, ":")
		if !ok {
			return nil, usagef(cmd, "--volume: %q has not the form VOLUME:PATH or VOLUME:PATH:ro", t)
		}
		m := api.VolumeMount{Volume: volume}
		m.Path, m.ReadOnly = strings.CutSuffix(path, readOnly)
		// A mistyped :ro must not become part of a path that the VM can write to.
		if _, option, more := strings.Cut(m.Path, ":"); more {
			return nil, usage(cmd, errors.New(errors.InvalidArgument, "--volume: %q has no option %q", t, option).WithHint("VOLUME:PATH or VOLUME:PATH:ro"))
		}
		out = append(out, m)
		mounts = append(mounts, domain.Mount{Source: m.Volume, Target: m.Path})
	}
	return out, flagged(cmd, "volume", domain.ValidateMounts("volume", mounts))
}
