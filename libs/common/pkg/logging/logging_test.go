package logging_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/logging"
)

func TestSecretsHide(t *testing.T) {
	t.Parallel()
	secret := logging.Secret("hunter2")
	for _, format := range []logging.Format{logging.Auto, logging.Text, logging.JSON} {
		var out bytes.Buffer
		log, err := logging.New(&out, format, "debug")
		if err != nil {
			t.Fatal(err)
		}
		log.Debug("x", "a", secret, "b", struct{ S logging.Secret }{secret}, "c", []logging.Secret{secret})
		raw, err := json.Marshal(map[string]any{"s": secret})
		if err != nil {
			t.Fatal(err)
		}
		out.Write(raw)
		fmt.Fprintf(&out, "%v %s %#v %q", secret, secret, secret, secret)
		if strings.Contains(out.String(), "hunter2") {
			t.Errorf("%s shows the secret: %s", format, out.String())
		}
	}
	if secret.Reveal() != "hunter2" {
		t.Error("the secret is lost")
	}
}

func TestLevels(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log, err := logging.New(&out, logging.JSON, "warn")
	if err != nil {
		t.Fatal(err)
	}
	log.Info("quiet")
	log.Warn("loud")
	if got := out.String(); strings.Contains(got, "quiet") || !strings.Contains(got, "loud") {
		t.Error(got)
	}
	for _, bad := range [][2]string{{"json", "chatty"}, {"xml", "info"}} {
		if _, err := logging.New(&out, logging.Format(bad[0]), bad[1]); !errors.HasCode(err, errors.InvalidArgument) {
			t.Errorf("%v: %v", bad, err)
		}
	}
}
