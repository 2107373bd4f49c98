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
	Users []struct {
		Name string `yaml:"name"`
	} `yaml:"users"`
	Inlined `yaml:",inline"`
}

type Inlined struct {
	Inner int64 `yaml:"inner"`
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

// What YAML has more than one way to say is taken in each.
func TestWaysToSayIt(t *testing.T) {
	t.Parallel()
	s := defaults()
	err := config.Parse(&s, []byte("name: 7\non: yes\nratio: 1\ninner: 0x10\nlisten: &l\n  port: 5e0\n  hosts:\nusers: [{name: &n a}, {name: *n}]\nlimit: 1048576\n"))
	if err != nil || s.Name != "7" || !s.On || s.Ratio != 1 || s.Inner != 16 || s.Listen.Port != 5 || len(s.Users) != 2 || s.Users[1].Name != "a" || s.Limit != 1<<20 {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ name, yaml, env, says string }{
		{"unknown key", "name: a\nnmae: b\n", "", "valid: line 2: there is no setting nmae"}, //nolint:misspell // on purpose
		{"unknown nested key", "listen:\n  prot: 1\n", "", "valid: line 2: there is no setting listen.prot"},
		{"unknown key in a list", "users:\n- {name: a}\n- {name: b, nom: c}\n", "", "line 3: there is no setting users.nom"},
		{"unknown key of an inlined struct", "wrong: 1", "", "line 1: there is no setting wrong"},
		{"unknown key that is merged", "listen: &l {port: 1}\n<<: {nom: a}\n", "", "line 2: there is no setting nom"},
		{"a value that contains itself", "listen: &l {<<: *l}\n", "", "itself"},
		{"bad type", "listen:\n  port: many\n", "", `line 2: listen.port: "many" is not a whole number`},
		{"part of a whole", "listen:\n  port: 2.5\n", "", `line 2: listen.port: "2.5" is not a whole number`},
		{"no number", "ratio: half", "", `line 1: ratio: "half" is not a number`},
		{"neither true nor false", "on: 1", "", `line 1: on: "1" is neither true nor false`},
		{"a value for a group", "listen: 1", "", "line 1: listen: settings belong there"},
		{"a value for a list", "listen:\n  hosts: a", "", "line 2: listen.hosts: a list belongs there"},
		{"a list for a value", "name: [a]", "", "line 1: name: a single value belongs there"},
		{"a list for all", "- a", "", "line 1: settings belong there"},
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
		if !errors.HasCode(err, errors.InvalidArgument) || !strings.Contains(err.Error(), tc.says) || strings.Contains(err.Error(), "struct") ||
			strings.Count(err.Error(), "configuration") > 1 || strings.HasPrefix(tc.name, "unknown") && errors.Public(err).Hint == "" {
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
