package worker

import "context"

// TrimTools removes tools over the bound, however new they are.
func (w *Worker) TrimTools(ctx context.Context) error { return w.trimTools(ctx, 0) }

// Crash lets go of everything in this process as its death would: what is on
// the node and in the store stays as it is.
func (w *Worker) Crash(ctx context.Context) {
	w.steps.cancelAll()
	_ = w.Queue.Stop(ctx)
	w.cancel()
	<-w.pool.filled
	w.pool.gone.Wait()
	w.vms.closeAll()
	w.rows.stop()
	w.wg.Wait()
}
