package worker

import (
	"context"
	"io"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/seal"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/journal"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// OutputStore has the output of ended executions where all workers get it.
// *depot.Output is one.
type OutputStore interface {
	Name() string
	Send(ctx context.Context, key []byte, place string, pack func(io.Writer) error) (domain.Packed, error)
	Fetch(ctx context.Context, p domain.Packed, key []byte, place string, unpack func(io.Reader) error) error
	Drop(ctx context.Context, p domain.Packed) error
	Collect(ctx context.Context, before time.Time, used func(context.Context) (map[string]bool, error)) (int, error)
	// Missing is how many bytes this host's disk lacks; 0: there is room.
	Missing() (int64, error)
}

const (
	// maxPackOutput and maxPackExecutions bound what one object has, but for the
	// output of one execution that is longer.
	maxPackOutput     = 16 << 20
	maxPackExecutions = 1000
	// maxStoreOutput bounds how long it may take to store one object: less than collectAge.
	maxStoreOutput = time.Hour
	// storeOutputAgain is the longest pause after output could not be stored.
	storeOutputAgain = 10 * time.Minute
	// storeLast bounds how long the end of this process waits for its last output to be stored.
	storeLast = 5 * time.Second

	// MaxFetchedJournal is the bound of one execution's output in the store of what was
	// fetched: whatever the bound is where it came to be, nothing of it is dropped here.
	MaxFetchedJournal = 1 << 40
	// maxFetchedOutput is what output of others may take of the disk before more is fetched.
	maxFetchedOutput = 512 << 20
	// keepFetchedOutput is how long it is kept: what is deleted is gone by then everywhere.
	keepFetchedOutput = time.Hour
	// maxOutputFetches bounds how many objects are fetched at once.
	maxOutputFetches = 4
)

// outputs is what this worker does about output in the storage.
type outputs struct {
	storing slots // one: held while output is stored
	slots   slots // of fetches
	swept   stored
}

// storeOutputs stores the output of what has ended, from time to time: what ends
// meanwhile goes together. Nobody waits for it.
func (w *Worker) storeOutputs() {
	if w.Stored == nil {
		return
	}
	pause := w.config.StoreOutputEvery
	for {
		select {
		case <-time.After(pause):
		case <-w.ctx.Done():
			return
		}
		err := w.storeOutput(w.ctx)
		if w.ctx.Err() != nil {
			return
		}
		if err == nil {
			pause = w.config.StoreOutputEvery
			continue
		}
		pause = max(min(2*pause, storeOutputAgain), w.config.StoreOutputEvery)
		w.Log.Warn("output is not in the storage; it is read on this worker alone", "error", err, "again_in", pause)
	}
}

// storeLastOutput is called when this process ends in order.
func (w *Worker) storeLastOutput(ctx context.Context) {
	if w.Stored == nil || w.ctx.Err() != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, storeLast)
	defer cancel()
	err := w.rows.flush(ctx)
	if err == nil {
		err = w.storeOutput(ctx)
	}
	if err != nil {
		w.Log.Warn("the last output is not in the storage; it is read on this worker alone", "error", err)
	}
}

// storeOutput stores the output of executions that have ended and whose rows say
// so, that is not in the storage. Where that fails it is as good as it was: in its
// journal.
func (w *Worker) storeOutput(ctx context.Context) (err error) {
	if err := w.outputs.storing.take(ctx); err != nil {
		return err
	}
	defer w.outputs.storing.put()
	batches := map[domain.ID]*batch{} // by project
	flush := func(b *batch) bool {
		serr := w.storeBatch(ctx, b.rows)
		*b = batch{}
		err = errors.Join(err, serr)
		return !hopeless(serr)
	}
	for fresh := w.Journals.Fresh(); len(fresh) > 0; {
		n := min(sweepBatch, len(fresh))
		found, ferr := w.unstoredOutput(ctx, fresh[:n])
		if ferr != nil {
			return errors.Join(err, ferr)
		}
		for _, f := range found {
			b := batches[f.row.ProjectID]
			if b == nil {
				b = &batch{}
				batches[f.row.ProjectID] = b
			}
			if len(b.rows) > 0 && (b.bytes+f.bytes > maxPackOutput || len(b.rows) == maxPackExecutions) && !flush(b) {
				return err
			}
			b.rows, b.bytes = append(b.rows, f.row), b.bytes+f.bytes
		}
		fresh = fresh[n:]
	}
	for _, b := range batches {
		if len(b.rows) > 0 && !flush(b) {
			return err
		}
	}
	return err
}

// batch is output of one project that goes into one object.
type batch struct {
	rows  []*domain.Execution
	bytes int64
}

