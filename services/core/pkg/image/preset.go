package image

import (
	"context"
	"io/fs"
	"maps"
	"path"

	"github.com/aetherium/aetherium/services/core/pkg/image/internal/tree"
	"github.com/aetherium/aetherium/services/core/pkg/image/preset"
)

// fromPreset installs a preset's packages and puts its files on top of them.
func (b *build) fromPreset(ctx context.Context, p preset.Preset) error {
	if err := b.fromPackages(ctx, DefaultSuite, p.Packages); err != nil {
		return err
	}
	maps.Copy(b.result.Env, p.Env)
	t, err := tree.Open(b.root)
	if err != nil {
		return err
	}
	defer t.Close()
	b.say("files", "adding what is ours in /%s", p.Dir)
	return fs.WalkDir(p.Files, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		at := path.Join(p.Dir, name)
		if d.IsDir() {
			return t.MkdirAll(at, 0o755)
		}
		content, err := fs.ReadFile(p.Files, name)
		if err != nil {
			return err
		}
		return t.WriteFile(at, content, tree.Attr{Mode: 0o644})
	})
}
