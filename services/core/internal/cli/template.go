package cli

import (
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/internal/cli/render"
	"github.com/aetherium/aetherium/services/core/internal/cli/units"
	"github.com/aetherium/aetherium/services/core/pkg/client"
)

func (a *app) templateCommand() *cobra.Command {
	return group("template", "Build and manage templates",
		a.templateListCommand(), a.templateGetCommand(), a.templateBuildCommand(), a.templateTagCommand(), a.templateUntagCommand(), a.templateRemoveCommand())
}

func templateName(t api.Template) string { return t.Name }

func (a *app) templateListCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List templates",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			items, err := client.Collect(c.Templates(cmd.Context(), client.Page{}))
			if err != nil {
				return err
			}
			now := a.Now()
			return showAll(a, items, listing[api.Template]{
				titles: []string{"NAME", "TAGS", "STATE", "SOURCE", "CPU", "MEMORY", "SIZE", "UPDATED"},
				name:   templateName,
				row: func(t api.Template) []render.Cell {
					var b api.Build
					if len(t.Builds) > 0 {
						b = t.Builds[0]
					}
					return []render.Cell{
						render.Text(t.Name), render.Text(strings.Join(slices.Sorted(maps.Keys(t.Tags)), ",")), render.Text(b.State),
						render.Text(sourceText(b.Source)), given(b.Resources.MilliCPU, render.Text(units.CPUs(b.Resources.MilliCPU))),
						given(b.Resources.MemoryBytes, render.Bytes(b.Resources.MemoryBytes)), given(b.SizeBytes, render.Bytes(b.SizeBytes)),
						render.Since(t.UpdatedAt, now),
					}
				},
			})
		},
	}
}

func sourceText(s api.TemplateSource) string {
	switch {
	case s.Image != "":
		return s.Image
	case s.Tar != "":
		return "tar " + s.Tar
	case s.Dir != "":
		return "directory " + s.Dir
	case len(s.Packages) > 0:
		return "Debian packages"
	case s.Preset != "":
		return "preset " + s.Preset
	case s.Steps != "":
		first, _, _ := strings.Cut(s.Steps, "\n")
		return "steps " + first
	}
	return ""
}

func (a *app) templateBuildCommand() *cobra.Command {
	var req api.BuildTemplate
	var r api.Resources
	var env envFlags
	var tar string
	var detach bool
	var from stepSource
	cmd := &cobra.Command{
		Use:   "build NAME [CONTEXT]",
		Short: "Build a template and follow its log",
		Example: `  aetherium template build py --image python:3.13-slim
  aetherium template build tools --packages git,curl,jq
  aetherium template build code-interpreter-v1 --preset code-interpreter
  aetherium template build mine --tar rootfs.tar
  aetherium template build app -f Aetherfile .
  aetherium template build app -f Aetherfile . --memory --start ./serve --ready 'curl -fs localhost:8080'`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return exactly("NAME", "CONTEXT")(cmd, args)
			}
			return exactly("NAME")(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			req.Name = args[0]
			if err := checkFirst(checkTemplateName(cmd, req.Name), checkTags(cmd, req.Tags), checkResources(cmd, r), checkWarmUp(cmd, req, args)); err != nil {
				return err
			}
			if len(args) == 2 {
				from.context = args[1]
			}
			if from.given() {
				if req.Source.Steps, err = from.read(a, cmd); err != nil {
					return err
				}
			}
			if req.Env, err = env.environment(a, cmd); err != nil {
				return err
			}
			if r != (api.Resources{}) {
				req.Resources = &r
			}
			of := req.Source
			src := domain.TemplateSource{Image: of.Image, Tar: of.Tar, Dir: of.Dir, Packages: of.Packages, Suite: of.Suite, Preset: of.Preset, Steps: of.Steps, Context: of.Context}
			src.Tar = tar
			if err := src.Validate("source"); err != nil {
				return sourceError(cmd, errors.Public(err).WithHint("give one of --image, --packages, --preset, --tar, --dir and --file"))
			}
			return a.buildTemplate(cmd, req, tar, from, detach)
		},
	}
	f := cmd.Flags()
	f.StringVar(&req.Source.Image, "image", "", "from an OCI image")
	f.StringSliceVar(&req.Source.Packages, "packages", nil, "from Debian packages on top of a minimal system")
	f.StringVar(&req.Source.Suite, "suite", "", "Debian release for --packages (default: bookworm)")
	f.StringVar(&req.Source.Preset, "preset", "", "one that comes with the product, with what is started in its VMs: code-interpreter")
	must(cmd.RegisterFlagCompletionFunc("preset", fixed("code-interpreter")))
	f.StringVar(&tar, "tar", "", "from a root filesystem archive here (- for stdin), which is sent to the server")
	f.StringVar(&req.Source.Dir, "dir", "", "from a root filesystem directory on the worker that builds")
	f.StringVarP(&from.file, "file", "f", "", "from a file of steps, a Dockerfile's subset (- for stdin); CONTEXT is what its COPY takes files from")
	f.BoolVar(&req.NoCache, "no-cache", false, "carry out every step anew")
	f.StringSliceVar(&req.Tags, "tag", nil, "tags for the build (default: latest)")
	f.StringVar(&req.User, "user", "", "default OS user")
	f.Var((*cpusFlag)(&r.MilliCPU), "cpus", "default cores of its VMs")
	f.Var((*bytesFlag)(&r.MemoryBytes), "vm-memory", "default memory of its VMs")
	f.Var((*bytesFlag)(&r.DiskBytes), "disk", "default disk of its VMs")
	f.StringVar(&req.Start, "start", "", "a line of shell that runs in the background in each of its VMs")
	f.BoolVar(&req.Memory, "memory", false, "boot a machine, run --start in it, and keep its memory: VMs begin with it running")
	f.StringVar(&req.Ready, "ready", "", "a VM runs, or its memory is kept, once this line of shell exits with 0 (default: at once)")
	f.StringVar(&req.Driver, "driver", "", "with --memory: driver that it is of (default: the server's, or the first that can)")
	f.StringVar(&req.Network, "network", "", "with --memory: network of the VMs that it is for (default: the server's)")
	must(cmd.RegisterFlagCompletionFunc("network", fixed("none", "nat")))
	f.BoolVarP(&detach, "detach", "d", false, "do not wait: print the task's ID")
	env.register(cmd)
	return cmd
}

