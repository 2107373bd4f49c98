package kernel

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// FetchDebian downloads Debian's kernel for virtual machines with the host's
// package manager, and unpacks it as dir; nothing is installed, and no right is
// needed but that to write there. What dir was before is replaced.
// Returns InvalidArgument, Unsupported, Unavailable, NoSpace.
func FetchDebian(ctx context.Context, dir string) error {
	if _, err := exec.LookPath("apt-get"); err != nil {
		return errors.New(errors.Unsupported, "kernels are fetched with apt-get, which is not on this host").
			WithHint("give a kernel's package (.deb), or a kernel and its modules")
	}
	tmp, err := os.MkdirTemp("", "aetherium-kernel-")
	if err != nil {
		return errors.Wrap(err, errors.NoSpace, "there is nowhere to download a kernel to")
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	// The package of that name depends on the newest kernel's.
	meta := "linux-image-cloud-" + runtime.GOARCH
	out, err := command(ctx, tmp, "apt-cache", "depends", "--important", meta)
	if err != nil {
		return errors.Wrap(err, errors.Unavailable, "the host's package lists do not know %s", meta).WithHint("run `apt-get update`")
	}
	name := ""
	for line := range strings.Lines(out) {
		if n, ok := strings.CutPrefix(strings.TrimSpace(line), "Depends: "); ok && strings.HasPrefix(n, "linux-image-") {
			name = n
		}
	}
	if name == "" {
		return errors.New(errors.Unavailable, "the host's package lists name no kernel for %s", meta).WithHint("run `apt-get update`")
	}
	if _, err := command(ctx, tmp, "apt-get", "download", "-q", name); err != nil {
		return errors.Wrap(err, errors.Unavailable, "%s cannot be downloaded", name).WithHint("run `apt-get update`")
	}
	found, err := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if err != nil || len(found) != 1 {
		return errors.New(errors.Unavailable, "%s was not downloaded", name)
	}
	return UnpackDebian(ctx, found[0], dir)
}

// UnpackDebian unpacks a kernel's package (.deb) as dir, replacing what was there.
// Returns InvalidArgument, Unsupported, NoSpace.
func UnpackDebian(ctx context.Context, deb, dir string) error {
	if _, err := exec.LookPath("dpkg-deb"); err != nil {
		return errors.New(errors.Unsupported, "packages are unpacked with dpkg-deb, which is not on this host")
	}
	parent := filepath.Dir(filepath.Clean(dir))
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return errors.Wrap(err, errors.NoSpace, "the kernel cannot be written to %s", dir)
	}
	tmp, err := os.MkdirTemp(parent, ".new-")
	if err != nil {
		return errors.Wrap(err, errors.NoSpace, "the kernel cannot be written to %s", dir)
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	path, err := filepath.Abs(deb)
	if err != nil {
		return errors.Wrap(err, errors.InvalidArgument, "%q is no path", deb)
	}
	if _, err := command(ctx, tmp, "dpkg-deb", "--extract", path, "."); err != nil {
		return errors.Wrap(err, errors.InvalidArgument, "%s cannot be unpacked", deb)
	}
	if _, err := Find(tmp); err != nil {
		return errors.Wrap(err, errors.InvalidArgument, "%s is not a kernel's package", deb)
	}
	if err := os.Chmod(tmp, 0o755); err != nil {
		return errors.Wrap(err, errors.NoSpace, "the kernel cannot be written to %s", dir)
	}
	old := tmp + "-old"
	defer func() { _ = os.RemoveAll(old) }()
	if err := os.Rename(dir, old); err != nil && !errors.Is(err, os.ErrNotExist) {
		return errors.Wrap(err, errors.NoSpace, "the kernel in %s cannot be replaced", dir)
	}
	if err := os.Rename(tmp, dir); err != nil {
		return errors.Wrap(err, errors.NoSpace, "the kernel cannot be written to %s", dir)
	}
	return nil
}

// command runs a program and gives what it says.
func command(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "LC_ALL=C")
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		text := strings.TrimSpace(complaint.String())
		return "", errors.Wrap(err, errors.Internal, "%s: %s", name, text[max(0, len(text)-512):])
	}
	return out.String(), nil
}
