package cli

import (
	"context"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/internal/cli/pack"
	"github.com/aetherium/aetherium/services/core/internal/cli/terminal"
	"github.com/aetherium/aetherium/services/core/internal/cli/unpack"
	"github.com/aetherium/aetherium/services/core/pkg/client"
)

func (a *app) cpCommand() *cobra.Command {
	c := &copier{app: a}
	cmd := &cobra.Command{
		Use:   "cp [options] SRC… DST",
		Short: "Copy files and directories into and out of a VM",
		Long: `Copies a file or a directory tree between here and a VM. The side in the VM is
VM:PATH; a relative PATH starts at the user's home. An existing directory as DST
takes the source into it; SRC/. means the content of SRC. Several sources need a
directory as DST; in a VM it is made.

- is stdin or stdout: a file's bytes, or a tar of a directory; as a source with
a DST that ends in a slash it is a tar to unpack there.

Nothing that a VM sends is written outside DST: names that lead outside are an
error, links that lead outside are left out (--links keep makes them; they are
never followed).`,
		Example: `  aetherium cp main.py web:app/
  aetherium cp ./site web:/srv/site
  aetherium cp web:/var/log ./logs
  aetherium cp web:result.json - | jq .
  git archive HEAD | aetherium cp - web:work/`,
		Args:              copyArgs,
		RunE:              c.run,
		ValidArgsFunction: a.completeCopy,
	}
	cmd.Flags().StringVarP(&c.user, "user", "u", "", "OS user in the VM whose rights count and who owns what is made")
	cmd.Flags().StringVar(&c.links, "links", string(unpack.LinksRefuse), "links from the VM that lead outside: refuse or keep")
	must(cmd.RegisterFlagCompletionFunc("links", fixed(string(unpack.LinksRefuse), string(unpack.LinksKeep))))
	return cmd
}

type copier struct {
	*app
	volumes bool // the other side is a volume: of one file, for volumes have no tar
	user    string
	links   string
	c       *client.Client
}

// place is one side of a copy.
type place struct {
	vm   string // empty: here
	path string
}

// parsePlace tells VM:PATH from a local path, which may hold colons behind a
// slash or begin with a dot.
func parsePlace(s string) place {
	vm, rest, ok := strings.Cut(s, ":")
	if !ok || vm == "" || strings.ContainsAny(vm, "/\\") || strings.HasPrefix(s, ".") {
		return place{path: s}
	}
	if rest == "" {
		rest = "."
	}
	return place{vm: vm, path: rest}
}

func (p place) stdio() bool { return p.vm == "" && p.path == "-" }

// copyArgs checks the arguments as far as that can be done without looking.
func copyArgs(cmd *cobra.Command, args []string) error {
	if len(args) < 2 {
		return exactly("SRC", "DST")(cmd, args)
	}
	sources, dst := args[:len(args)-1], args[len(args)-1]
	for _, src := range sources {
		if err := pairUp(cmd, src, dst); err != nil {
			return err
		}
	}
	if len(sources) > 1 && (parsePlace(dst).stdio() || slices.Contains(sources, "-")) {
		return usagef(cmd, "- is for one source")
	}
	return nil
}

// pairUp checks a source with its destination.
func pairUp(cmd *cobra.Command, from, to string) error {
	src, dst := parsePlace(from), parsePlace(to)
	for _, p := range []place{src, dst} {
		switch {
		case p.path == "":
			return usagef(cmd, "a path is empty")
		case p.vm != "":
			if err := checkArgument(cmd, "VM", p.vm); err != nil {
				return err
			}
		}
	}
	switch {
	case src.vm == "" && dst.vm == "":
		return usage(cmd, errors.New(errors.InvalidArgument, "neither side is in a VM").WithHint("write VM:PATH for the side in a VM"))
	case src.vm != "" && dst.vm != "":
		return usage(cmd, errors.New(errors.InvalidArgument, "both sides are in VMs").
			WithHint("pipe it: aetherium cp %s - | aetherium cp - %s", from, to))
	}
	return nil
}

