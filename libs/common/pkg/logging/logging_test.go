package logging_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/logging"
)

func logger(t *testing.T, format logging.Format, level string) (*slog.Logger, *bytes.Buffer) {
	t.Helper()
	var buf bytes.Buffer
	l, err := logging.New(&buf, format, level)
	if err != nil {
		t.Fatal(err)
	}
	return l, &buf
}

func TestFormats(t *testing.T) {
	t.Parallel()
	l, buf := logger(t, logging.Auto, "info")
	l.Info("hello", "n", 1)
	var rec map[string]any
	if err := json.Unmarshal(buf.Bytes(), &rec); err != nil || rec["msg"] != "hello" || rec["n"] != 1.0 {
		t.Errorf("what is no terminal gets %q", buf)
	}
	l, buf = logger(t, logging.Text, "info")
	l.Info("hello", "n", 1)
	if !strings.Contains(buf.String(), "msg=hello n=1") {
		t.Errorf("text: %q", buf)
	}
	for _, bad := range [][2]string{{"json", "chatty"}, {"xml", "info"}} {
		if _, err := logging.New(buf, logging.Format(bad[0]), bad[1]); !errors.HasCode(err, errors.InvalidArgument) {
			t.Errorf("%v: %v", bad, err)
		}
	}
}

func TestLevels(t *testing.T) {
	t.Parallel()
	l, buf := logger(t, logging.JSON, "Warn")
	l.Info("quiet")
	l.Warn("loud")
	if s := buf.String(); strings.Contains(s, "quiet") || !strings.Contains(s, "loud") {
		t.Errorf("logged %q", s)
	}
}

func TestSecretsStayOut(t *testing.T) {
	t.Parallel()
	const clear = "hunter2"
	s := logging.Secret(clear)
	type config struct {
		Key logging.Secret `json:"key"`
		P   *logging.Secret
	}
	c := config{Key: s, P: &s}
	for _, f := range []logging.Format{logging.Text, logging.JSON} {
		l, buf := logger(t, f, "info")
		l.Info("m", "plain", s, "struct", c, "pointer", &c, "slice", []logging.Secret{s}, "map", map[string]logging.Secret{"a": s},
			slog.Group("g", "inner", s, "password", clear), "Authorization", "Bearer "+clear, "x-api-key", clear, "err", fmt.Errorf("with %s", s))
		l.With("refresh_token", clear).WithGroup("h").Info("m", "cookies", []string{clear})
		if out := buf.String(); strings.Contains(out, clear) || strings.Count(out, "[hidden]") < 8 {
			t.Errorf("%s: %s", f, out)
		}
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%10s"} {
		for _, v := range []any{s, c, []logging.Secret{s}} {
			out := fmt.Sprintf(verb, v)
			if strings.Contains(out, clear) || strings.Contains(strings.ToLower(out), "68756e746572") {
				t.Errorf("%s of %T shows %s", verb, v, out)
			}
		}
	}
	b, err := json.Marshal(c)
	if err != nil || strings.Contains(string(b), clear) {
		t.Errorf("JSON: %s, %v", b, err)
	}
	var back logging.Secret
	if err := json.Unmarshal([]byte(`"`+clear+`"`), &back); err != nil || back.Reveal() != clear {
		t.Errorf("read back %q, %v", back.Reveal(), err)
	}
	if logging.Secret("").String() != "" {
		t.Error("an empty secret looks set")
	}
}

func TestOrdinaryValuesStay(t *testing.T) {
	t.Parallel()
	l, buf := logger(t, logging.Auto, "info")
	l.Info("m", "vm", "abc", "tokens", 5, "token_ok", true)
	if s := buf.String(); !strings.Contains(s, `"vm":"abc"`) || !strings.Contains(s, `"tokens":5`) || !strings.Contains(s, `"token_ok":true`) {
		t.Errorf("logged %q", s)
	}
}

func TestTerminalGetsText(t *testing.T) {
	t.Parallel()
	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no terminals here: %v", err)
	}
	t.Cleanup(func() { _ = terminal.Close() })
	l, err := logging.New(terminal, logging.Auto, "info")
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := l.Handler().(*slog.TextHandler); !ok {
		t.Errorf("a terminal gets %T", l.Handler())
	}
}
