package image

import (
	"context"
	"os/exec"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/image/internal/finish"
	"github.com/aetherium/aetherium/services/core/pkg/image/internal/tree"
	"github.com/aetherium/aetherium/services/core/pkg/image/preset"
)

// BaseTemplate is the name of the template that there is from the first start.
const BaseTemplate = "base"

// FallbackBaseImage is tried for the `base` template on a node that has no
// mmdebstrap: a public image with everything that base promises.
const FallbackBaseImage = "mcr.microsoft.com/devcontainers/javascript-node:22-bookworm"

// basePrograms and baseFiles are what `base` promises, wherever it came from.
var (
	basePrograms = []string{"bash", "sh", "ls", "cp", "env", "git", "curl", "python3", "python", "node", "sudo", "tput", "ps"}
	baseFiles    = []string{"usr/lib/git-core/git-daemon", "etc/ssl/certs/ca-certificates.crt", "etc/sudoers.d/aetherium"}
)

// BaseSource says what this node makes the `base` template from: the
// configured image if there is one, Debian packages where mmdebstrap is
// installed, else a public image. A base that differs between nodes would be a
// poor base, so Debian packages come first; CheckBase's list holds for all.
func (s *Store) BaseSource() domain.TemplateSource {
	if s.cfg.BaseImage != "" {
		return domain.TemplateSource{Image: s.cfg.BaseImage}
	}
	if _, err := exec.LookPath("mmdebstrap"); err == nil {
		return domain.TemplateSource{Packages: preset.BasePackages(), Suite: DefaultSuite}
	}
	return domain.TemplateSource{Image: FallbackBaseImage}
}

// BuildBase builds the `base` template and checks that all it promises is
// there. A configured image whose registry is away is replaced by Debian
// packages, with a line that says so; one that lacks something is an error.
// It returns the errors of Build, and PreconditionFailed naming what is missing.
func (s *Store) BuildBase(ctx context.Context, id string, progress Progress) (Result, error) {
	src := s.BaseSource()
	r, err := s.buildBase(ctx, id, src, progress)
	if src.Image == "" || !errors.HasCode(err, errors.Unavailable) {
		return r, err
	}
	if _, lookErr := exec.LookPath("mmdebstrap"); lookErr != nil {
		return r, err
	}
	say, _ := reporter(progress)
	say("pull", "%s; making base from Debian packages instead", errors.Public(err).Message)
	return s.buildBase(ctx, id, domain.TemplateSource{Packages: preset.BasePackages(), Suite: DefaultSuite}, progress)
}

func (s *Store) buildBase(ctx context.Context, id string, src domain.TemplateSource, progress Progress) (Result, error) {
	from, err := sourceOf(src)
	if err != nil {
		return Result{}, err
	}
	return s.run(ctx, id, src, progress, func(ctx context.Context, b *build) error {
		if err := from(ctx, b); err != nil {
			return err
		}
		// Commands in base run as its user, whatever an image was made for.
		b.result.User, b.result.WorkDir = finish.UserName, ""
		return nil
	}, checkBase)
}

// checkBase looks for everything that base promises.
func checkBase(t *tree.Tree) error {
	var missing []string
	for _, p := range basePrograms {
		if !hasProgram(t, p) {
			missing = append(missing, p)
		}
	}
	for _, f := range baseFiles {
		if _, err := t.Stat(f); err != nil {
			missing = append(missing, "/"+f)
		}
	}
	passwd, err := t.ReadFile("etc/passwd", 1<<20)
	if err != nil || !strings.Contains("\n"+string(passwd), "\n"+finish.UserName+":") {
		missing = append(missing, "the user "+finish.UserName)
	}
	if len(missing) > 0 {
		return errors.New(errors.PreconditionFailed, "the base template lacks %s", strings.Join(missing, ", ")).
			WithHint("choose an image that has them, or none: Debian packages are the default")
	}
	return nil
}

func hasProgram(t *tree.Tree, name string) bool {
	for dir := range strings.SplitSeq(finish.DefaultPath, ":") {
		st, err := t.Stat(path.Join(dir, name)[1:])
		if err == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Mode&0o111 != 0 {
			return true
		}
	}
	return false
}
