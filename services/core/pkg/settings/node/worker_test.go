package node_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/settings/node"
)

// A worker shares its database and its queue, and says where it is reached.
func TestWorker(t *testing.T) {
	t.Parallel()
	shared := []string{"AETHERIUM_DATA_DIR=/var/lib/w", "AETHERIUM_DATABASE=postgres://u:S3cret@db/a", "AETHERIUM_QUEUE=redis://u:S3cret@redis"}
	s, err := node.Load("", append([]string{"AETHERIUM_WORKER_TOKEN=S3cret", "AETHERIUM_WORKER_NAME=w", "AETHERIUM_POOL_SIZE=1"}, shared...))
	if err != nil || s.Worker.Name != "w" || s.Worker.Token.Reveal() != "S3cret" || s.Pool.Size != 1 || s.KernelDir() != "/var/lib/w/kernel" {
		t.Errorf("%+v, %v", s, err)
	}
	for bad, field := range map[string]string{
		"AETHERIUM_DATABASE=":                             "database",
		"AETHERIUM_QUEUE=":                                "queue",
		"AETHERIUM_WORKER_ADDRESS=7310":                   "worker.address",
		"AETHERIUM_WORKER_ADDRESS=":                       "worker.address",
		"AETHERIUM_WORKER_ADDRESS=0.0.0.0:1":              "worker.advertise",
		"AETHERIUM_WORKER_ADDRESS=:1":                     "worker.advertise",
		"AETHERIUM_WORKER_ADVERTISE=here":                 "worker.advertise",
		"AETHERIUM_WORKER_METRICS=7311":                   "worker.metrics",
		"AETHERIUM_WORKER_GATEWAY=example.com":            "worker.gateway",
		"AETHERIUM_VM_DRIVER=xen":                         "vm.driver",
		"AETHERIUM_VM_TEMPLATE=../x":                      "vm.template",
		"AETHERIUM_VM_NETWORK=foo":                        "vm.network",
		"AETHERIUM_VM_MILLI_CPU=10":                       "vm.milli_cpu",
		"AETHERIUM_VM_MEMORY=512":                         "vm.memory",
		"AETHERIUM_VM_DISK=1KiB":                          "vm.disk",
		"AETHERIUM_VM_PIDS=1":                             "vm.pids",
		"AETHERIUM_VM_TIMEOUT=9000h":                      "vm.timeout",
		"AETHERIUM_VM_MAX_TIMEOUT=9000h":                  "vm.max_timeout",
		"AETHERIUM_DRIVERS=xen":                           "drivers",
		"AETHERIUM_STORAGE_OUTPUT_EVERY=1ms":              "storage.output_every",
		"AETHERIUM_STORAGE_OUTPUT_EVERY=48h":              "storage.output_every",
		"AETHERIUM_USAGE_EVERY=1s":                        "usage_every",
		"AETHERIUM_USAGE_EVERY=2h":                        "usage_every",
		"AETHERIUM_TRACING_SAMPLE=2":                      "tracing.sample",
		"AETHERIUM_TRACING_URL=collector:4318":            "tracing.url",
		"AETHERIUM_TRACING_URL=http://u:S3cret@collector": "tracing.url",
	} {
		_, err := node.Load("", append(shared, bad))
		var e *errors.Error
		if !errors.As(err, &e) || e.Code != errors.InvalidArgument || e.Field != field || e.Hint == "" || strings.Contains(err.Error(), "S3cret") {
			t.Errorf("%s: %v", bad, err)
		}
	}
	for _, good := range [][]string{
		{"AETHERIUM_VM_TIMEOUT=2h", "AETHERIUM_VM_MAX_TIMEOUT=1h"}, {"AETHERIUM_VM_TEMPLATE="}, {"AETHERIUM_VM_NETWORK="}, {"AETHERIUM_VM_MAX_TIMEOUT=1h"}, {"AETHERIUM_VM_TIMEOUT=2h"},
		{"AETHERIUM_VM_MEMORY=16777216", "AETHERIUM_VM_DISK=16MiB", "AETHERIUM_VM_PIDS=16", "AETHERIUM_VM_MILLI_CPU=50", "AETHERIUM_VM_NETWORK=none", "AETHERIUM_VM_TEMPLATE=base:v1"},
	} {
		if _, err := node.Load("", append(shared, good...)); err != nil {
			t.Errorf("%v: %v", good, err)
		}
	}
	for _, bad := range []struct{ url, more, field string }{
		{"file://relative", "", "storage.url"},
		{"ftp://host/x", "", "storage.url"},
		{"s3://key:S3cret@bucket", "", "storage.url"},
		{"", "AETHERIUM_STORAGE_ENDPOINT=https://s3.example", "storage.url"},
		{"file:///srv/x", "AETHERIUM_STORAGE_SECRET_KEY=S3cret", "storage.url"},
		{"s3://bucket", "", "storage.endpoint"},
		{"s3://b", "AETHERIUM_STORAGE_ENDPOINT=https://s3.example", "storage.url"},
		{"s3://bucket", "AETHERIUM_STORAGE_ENDPOINT=https://u:S3cret@s3.example", "storage.endpoint"},
	} {
		_, err := node.Load("", append(shared, "AETHERIUM_STORAGE_URL="+bad.url, bad.more))
		var e *errors.Error
		if !errors.As(err, &e) || e.Code != errors.InvalidArgument || e.Field != bad.field || e.Hint == "" || strings.Contains(err.Error(), "S3cret") {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	good := append(shared, "AETHERIUM_STORAGE_URL=s3://bucket/some/prefix", "AETHERIUM_STORAGE_ENDPOINT=https://s3.example",
		"AETHERIUM_STORAGE_ACCESS_KEY=key", "AETHERIUM_STORAGE_SECRET_KEY=S3cret")
	s, err = node.Load("", good)
	if err != nil || strings.Contains(fmt.Sprintf("%+v", s), "S3cret") {
		t.Errorf("%v, or it shows its key", err)
	}
	if b, err := s.Storage.Open("own"); err != nil || b.Name() != "s3://s3.example/bucket/some/prefix/own" {
		t.Errorf("%v, %v", b, err)
	}
	if _, err := node.Load("", append(shared, "AETHERIUM_WORKER_ADDRESS=0.0.0.0:7310", "AETHERIUM_WORKER_ADVERTISE=worker.example:7310")); err != nil {
		t.Error(err)
	}
}

// The example can be used as it is.
func TestExample(t *testing.T) {
	t.Parallel()
	if _, err := node.Load("../../../config/worker.yaml", nil); err != nil {
		t.Error(err)
	}
}
