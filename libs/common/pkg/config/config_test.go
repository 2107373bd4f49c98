package config_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/config"
	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

type settings struct {
	Name   string `yaml:"name" doc:"What it is called."`
	Listen struct {
		Port  int             `yaml:"port" doc:"TCP port."`
		Hosts []string        `yaml:"hosts"`
		Idle  config.Duration `yaml:"idle"`
	} `yaml:"listen"`
	Limit config.Bytes `yaml:"limit"`
	Ratio float64      `yaml:"ratio"`
	On    bool         `yaml:"on"`
}

func defaults() settings {
	var s settings
	s.Name, s.Listen.Port, s.Listen.Idle, s.Limit = "x", 80, config.Duration(time.Minute), 1<<30
	return s
}

func TestFileThenEnvironment(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(path, []byte("name: file\nlisten: {port: 1, hosts: [a, b], idle: 5s}\nlimit: 512MiB\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := defaults()
	err := config.Load(&s, path, "APP", []string{"APP_LISTEN_PORT=2", "APP_ON=true", "APP_RATIO=1.5", "APP_LISTEN_HOSTS=c, d", "APPLE=1", "APP_OTHER=1"})
	if err != nil {
		t.Fatal(err)
	}
	if s.Name != "file" || s.Listen.Port != 2 || strings.Join(s.Listen.Hosts, "") != "cd" || time.Duration(s.Listen.Idle) != 5*time.Second ||
		s.Limit != 512<<20 || s.Ratio != 1.5 || !s.On {
		t.Errorf("%+v", s)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ name, yaml, env, says string }{
		{"unknown key", "name: a\nnmae: b\n", "", "line 2"}, //nolint:misspell // on purpose
		{"unknown nested key", "listen:\n  prot: 1\n", "", "line 2"},
		{"bad type", "listen:\n  port: many\n", "", "line 2"},
		{"bad duration", "listen:\n  idle: soon\n", "", `line 2: "soon"`},
		{"no duration at all", "listen:\n  idle: [1s]\n", "", "line 2"},
		{"key given twice", "name: a\nname: b\n", "", "line 2"},
		{"second document", "name: a\n---\nname: b\n", "", "one document"},
		{"negative size", "\nlimit: -1MiB\n", "", `line 2: "-1MiB"`},
		{"not YAML", "a: [", "", "valid"},
		{"bad variable", "", "APP_LISTEN_PORT=many", "APP_LISTEN_PORT"},
		{"bad bool", "", "APP_ON=maybe", "APP_ON"},
	} {
		s := defaults()
		err := config.Parse(&s, []byte(tc.yaml))
		if tc.env != "" {
			err = config.FromEnv(&s, "APP", []string{tc.env})
		}
		if !errors.HasCode(err, errors.InvalidArgument) || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
	s := defaults()
	if err := config.Load(&s, "/does/not/exist", "APP", nil); !errors.HasCode(err, errors.NotFound) {
		t.Errorf("absent file: %v", err)
	}
	if err := config.Parse(&s, nil); err != nil {
		t.Errorf("empty file: %v", err)
	}
}

func TestBytes(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]int64{"0": 0, "1": 1, "1KiB": 1024, "1.5GiB": 3 << 29, "2 MB": 2e6, "10B": 10} {
		if got, err := config.ParseBytes(in); err != nil || int64(got) != want {
			t.Errorf("%q: %d, %v", in, got, err)
		}
	}
	for _, bad := range []string{"", "x", "MiB", "-1", "1e300TiB", "NaN"} {
		if got, err := config.ParseBytes(bad); err == nil {
			t.Errorf("%q is taken as %d", bad, got)
		}
	}
	for _, v := range []config.Bytes{0, 1, 1000, 1024, 1536, 3 << 30} {
		if back, err := config.ParseBytes(v.String()); err != nil || back != v {
			t.Errorf("%d -> %s -> %d, %v", v, v, back, err)
		}
	}
}

func TestReference(t *testing.T) {
	t.Parallel()
	d := defaults()
	ref := config.Reference(&d, "APP")
	for _, want := range []string{"| `name` | `APP_NAME` | `x` | What it is called. |", "`listen.port` | `APP_LISTEN_PORT` | `80`", "`1GiB`", "`1m0s`"} {
		if !strings.Contains(ref, want) {
			t.Errorf("no %q in\n%s", want, ref)
		}
	}
}
