package logging_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/logging"
)

// output keeps what is written by one goroutine and read by another.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

// take gives the lines that came since the last call.
func (o *output) take() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	all := o.buf.String()
	o.buf.Reset()
	if all == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(all, "\n"), "\n")
}

func plain(b *output) slog.Handler {
	return slog.NewTextHandler(b, &slog.HandlerOptions{ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey) {
			return slog.Attr{}
		}
		return a
	}})
}

func TestBatch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out output
		batch := logging.NewBatch(plain(&out), time.Second)
		log := slog.New(batch)
		log.Debug("no")
		log.Info("a", "n", 1)
		log.With("vm", "x").WithGroup("g").Info("b", "n", 2)
		time.Sleep(999 * time.Millisecond)
		if got := out.take(); got != nil {
			t.Errorf("it did not wait: %q", got)
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		if got, want := fmt.Sprint(out.take()), "[msg=a n=1 msg=b vm=x g.n=2]"; got != want {
			t.Errorf("%s, not %s", got, want)
		}
		log.Info("before")
		log.Error("at once")
		if got, want := fmt.Sprint(out.take()), `[msg=before msg="at once"]`; got != want {
			t.Errorf("%s, not %s", got, want)
		}
		log.Info("last")
		batch.Flush()
		batch.Flush()
		if got, want := fmt.Sprint(out.take()), "[msg=last]"; got != want {
			t.Errorf("%s, not %s", got, want)
		}
	})
}

// All come, each caller's in their order, and no more than a bounded number waits.
func TestBatchKeepsAll(t *testing.T) {
	t.Parallel()
	const callers, each = 8, 1000
	var out output
	batch := logging.NewBatch(plain(&out), time.Hour)
	log := slog.New(batch)
	var all sync.WaitGroup
	for c := range callers {
		all.Go(func() {
			for n := range each {
				log.Info("m", "c", c, "n", n)
			}
		})
	}
	all.Wait()
	got := out.take()
	if n := len(got); n < callers*each-1024 {
		t.Errorf("%d were written: more than a thousand wait", n)
	}
	batch.Flush()
	got = append(got, out.take()...)
	next := make([]int, callers)
	for _, line := range got {
		var c, n int
		if _, err := fmt.Sscanf(line, "msg=m c=%d n=%d", &c, &n); err != nil {
			t.Fatal(line, err)
		}
		if n != next[c] {
			t.Fatalf("of %d came %d for %d", c, n, next[c])
		}
		next[c]++
	}
	if len(got) != callers*each {
		t.Errorf("%d of %d came", len(got), callers*each)
	}
}
