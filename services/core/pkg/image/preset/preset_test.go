package preset_test

import (
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/image/preset"
)

func TestFind(t *testing.T) {
	t.Parallel()
	if _, err := preset.Find("no-such"); !errors.HasCode(err, errors.InvalidArgument) || !strings.Contains(errors.Public(err).Hint, preset.CodeInterpreter) {
		t.Errorf("%v", err)
	}
	p, err := preset.Find(preset.CodeInterpreter)
	if err != nil || p.Start == "" || p.Ready == "" {
		t.Fatalf("%+v, %v", p, err)
	}
	for _, name := range []string{
		"__main__.py", "interpreter/__init__.py", "interpreter/server.py", "kernels/aetherium-python/kernel.json", "kernels/aetherium-python/kernel.py",
		"kernels/aetherium-bash/kernel.py", "kernels/common/cells.js", "kernels/common/child.py",
	} {
		if _, err := fs.Stat(p.Files, name); err != nil {
			t.Error(err)
		}
	}
	err = fs.WalkDir(p.Files, ".", func(name string, _ fs.DirEntry, err error) error {
		if strings.Contains(name, "test") || strings.HasSuffix(name, ".pyc") {
			t.Errorf("%s is not for VMs", name)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if !slices.Contains(p.Packages, "python3-ipykernel") {
		t.Errorf("%v", p.Packages)
	}
}