func (c *copier) run(cmd *cobra.Command, args []string) (err error) {
	if l := unpack.Links(c.links); l != unpack.LinksRefuse && l != unpack.LinksKeep {
		return usagef(cmd, "--links: refuse or keep, not %q", c.links)
	}
	if c.c, err = c.client(); err != nil {
		return err
	}
	sources, dst := args[:len(args)-1], parsePlace(args[len(args)-1])
	if len(sources) == 1 {
		return c.copy(cmd.Context(), parsePlace(sources[0]), dst)
	}
	dst.path = strings.TrimSuffix(dst.path, "/") + "/" // so it is a directory
	if dst.vm == "" {
		if info, err := os.Stat(dst.path); err != nil || !info.IsDir() {
			return noDirectory(dst.path)
		}
	}
	return c.copyEach(cmd.Context(), sources, dst)
}

// copyEach copies several sources, and goes on after one that failed.
func (c *copier) copyEach(ctx context.Context, sources []string, dst place) error {
	var last error
	for _, src := range sources {
		err := c.copy(ctx, parsePlace(src), dst)
		if err == nil {
			continue
		}
		if last != nil {
			c.tell(c.explain(last))
		}
		if last = err; ctx.Err() != nil {
			break
		}
	}
	return last
}

func (c *copier) copy(ctx context.Context, src, dst place) error {
	switch {
	case src.stdio():
		return c.fromStdin(ctx, dst)
	case dst.stdio():
		return c.toStdout(ctx, src)
	case src.vm == "":
		return c.up(ctx, src.path, dst)
	}
	return c.down(ctx, src, dst.path)
}

func (c *copier) file(p place) client.File {
	if c.volumes {
		return client.File{Volume: p.vm, Path: p.path}
	}
	return client.File{VM: p.vm, Path: p.path, User: c.user}
}

// noTree refuses a directory tree where the other side has no tar.
func (c *copier) noTree(path string) error {
	if !c.volumes {
		return nil
	}
	return errors.New(errors.InvalidArgument, "%s is a directory: one file at a time is copied into and out of volumes", path).
		WithHint("give a VM the volume by --volume, and use `aetherium cp`")
}

// stat describes a place in a VM; exists is false where there is nothing.
func (c *copier) stat(ctx context.Context, p place) (kind string, size int64, exists bool, err error) {
	info, err := c.c.StatFile(ctx, c.file(p))
	switch {
	case err == nil && info.Type == "symlink":
		// A slash at the end has the guest's kernel follow it.
		followed, err := c.c.StatFile(ctx, c.file(place{p.vm, strings.TrimSuffix(p.path, "/") + "/."}))
		if err == nil {
			return followed.Type, 0, true, nil
		}
		return "file", -1, true, nil
	case err == nil:
		return info.Type, info.SizeBytes, true, nil
	case errors.HasCode(err, errors.NotFound) && !vmMissing(err):
		return "", 0, false, nil
	}
	return "", 0, false, err
}

// vmMissing tells a VM or a volume that does not exist from a path in it that does not.
func vmMissing(err error) bool {
	var e *errors.Error
	return errors.As(err, &e) && (e.Field == "vm" || strings.Contains(e.Message, " VM ") || strings.HasPrefix(e.Message, "no volume ") || strings.HasPrefix(e.Message, "volume "))
}

func (c *copier) fromStdin(ctx context.Context, dst place) error {
	p := c.progress("stdin", -1)
	defer p.done()
	if strings.HasSuffix(dst.path, "/") {
		if err := c.noTree(dst.path); err != nil {
			return err
		}
		if err := c.c.MakeDir(ctx, c.file(dst)); err != nil {
			return err
		}
		return c.c.WriteTar(ctx, c.file(dst), p.reader(c.input(ctx)))
	}
	_, err := c.c.WriteFile(ctx, c.file(dst), p.reader(c.input(ctx)), -1, 0)
	return err
}

