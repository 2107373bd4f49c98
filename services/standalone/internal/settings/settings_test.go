package settings_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/firecracker"
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
		"AETHERIUM_TLS_ADDRESS=7443", "AETHERIUM_TLS_CERT_FILE=cert.pem", "AETHERIUM_TLS_KEY_FILE=key.pem",
		"AETHERIUM_NAMES_ADDRESS=53", "AETHERIUM_NAMES_ANSWERS=here"} {
		if _, err := settings.Load("", []string{bad}); !errors.HasCode(err, errors.InvalidArgument) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func TestWhatNamesAreAnsweredWith(t *testing.T) {
	t.Parallel()
	for want, environ := range map[string][]string{
		"127.0.0.1": nil, "10.0.0.7": {"AETHERIUM_TLS_ADDRESS=10.0.0.7:443"}, "::1": {"AETHERIUM_TLS_ADDRESS=[::1]:443"},
		"10.0.0.8": {"AETHERIUM_TLS_ADDRESS=0.0.0.0:443", "AETHERIUM_NAMES_ANSWERS=10.0.0.8"},
	} {
		s, err := settings.Load("", environ)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := s.NameAnswers(); err != nil || len(got) != 1 || got[0].String() != want {
			t.Errorf("%v: %v, %v", environ, got, err)
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

func TestFirecracker(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "c.yaml")
	text := `
firecracker:
  backend: uffd
  full_snapshots: true
  disk: {bytes_per_second: 100MiB, ops_per_second: 2000}
  network: {bytes_per_second: 64KiB}
`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := settings.Load(file, []string{"AETHERIUM_FIRECRACKER_NETWORK_OPS_PER_SECOND=10"})
	if err != nil {
		t.Fatal(err)
	}
	want := firecracker.Config{
		Backend: firecracker.UFFD, FullSnapshots: true,
		Disk:    firecracker.Limit{BytesPerSecond: 100 << 20, OpsPerSecond: 2000},
		Network: firecracker.Limit{BytesPerSecond: 64 << 10, OpsPerSecond: 10},
	}
	if got := s.Firecracker.Config(); got != want {
		t.Errorf("%+v", got)
	}
	if got := settings.Defaults().Firecracker.Config(); got != (firecracker.Config{Backend: firecracker.File}) {
		t.Errorf("by default: %+v", got)
	}
	for bad, field := range map[string]string{
		"BACKEND=":                      "firecracker.backend",
		"BACKEND=memory":                "firecracker.backend",
		"DISK_BYTES_PER_SECOND=-1":      "",
		"DISK_BYTES_PER_SECOND=100":     "firecracker.disk.bytes_per_second",
		"DISK_OPS_PER_SECOND=-1":        "firecracker.disk.ops_per_second",
		"DISK_OPS_PER_SECOND=9":         "firecracker.disk.ops_per_second",
		"NETWORK_BYTES_PER_SECOND=1KiB": "firecracker.network.bytes_per_second",
		"NETWORK_OPS_PER_SECOND=1":      "firecracker.network.ops_per_second",
		"DISK_BYTES_PER_SECOND=much":    "",
		"DISK_OPS_PER_SECOND=1.5":       "",
		"FULL_SNAPSHOTS=sometimes":      "",
	} {
		_, err := settings.Load("", []string{"AETHERIUM_FIRECRACKER_" + bad})
		var e *errors.Error
		if !errors.HasCode(err, errors.InvalidArgument) || !errors.As(err, &e) || field != "" && e.Field != field {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// The database is a file in the data directory, or whatever else it is said to
// be; what a URL has of a password is not shown.
func TestDatabase(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	load := func(database string) (settings.Settings, error) {
		return settings.Load("", []string{"AETHERIUM_DATA_DIR=" + dir, "AETHERIUM_DATABASE=" + database})
	}
	for database, want := range map[string]string{"": filepath.Join(dir, "aetherium.db"), "/var/lib/a.db": "/var/lib/a.db"} {
		if s, err := load(database); err != nil || s.Postgres() || s.DatabaseFile() != want {
			t.Errorf("%q: %s, %v", database, s.DatabaseFile(), err)
		}
	}
	const url = "postgres://u:S3cret@db.example:5432/aetherium"
	s, err := load(url)
	if err != nil || !s.Postgres() || s.Database.Reveal() != url {
		t.Errorf("%v", err)
	}
	if text := fmt.Sprintf("%v %+v %#v", s, s, s); strings.Contains(text, "S3cret") {
		t.Errorf("the password is shown: %s", text)
	}
	for _, bad := range []string{"postgres://u:S3cret@db.example:port/a", "mysql://u:S3cret@h/a", "postgresql://u:S3cret@h/a?sslmode=x"} {
		if _, err := load(bad); !errors.HasCode(err, errors.InvalidArgument) || strings.Contains(err.Error(), "S3cret") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// The queue is in memory, or in a Redis whose address is checked and not shown.
func TestQueue(t *testing.T) {
	t.Parallel()
	load := func(queue string) (settings.Settings, error) {
		return settings.Load("", []string{"AETHERIUM_DATA_DIR=/var/lib/a", "AETHERIUM_QUEUE=" + queue})
	}
	for _, good := range []string{"", "redis://u:S3cret@redis.example:6379/2", "rediss://redis.example", "unix:///run/redis/s?db=1"} {
		s, err := load(good)
		if err != nil || s.Queue.Reveal() != good {
			t.Errorf("%q: %v", good, err)
		}
		if text := fmt.Sprintf("%v %+v %#v", s, s, s); strings.Contains(text, "S3cret") {
			t.Errorf("the password is shown: %s", text)
		}
	}
	for _, bad := range []string{"/run/redis", "http://u:S3cret@h", "redis://u:S3cret@h:port", "redis://u:S3cret@h/zero"} {
		_, err := load(bad)
		var e *errors.Error
		if !errors.HasCode(err, errors.InvalidArgument) || !errors.As(err, &e) || e.Field != "queue" || e.Hint == "" || strings.Contains(err.Error(), "S3cret") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}
