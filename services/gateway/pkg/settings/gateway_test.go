package settings_test

import (
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/gateway/pkg/settings"
)

// A gateway shares its database and its queue, and has nothing of a host's.
func TestGateway(t *testing.T) {
	t.Parallel()
	shared := []string{"AETHERIUM_DATABASE=postgres://db/a", "AETHERIUM_QUEUE=redis://redis"}
	s, err := settings.LoadGateway("", append([]string{"AETHERIUM_LISTEN_ADDRESS=0.0.0.0:80", "AETHERIUM_TOOLS_DEFAULT=git,node@22", "AETHERIUM_VM_MEMORY=256MiB"}, shared...))
	if err != nil || s.Loopback() || len(s.Tools.Default) != 2 || s.VM.Memory != 256<<20 {
		t.Errorf("%+v, %v", s, err)
	}
	for bad, field := range map[string]string{
		"AETHERIUM_DATABASE=/var/lib/a.db":    "database",
		"AETHERIUM_QUEUE=":                    "queue",
		"AETHERIUM_WORKERS_CA_FILE=/ca.pem":   "workers.ca_file",
		"AETHERIUM_WORKERS_AWAY_AFTER=1s":     "workers.away_after",
		"AETHERIUM_WORKERS_AWAY_AFTER=2h":     "workers.away_after",
		"AETHERIUM_TOOLS_DEFAULT=../x":        "",
		"AETHERIUM_LISTEN_ADDRESS=80":         "listen.address",
		"AETHERIUM_OVERCOMMIT_MEMORY=-1":      "overcommit.memory",
		"AETHERIUM_AUTH_TOKENS_ALGORITHM=rot": "auth.tokens.algorithm",
	} {
		_, err := settings.LoadGateway("", append(shared, bad))
		var e *errors.Error
		if !errors.As(err, &e) || e.Code != errors.InvalidArgument || field != "" && e.Field != field {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// The example can be used as it is.
func TestExample(t *testing.T) {
	t.Parallel()
	if _, err := settings.LoadGateway("../../config/gateway.yaml", nil); err != nil {
		t.Error(err)
	}
}