// checkWarmUp checks what goes with a template's memory.
func checkWarmUp(cmd *cobra.Command, req api.BuildTemplate, args []string) error {
	if req.Memory {
		if _, err := units.ParseBytes(args[len(args)-1]); len(args) > 1 && err == nil {
			return usagef(cmd, "--memory keeps a running machine's memory; the size of its VMs' is --vm-memory %s", args[len(args)-1])
		}
		return flagged(cmd, "network", domain.NetworkMode(req.Network).Validate("network"))
	}
	for _, name := range []string{"driver", "network"} {
		if cmd.Flags().Changed(name) {
			return usagef(cmd, "--%s goes with --memory", name)
		}
	}
	return nil
}

func (a *app) buildTemplate(cmd *cobra.Command, req api.BuildTemplate, tar string, from stepSource, detach bool) error {
	ctx := cmd.Context()
	c, err := a.client()
	if err != nil {
		return err
	}
	if tar != "" {
		up, err := a.upload(cmd, c, tar)
		if err != nil {
			return err
		}
		req.Source.Tar = up.ID
	}
	if from.needed {
		up, err := from.send(ctx, a, c)
		if err != nil {
			return err
		}
		req.Source.Context = up.ID
	}
	task, err := c.BuildTemplate(ctx, req)
	if err != nil {
		return err
	}
	if detach {
		return showDone(a, []api.Task{task}, func(t api.Task) string { return t.ID })
	}
	// The log is for people; what programs read goes to stdout.
	if err := c.FollowBuildLog(ctx, task.Subject, cleanWriter{a.Stderr}); err != nil && !errors.HasCode(err, errors.NotFound) {
		a.say("the build goes on: aetherium task get %s", task.ID)
		return err
	}
	if _, err := c.WaitTask(ctx, task.ID); err != nil {
		return err
	}
	t, err := c.Template(ctx, req.Name)
	if err != nil {
		return err
	}
	return showDone(a, []api.Template{t}, templateName)
}

func (a *app) upload(cmd *cobra.Command, c *client.Client, name string) (api.Upload, error) {
	r := a.input(cmd.Context())
	size := int64(-1)
	if name != "-" {
		f, err := openLocal(cmd.Context(), name)
		if err != nil {
			return api.Upload{}, localError(err)
		}
		defer func() { _ = f.Close() }()
		if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
			size = info.Size()
		}
		r = f
	}
	p := a.progress("upload", size)
	defer p.done()
	return c.Upload(cmd.Context(), p.reader(r), size)
}

func (a *app) templateRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "rm NAME…",
		Aliases: []string{"delete", "remove"},
		Short:   "Remove templates; VMs made from them go on",
		Args:    atLeastOne("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			return a.removeEach(args, func(name string) (removed, error) {
				return removed{Name: name}, c.DeleteTemplate(cmd.Context(), name)
			})
		},
		ValidArgsFunction: a.completeTemplates,
	}
}

// cleanWriter shows text from elsewhere without what steers a terminal, but
// for line ends and tabs.
type cleanWriter struct{ w io.Writer }

func (c cleanWriter) Write(p []byte) (int, error) {
	var b strings.Builder
	for line := range strings.SplitAfterSeq(string(p), "\n") {
		text, end := strings.CutSuffix(line, "\n")
		parts := strings.Split(strings.TrimSuffix(text, "\r"), "\t")
		for i, s := range parts {
			parts[i] = render.Clean(s)
		}
		b.WriteString(strings.Join(parts, "\t"))
		if end {
			b.WriteByte('\n')
		}
	}
	if _, err := io.WriteString(c.w, b.String()); err != nil {
		return 0, err
	}
	return len(p), nil
}