// hopeless reports whether what failed would fail with other output, too.
func hopeless(err error) bool {
	return errors.HasCode(err, errors.Unavailable) || errors.HasCode(err, errors.NoSpace) ||
		errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

type unstoredRow struct {
	row   *domain.Execution
	bytes int64
}

// unstoredOutput finds those of some journals whose rows have ended and do not say
// that their output is in the storage.
func (w *Worker) unstoredOutput(ctx context.Context, journals []journal.Info) (found []unstoredRow, err error) {
	var elsewhere []journal.Key
	err = w.Store.View(ctx, func(tx storage.Tx) error {
		found, elsewhere = nil, nil
		for _, i := range journals {
			x, err := tx.Executions().InVM(ctx, i.Key.VM, i.Key.Execution)
			switch {
			case errors.HasCode(err, errors.NotFound):
				// It may not be written yet; or it was deleted, and this process died before
				// the journal was.
				if w.Now().Sub(i.Modified) > collectAge {
					elsewhere = append(elsewhere, i.Key)
				}
			case err != nil:
				return err
			case journalKey(x) != i.Key || !x.State.Ended():
			case x.PackID != "":
				elsewhere = append(elsewhere, i.Key)
			default:
				found = append(found, unstoredRow{x, i.Bytes})
			}
		}
		return nil
	})
	for _, k := range elsewhere {
		w.Journals.Carried(k)
	}
	return found, err
}

// storeBatch stores output of executions of one project as one object, or what of
// it can be read one by one.
func (w *Worker) storeBatch(ctx context.Context, rows []*domain.Execution) error {
	err := w.storePack(ctx, rows)
	if err == nil || hopeless(err) || len(rows) == 1 {
		return err
	}
	err = nil
	for _, x := range rows {
		xerr := w.storePack(ctx, []*domain.Execution{x})
		err = errors.Join(err, xerr)
		if hopeless(xerr) {
			return err
		}
	}
	return err
}

// storePack makes an object, and then the rows say so, all at once: a row never says
// what is not, and what no row says is removed a day later.
func (w *Worker) storePack(ctx context.Context, rows []*domain.Execution) (err error) {
	ctx, cancel := context.WithTimeout(ctx, maxStoreOutput)
	defer cancel()
	begun := w.Now()
	pack := &domain.OutputPack{ID: domain.NewID(), ProjectID: rows[0].ProjectID, CreatedAt: w.time()}
	keys := make([]journal.Key, len(rows))
	for i, x := range rows {
		keys[i] = journalKey(x)
	}
	defer func() {
		if errors.HasCode(err, errors.NotFound) {
			err = nil // a journal was deleted meanwhile; the others go with the next
		}
		w.metrics.stored(pack, err)
	}()
	key, place := seal.NewStreamKey(), storage.SealedOutputKey(pack.ProjectID, pack.ID)
	if pack.KeySealed, err = w.Sealer.Seal(ctx, place, key); err != nil {
		return err
	}
	pack.Packed, err = w.Stored.Send(ctx, key, place, func(to io.Writer) error { return w.Journals.Pack(ctx, to, keys...) })
	if err != nil {
		return err
	}
	var used int
	err = w.Store.Update(ctx, func(tx storage.Tx) (err error) {
		used, err = tx.OutputPacks().Insert(ctx, pack, rows...)
		return err
	})
	if err != nil {
		return err // it may have been done: the object is left to sweepOutput
	}
	for _, k := range keys {
		w.Journals.Carried(k)
	}
	if used == 0 { // all of them were deleted meanwhile
		w.dropOutput(ctx, pack)
		return nil
	}
	w.Log.Debug("output was stored", "pack", pack.ID, "executions", used, "bytes", pack.Packed.Bytes, "took", w.Now().Sub(begun))
	return nil
}

// dropOutput removes an object whose row is gone; where it cannot, sweepOutput does.
func (w *Worker) dropOutput(ctx context.Context, p *domain.OutputPack) {
	if w.Stored == nil {
		return
	}
	if err := w.Stored.Drop(ctx, p.Packed); err != nil {
		w.Log.Warn("output is left in the storage", "pack", p.ID, "error", err)
	}
}

// fetchedOutput reads output that is not in a journal here, but in the storage. The
// object is fetched once, with the output of others that is in it. missing is the
// error where it is not there either. Returns what OutputStore.Fetch does.
func (w *Worker) fetchedOutput(ctx context.Context, x *domain.Execution, from int64, missing error) (vmm.OutputReader, error) {
	var row *domain.Execution
	var pack *domain.OutputPack
	err := w.Store.View(ctx, func(tx storage.Tx) (err error) {
		if row, err = tx.Executions().Get(ctx, x.ProjectID, x.ID); err != nil {
			return err
		}
		if row.VMID != x.VMID || row.PackID == "" {
			return missing
		}
		pack, err = tx.OutputPacks().Get(ctx, row.ProjectID, row.PackID)
		return err
	})
	if errors.HasCode(err, errors.NotFound) {
		return nil, missing
	}
	if err != nil {
		return nil, err
	}
	defer w.fetches.lock(pack.ID)()
	for tries := 0; ; tries++ {
		r, err := w.readFetched(row, from)
		if !errors.HasCode(err, errors.NotFound) || tries == 2 {
			return r, err // who had the lock has fetched it
		}
		// Again: room may have been made meanwhile, of what was fetched just now.
		if err := w.fetchOutput(ctx, pack); err != nil {
			return nil, err
		}
	}
}

func (w *Worker) readFetched(x *domain.Execution, from int64) (vmm.OutputReader, error) {
	r, err := w.Fetched.Read(journalKey(x), from, false)
	if err != nil {
		return nil, err // and not a nil *journal.Reader
	}
	return r, nil
}

func (w *Worker) fetchOutput(ctx context.Context, pack *domain.OutputPack) error {
	if err := w.outputs.slots.take(ctx); err != nil {
		return err
	}
	defer w.outputs.slots.put()
	place := storage.SealedOutputKey(pack.ProjectID, pack.ID)
	key, err := w.Sealer.Open(ctx, place, pack.KeySealed)
	if err != nil {
		return err
	}
	if _, err := w.Fetched.ShrinkTo(maxFetchedOutput); err != nil {
		return err
	}
	begun := w.Now()
	err = w.Stored.Fetch(ctx, pack.Packed, key, place, func(from io.Reader) error {
		_, err := w.Fetched.Unpack(from)
		return err
	})
	w.metrics.fetched(pack, err)
	if errors.HasCode(err, errors.NotFound) {
		return errors.Wrap(err, errors.NotFound, "this output is not in the storage, though it was stored")
	}
	if err == nil {
		w.Log.Info("output was fetched", "pack", pack.ID, "bytes", pack.Packed.Bytes, "took", w.Now().Sub(begun))
	}
	return err
}

// sweepFetched removes what was fetched long ago.
func (w *Worker) sweepFetched(context.Context) error {
	if w.Stored == nil {
		return nil
	}
	_, err := w.Fetched.RemoveOlderThan(w.Now().Add(-keepFetchedOutput))
	return err
}

// relieve removes journals whose output is in the storage while the disk is short.
func (w *Worker) relieve(context.Context) error {
	if w.Stored == nil {
		return nil
	}
	missing, err := w.Stored.Missing()
	if err != nil || missing == 0 {
		return err
	}
	n, err := w.Journals.Relieve(missing)
	if n > 0 {
		w.Log.Info("output that is in the storage was removed from the disk, which is short", "executions", n)
	}
	return err
}

// sweepOutput removes packs that nobody uses, and objects that have been in the
// storage for long and are none.
func (w *Worker) sweepOutput(ctx context.Context) error {
	if w.Stored == nil || !w.outputs.swept.due(w.Now()) {
		return nil
	}
	removed, err := w.Stored.Collect(ctx, w.Now().Add(-collectAge), w.packedOutput)
	if removed > 0 {
		w.Log.Info("output that nobody has any more was removed from the storage", "objects", removed)
	}
	if err != nil {
		return err
	}
	// Two that delete the last executions of a pack at once each see the other's.
	var ids []domain.ID
	err = each(ctx, w.Store, func(tx storage.Tx, p storage.Page) (storage.List[*domain.OutputPack], error) {
		return tx.OutputPacks().List(ctx, p)
	}, func(p *domain.OutputPack) { ids = append(ids, p.ID) })
	for ; err == nil && len(ids) > 0; ids = ids[min(sweepBatch, len(ids)):] {
		some := ids[:min(sweepBatch, len(ids))]
		var unused []*domain.OutputPack
		err = w.Store.View(ctx, func(tx storage.Tx) (err error) {
			unused, err = tx.OutputPacks().Unused(ctx, some...)
			return err
		})
		if err != nil || len(unused) == 0 {
			continue
		}
		var gone []*domain.OutputPack
		err = w.Store.Update(ctx, func(tx storage.Tx) (err error) {
			gone, err = tx.OutputPacks().DeleteUnused(ctx, some...)
			return err
		})
		for _, p := range gone {
			w.dropOutput(ctx, p)
		}
	}
	return err
}

// packedOutput tells the digests of all output that is in the storage.
func (w *Worker) packedOutput(ctx context.Context) (map[string]bool, error) {
	used := map[string]bool{}
	err := each(ctx, w.Store, func(tx storage.Tx, p storage.Page) (storage.List[*domain.OutputPack], error) {
		return tx.OutputPacks().List(ctx, p)
	}, func(p *domain.OutputPack) { used[p.Packed.Digest] = true })
	return used, err
}