func (c *copier) toStdout(ctx context.Context, src place) error {
	kind, size, exists, err := c.stat(ctx, src)
	if err != nil {
		return err
	}
	if !exists {
		return noSource(src)
	}
	p := c.progress(path.Base(src.path), size)
	defer p.done()
	if kind != "dir" {
		_, err = c.c.ReadFile(ctx, c.file(src), p.writer(c.Stdout))
		return err
	}
	if err := c.noTree(src.path); err != nil {
		return err
	}
	if terminal.Is(c.Stdout) {
		return errors.New(errors.InvalidArgument, "%s is a directory, and its tar is nothing for a terminal", src.path).
			WithHint("redirect it, or copy to a local directory")
	}
	p.total = -1
	r, err := c.c.ReadTar(ctx, c.file(src))
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	_, err = io.Copy(p.writer(c.Stdout), r)
	return err
}

func noSource(p place) error {
	return errors.New(errors.NotFound, "there is no %s in %s", p.path, p.vm)
}

// up copies into a VM.
func (c *copier) up(ctx context.Context, src string, dst place) error {
	info, err := os.Stat(src)
	if err != nil {
		return localError(err)
	}
	if info.IsDir() {
		if err := c.noTree(src); err != nil {
			return err
		}
	}
	content := info.IsDir() && isContent(src)
	if strings.HasSuffix(dst.path, "/") || dst.path == "." {
		if err := c.c.MakeDir(ctx, c.file(dst)); err != nil {
			return err
		}
		if !content {
			dst.path = path.Join(dst.path, localBase(src))
		}
	} else {
		kind, _, _, err := c.stat(ctx, dst)
		if err != nil {
			return err
		}
		if kind == "dir" && !content {
			dst.path = path.Join(dst.path, localBase(src))
		}
	}
	if info.IsDir() {
		return c.upTree(ctx, src, dst)
	}
	f, err := openLocal(ctx, src)
	if err != nil {
		return localError(err)
	}
	defer func() { _ = f.Close() }()
	size := int64(-1)
	if info.Mode().IsRegular() {
		size = info.Size()
	}
	p := c.progress(localBase(src), size)
	defer p.done()
	_, err = c.c.WriteFile(ctx, c.file(dst), p.reader(f), size, uint32(info.Mode().Perm()))
	return err
}

func (c *copier) upTree(ctx context.Context, src string, dst place) error {
	if err := c.c.MakeDir(ctx, c.file(dst)); err != nil {
		return err
	}
	p := c.progress(localBase(src), c.treeSize(src))
	defer p.done()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r, w := io.Pipe()
	packed := make(chan error, 1)
	c.term.Go(func() {
		err := pack.Tree(ctx, w, src, pack.Options{Skipped: func(name, why string) { c.say("%s is left out: %s", name, why) }})
		_ = w.CloseWithError(err)
		packed <- err
	})
	err := c.c.WriteTar(ctx, c.file(dst), p.reader(r))
	_ = r.CloseWithError(errStopped) // a server that answered early reads no more
	if local := <-packed; local != nil && !errors.Is(local, errStopped) {
		return localError(local)
	}
	return err
}

// errStopped says that nobody reads the tar any more.
var errStopped = errors.Plain("the receiver has ended")

// treeSize is for the progress bar; without one nothing is walked.
func (c *copier) treeSize(dir string) int64 {
	if !terminal.Is(c.Stderr) {
		return -1
	}
	return pack.Size(dir)
}

// isContent reports whether a path asks for what is in a directory: DIR/.
func isContent(p string) bool { return p == "." || strings.HasSuffix(p, "/.") }

// localBase is the name that a local path's copy has.
func localBase(p string) string {
	if abs, err := filepath.Abs(p); err == nil {
		p = abs
	}
	return filepath.Base(p)
}

// localError makes an error of a failed local call.
func localError(err error) error {
	var e *errors.Error
	if errors.As(err, &e) {
		return err
	}
	code := errors.Internal
	switch {
	case errors.Is(err, fs.ErrNotExist):
		code = errors.NotFound
	case errors.Is(err, fs.ErrPermission):
		code = errors.PermissionDenied
	}
	return errors.Wrap(err, code, "%s", err)
}
