package hostlease

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// ChangeSetting sets a sysctl and notes in v.Mine, before the change, what
// stood there before any instance touched it. A setting that already has the
// value and that no instance changed is left alone and noted nowhere.
func (v *View) ChangeSetting(name, want string) error {
	current, err := ReadSetting(name)
	if err != nil {
		return err
	}
	if _, mine := v.Mine.Settings[name]; !mine {
		original, held := v.originalOf(name)
		if !held {
			if current == want {
				return nil
			}
			original = current
		}
		if v.Mine.Settings == nil {
			v.Mine.Settings = map[string]string{}
		}
		v.Mine.Settings[name] = original
		if err := v.Save(); err != nil {
			return err
		}
	}
	if current == want {
		return nil
	}
	return WriteSetting(name, want)
}

// RestoreSettings gives back what v.Mine changed, except where another
// instance in the same network namespace needs it still or where keep says
// so, and saves.
func (v *View) RestoreSettings(keep func(name string) bool) error {
	for name, original := range v.Mine.Settings {
		if _, held := v.originalOf(name); !held && !keep(name) {
			current, err := ReadSetting(name)
			if err != nil {
				return err
			}
			if current != original {
				if err := WriteSetting(name, original); err != nil {
					return err
				}
			}
		}
		delete(v.Mine.Settings, name)
		if err := v.Save(); err != nil {
			return err
		}
	}
	return nil
}

func (v *View) originalOf(name string) (string, bool) {
	for _, l := range v.Others {
		if l.HostNet != v.Mine.HostNet {
			continue
		}
		if original, ok := l.Settings[name]; ok {
			return original, true
		}
	}
	return "", false
}

// ReadSetting reads a sysctl by its dotted name, in the network namespace of
// the calling thread. Returns Unsupported when this kernel has no such setting.
func ReadSetting(name string) (string, error) {
	raw, err := os.ReadFile(settingPath(name))
	if err != nil {
		return "", errors.Wrap(err, errors.Unsupported, "cannot read the kernel setting %s", name)
	}
	return strings.TrimSpace(string(raw)), nil
}

// WriteSetting writes a sysctl. Returns Unsupported when the kernel has none
// such or refuses the value.
func WriteSetting(name, value string) error {
	// Not os.WriteFile: /proc must never get a new file, and one write is one value.
	f, err := os.OpenFile(settingPath(name), os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString(value)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return errors.Wrap(err, errors.Unsupported, "cannot set the kernel setting %s", name)
	}
	return nil
}

func settingPath(name string) string {
	return filepath.Join("/proc/sys", strings.ReplaceAll(name, ".", "/"))
}
