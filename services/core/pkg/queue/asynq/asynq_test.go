package asynq_test

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/queue"
	"github.com/aetherium/aetherium/services/core/pkg/queue/asynq"
	"github.com/aetherium/aetherium/services/core/pkg/queue/queuetest"
	"github.com/aetherium/aetherium/services/core/pkg/redis/redistest"
)

func TestQueue(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	queuetest.Run(t, func(t *testing.T, workers int) queue.Queue {
		return open(t, server, string(domain.NewID()), workers)
	})
}

func open(t *testing.T, server *redistest.Server, name string, workers int) *asynq.Queue {
	t.Helper()
	return owned(t, server, name, "", workers)
}

func owned(t *testing.T, server *redistest.Server, name, owner string, workers int) *asynq.Queue {
	t.Helper()
	q, err := asynq.New(asynq.Config{
		Client: server.Client(t), Name: name, Owner: owner, Workers: workers, Logger: slog.New(slog.NewTextHandler(logged{t}, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// logged lets a test show what was logged when it fails.
type logged struct{ t *testing.T }

func (l logged) Write(p []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}
