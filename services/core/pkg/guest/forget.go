package guest

import (
	"sync"
	"time"

	guestv1 "github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/aetherium/guest/v1"
	"github.com/aetherium/aetherium/services/core/pkg/guest/internal/backoff"
)

const (
	// maxForget bounds one request.
	maxForget = 256
	// forgetAfter is how long ends are gathered: short commands come in rows, and
	// the next one is not to share the processor with the forgetting of the last.
	forgetAfter = 50 * time.Millisecond
)

// forgetter tells the agent which ends are stored. It works while there is
// something to tell, many at once, beside the executions.
type forgetter struct {
	s *Session

	mu      sync.Mutex
	pending []string
	working bool
}

func (f *forgetter) init(s *Session) { f.s = s }

// add queues an execution by the agent's name for it.
func (f *forgetter) add(agentID string) {
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	if f.s.closed || f.s.isGone() {
		return // there is nobody to tell, or the next session does
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pending = append(f.pending, agentID)
	if !f.working {
		f.working = true
		f.s.wg.Go(f.run)
	}
}

func (f *forgetter) take() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := min(len(f.pending), maxForget)
	batch := f.pending[:n:n]
	f.pending = f.pending[n:]
	if n == 0 {
		f.working, f.pending = false, nil
	}
	return batch
}

func (f *forgetter) run() {
	wait := backoff.New(50*time.Millisecond, 5*time.Second)
	gather := time.NewTimer(forgetAfter)
	defer gather.Stop()
	select {
	case <-gather.C:
	case <-f.s.gone:
	case <-f.s.ctx.Done():
	}
	for batch := f.take(); len(batch) > 0; batch = f.take() {
		for f.s.ctx.Err() == nil && !f.s.isGone() {
			c := f.s.cfg.Client
			_, err := forget.ask(f.s.ctx, c, c.o.CallTimeout, &guestv1.ForgetRequest{ExecutionIds: batch})
			if err == nil {
				f.s.forgotten(batch)
				break
			}
			_ = wait.Wait(f.s.ctx, f.s.gone)
		}
		wait.Reset()
	}
}
