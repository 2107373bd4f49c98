package kernel_test

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/aetherium/aetherium/services/core/pkg/vmm/microvm/kernel"
)

// elfOf and bzImageOf are as much of a kernel as tells its release.
func elfOf(release string) string {
	return "\x7fELF" + string(make([]byte, 4096)) + "Linux version " + release + " (me@host) #1\x00"
}

func bzImageOf(release string) string {
	image := make([]byte, 0x400)
	copy(image[0x202:], "HdrS")
	binary.LittleEndian.PutUint16(image[0x20e:], 0x100)
	copy(image[0x300:], release+" (me@host) #1\x00")
	return string(image)
}

// The newest kernel is taken, with the modules of its own release.
func TestFind(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		files          map[string]string // directories end in a slash
		image, modules string
	}{
		"packages": {
			map[string]string{
				"boot/vmlinuz-6.1.0-9-cloud-amd64": "", "boot/vmlinuz-6.1.0-10-cloud-amd64": "", "boot/vmlinuz-5.10.0-30-amd64": "",
				"lib/modules/6.1.0-9-cloud-amd64/": "", "lib/modules/6.1.0-10-cloud-amd64/": "",
			}, "boot/vmlinuz-6.1.0-10-cloud-amd64", "lib/modules/6.1.0-10-cloud-amd64",
		},
		"longer":     {map[string]string{"boot/vmlinuz-6.1": "", "boot/vmlinuz-6.1.2": "", "boot/vmlinuz-6": ""}, "boot/vmlinuz-6.1.2", ""},
		"rescue":     {map[string]string{"boot/vmlinuz-0-rescue-9f": "", "boot/vmlinuz-6.9.1": ""}, "boot/vmlinuz-6.9.1", ""},
		"more parts": {map[string]string{"boot/vmlinuz-6.9.10": "", "boot/vmlinuz-6.10.2": "", "boot/vmlinuz-6.9.9": ""}, "boot/vmlinuz-6.10.2", ""},
		"own, ELF": {
			map[string]string{"vmlinux": elfOf("6.1.0-mine"), "lib/modules/6.1.0-mine/": "", "lib/modules/6.1.0-other/": ""},
			"vmlinux", "lib/modules/6.1.0-mine",
		},
		"own, bzImage": {
			map[string]string{"vmlinuz": bzImageOf("6.9.1-mine"), "usr/lib/modules/6.9.1-mine/": ""},
			"vmlinuz", "usr/lib/modules/6.9.1-mine",
		},
		"named otherwise": {
			map[string]string{"boot/vmlinuz-mine": bzImageOf("6.9.1"), "lib/modules/6.9.1/": ""},
			"boot/vmlinuz-mine", "lib/modules/6.9.1",
		},
		"built in":    {map[string]string{"vmlinux": elfOf("6.1.0-mine")}, "vmlinux", ""},
		"others' own": {map[string]string{"vmlinux": elfOf("6.1.0-mine"), "lib/modules/6.1.0-other/": ""}, "vmlinux", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			for path, content := range tc.files {
				full := filepath.Join(dir, path)
				if path[len(path)-1] == '/' {
					must(t, os.MkdirAll(full, 0o755))
					continue
				}
				must(t, os.MkdirAll(filepath.Dir(full), 0o755))
				must(t, os.WriteFile(full, []byte(content), 0o600))
			}
			want := kernel.Source{Image: filepath.Join(dir, tc.image)}
			if tc.modules != "" {
				want.Modules = filepath.Join(dir, tc.modules)
			}
			if got, err := kernel.Find(dir); err != nil || got != want {
				t.Errorf("%+v, %v, want %+v", got, err, want)
			}
		})
	}
}
