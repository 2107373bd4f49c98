package memory_test

import (
	"log/slog"
	"testing"

	"github.com/aetherium/aetherium/services/core/pkg/queue"
	"github.com/aetherium/aetherium/services/core/pkg/queue/memory"
	"github.com/aetherium/aetherium/services/core/pkg/queue/queuetest"
)

func TestQueue(t *testing.T) {
	t.Parallel()
	queuetest.Run(t, func(_ *testing.T, workers int) queue.Queue {
		return memory.New(workers, nil, slog.New(slog.DiscardHandler))
	})
}
