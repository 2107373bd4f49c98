package settings_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/standalone/internal/settings"
)

func TestLoad(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(file, []byte("listen:\n  address: 0.0.0.0:80\nvm:\n  memory: 256MiB\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := settings.Load(file, []string{"AETHERIUM_DATA_DIR=/data", "AETHERIUM_LISTEN_PREVIEW_DOMAIN=vm.example"})
	if err != nil {
		t.Fatal(err)
	}
	if s.Loopback() || s.VM.Memory != 256<<20 || s.DataDir != "/data" || s.Listen.PreviewDomain != "vm.example" || s.VM.Template != "base" {
		t.Errorf("%+v", s)
	}
	if d, err := settings.Load("", nil); err != nil || !d.Loopback() {
		t.Errorf("the default must listen on loopback only: %v, %v", d.Listen.Address, err)
	}
	if d, err := settings.Load("", []string{"AETHERIUM_TLS_ADDRESS=0.0.0.0:443"}); err != nil || d.Loopback() {
		t.Errorf("TLS lets others in as well: %v", err)
	}
	for _, bad := range []string{"AETHERIUM_LISTEN_ADDRESS=7700", "AETHERIUM_LISTEN_PREVIEW_DOMAIN=..", "AETHERIUM_OVERCOMMIT_MEMORY=NaN", "AETHERIUM_VM_MEMORY=lots", "AETHERIUM_POOL_SIZE=-1", "AETHERIUM_POOL_KINDS=1001",
		"AETHERIUM_LISTEN_TRUSTED_PROXIES=proxy", "AETHERIUM_LIMITS_KEY_RATE=0", "AETHERIUM_LIMITS_STREAMS=-1", "AETHERIUM_QUOTAS_VMS=-1",
		"AETHERIUM_DRIVERS=xen", "AETHERIUM_VM_DRIVER=xen", "AETHERIUM_DRIVERS=docker", "AETHERIUM_DOCKER_SOCKET=docker.sock", "AETHERIUM_MICROVM_KERNEL=kernel",
		"AETHERIUM_TLS_ADDRESS=7443", "AETHERIUM_TLS_CERT_FILE=cert.pem", "AETHERIUM_TLS_KEY_FILE=key.pem"} {
		if _, err := settings.Load("", []string{bad}); !errors.HasCode(err, errors.InvalidArgument) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func TestWhereTLSIsServed(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		environ   []string
		address   string
		elsewhere bool
	}{
		{nil, "127.0.0.1:7443", true},
		{[]string{"AETHERIUM_LISTEN_ADDRESS=0.0.0.0:80"}, "127.0.0.1:7443", true},
		{[]string{"AETHERIUM_LISTEN_ADDRESS=127.0.0.1:0"}, "127.0.0.1:0", false},
		{[]string{"AETHERIUM_TLS_ADDRESS=off"}, "", false},
		{[]string{"AETHERIUM_TLS_ADDRESS=0.0.0.0:443"}, "0.0.0.0:443", false},
	} {
		s, err := settings.Load("", tc.environ)
		if err != nil {
			t.Fatal(err)
		}
		if address, elsewhere := s.TLSAddress(); address != tc.address || elsewhere != tc.elsewhere {
			t.Errorf("%v: %s, %t", tc.environ, address, elsewhere)
		}
	}
}
