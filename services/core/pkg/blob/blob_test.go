package blob_test

import (
	"bytes"
	"encoding/pem"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/blob"
	"github.com/aetherium/aetherium/services/core/pkg/blob/blobtest"
)

func TestDir(t *testing.T) {
	t.Parallel()
	var dir string
	blobtest.Run(t, blobtest.Subject{
		Open: func(t *testing.T) blob.Store {
			dir = filepath.Join(t.TempDir(), "blobs")
			return openDir(t, dir)
		},
		Damage: func(t *testing.T, d blob.Digest, content []byte) {
			digits := strings.TrimPrefix(string(d), "sha256:")
			if err := os.WriteFile(filepath.Join(dir, digits[:2], digits), content, 0o600); err != nil {
				t.Fatal(err)
			}
		},
	})
}

func openDir(t *testing.T, dir string) *blob.Dir {
	t.Helper()
	d, err := blob.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestS3(t *testing.T) {
	t.Parallel()
	var objects *s3mem.Backend
	blobtest.Run(t, blobtest.Subject{
		Open: func(t *testing.T) blob.Store {
			objects = s3mem.New()
			if err := objects.CreateBucket("templates"); err != nil {
				t.Fatal(err)
			}
			server := httptest.NewTLSServer(gofakes3.New(objects).Server())
			t.Cleanup(server.Close)
			return openS3(t, blob.S3Config{
				Endpoint: server.URL, Bucket: "templates", Prefix: "/one/", AccessKey: "key", SecretKey: "secret",
				Roots: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}),
			})
		},
		Damage: func(t *testing.T, d blob.Digest, content []byte) {
			name := "one/sha256/" + strings.TrimPrefix(string(d), "sha256:")
			if _, err := objects.PutObject("templates", name, map[string]string{}, bytes.NewReader(content), int64(len(content)), nil); err != nil {
				t.Fatal(err)
			}
		},
	})
}

func openS3(t *testing.T, c blob.S3Config) *blob.S3 {
	t.Helper()
	s, err := blob.OpenS3(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestS3Refusals(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]blob.S3Config{
		"no address": {Bucket: "templates"},
		"a path":     {Endpoint: "https://host/path", Bucket: "templates"},
		"a password": {Endpoint: "https://a:b@host", Bucket: "templates"},
		"no bucket":  {Endpoint: "https://host"},
		"no roots":   {Endpoint: "https://host", Bucket: "templates", Roots: []byte("x")},
		"half a key": {Endpoint: "https://host", Bucket: "templates", AccessKey: "key"},
	} {
		if _, err := blob.OpenS3(c); !errors.HasCode(err, errors.InvalidArgument) {
			t.Errorf("%s: %v", name, err)
		}
	}
	server := httptest.NewServer(gofakes3.New(s3mem.New()).Server())
	defer server.Close()
	s := openS3(t, blob.S3Config{Endpoint: server.URL, Bucket: "absent"})
	_, err := s.Get(t.Context(), blobtest.Of([]byte("x")))
	for _, err := range []error{err, s.Put(t.Context(), blobtest.Of([]byte("x")), 1, strings.NewReader("x"))} {
		if !errors.HasCode(err, errors.Unavailable) || !strings.Contains(err.Error(), "bucket") {
			t.Errorf("without a bucket: %v", err)
		}
	}
}

// Hosts that share a directory remove what is old at the same time, and each goes on.
func TestTwoCollectAtOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	before := time.Now().Add(-25 * time.Hour)
	for i := range 500 {
		name := filepath.Join(dir, fmt.Sprintf(".part-%03d", i))
		if err := os.WriteFile(name, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(name, before, before); err != nil {
			t.Fatal(err)
		}
	}
	var both sync.WaitGroup
	for range 4 {
		d := openDir(t, dir)
		both.Go(func() {
			if err := d.List(t.Context(), func(blob.Info) error { return nil }); err != nil {
				t.Error(err)
			}
		})
	}
	both.Wait()
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("%d are left, %v", len(left), err)
	}
}

// What a writer left that died is removed once it is old, and is no blob before.
func TestHalfWritten(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := openDir(t, dir)
	old, fresh := filepath.Join(dir, ".part-old"), filepath.Join(dir, ".part-new")
	for _, name := range []string{old, fresh} {
		if err := os.WriteFile(name, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	before := time.Now().Add(-25 * time.Hour)
	if err := os.Chtimes(old, before, before); err != nil {
		t.Fatal(err)
	}
	if err := d.List(t.Context(), func(i blob.Info) error { t.Errorf("%+v", i); return nil }); err != nil {
		t.Fatal(err)
	}
	_, gone := os.Stat(old)
	if _, err := os.Stat(fresh); !os.IsNotExist(gone) || err != nil {
		t.Errorf("%v, %v", gone, err)
	}
	if _, err := blob.OpenDir("relative"); !errors.HasCode(err, errors.InvalidArgument) {
		t.Errorf("%v", err)
	}
}
