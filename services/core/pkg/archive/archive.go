// Package archive keeps what has ended when its rows go: as the API told it, many
// records together, compressed, and encrypted. An archive is no place to look
// something up in; it is read as a whole.
package archive

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"io"
	"slices"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/seal"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/apiform"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

// Records are what is archived, of any projects. All has ended. Executions have
// their commands in clear.
type Records struct {
	VMs        []*domain.VM
	Executions []*domain.Execution
	Tasks      []*domain.Task
}

// Archiver makes a worker's archives.
type Archiver struct {
	Sealer seal.Sealer
	Worker domain.ID
}

// Ready reports that Add can encrypt, which may take a request to a service that
// holds keys: that is done here, where no transaction waits for it. Returns
// Unavailable.
func (a Archiver) Ready(ctx context.Context) error {
	id := domain.NewID()
	_, err := a.Sealer.Seal(ctx, storage.SealedArchiveKey(id, id), seal.NewStreamKey())
	return err
}

// Add archives records in the transaction that their rows go in. What there is of a
// project is added to its last archive, unless that is long enough.
func (a Archiver) Add(ctx context.Context, tx storage.Tx, now time.Time, r Records) error {
	of := map[domain.ID]*part{}
	at := func(project domain.ID) *part {
		p := of[project]
		if p == nil {
			p = &part{archive: domain.Archive{ID: domain.NewID(), ProjectID: project, WorkerID: a.Worker, CreatedAt: now}}
			of[project] = p
		}
		return p
	}
	for _, vm := range r.VMs {
		form := apiform.VM(vm)
		p := at(vm.ProjectID)
		p.archive.VMs++
		p.add(api.ArchivedRecord{Kind: api.ArchivedVM, VM: &form}, cmp.Or(vm.EndedAt, &vm.UpdatedAt))
	}
	for _, x := range r.Executions {
		form := apiform.Execution(x)
		form.Stored = false // its output goes
		p := at(x.ProjectID)
		p.archive.Executions++
		p.add(api.ArchivedRecord{Kind: api.ArchivedExecution, Execution: &form}, cmp.Or(x.EndedAt, &x.CreatedAt))
	}
	for _, t := range r.Tasks {
		form := apiform.Task(t)
		p := at(t.ProjectID)
		p.archive.Tasks++
		p.add(api.ArchivedRecord{Kind: api.ArchivedTask, Task: &form}, cmp.Or(t.EndedAt, &t.UpdatedAt))
	}
	for _, project := range sorted(of) {
		if err := a.put(ctx, tx, of[project]); err != nil {
			return err
		}
	}
	return nil
}

// sorted are a map's keys in an order that all transactions have.
func sorted(of map[domain.ID]*part) []domain.ID {
	var keys []domain.ID
	for k := range of {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// part is what is archived of one project.
type part struct {
	archive domain.Archive
	lines   bytes.Buffer
	err     error
}

func (p *part) add(r api.ArchivedRecord, ended *time.Time) {
	if err := json.NewEncoder(&p.lines).Encode(r); err != nil && p.err == nil {
		p.err = errors.Wrap(err, errors.Internal, "a record cannot be archived")
	}
	if p.archive.FirstAt.IsZero() || ended.Before(p.archive.FirstAt) {
		p.archive.FirstAt = *ended
	}
	if ended.After(p.archive.LastAt) {
		p.archive.LastAt = *ended
	}
}

func (a Archiver) put(ctx context.Context, tx storage.Tx, p *part) error {
	if p.err != nil {
		return p.err
	}
	last, before, err := a.last(ctx, tx, p.archive.ProjectID)
	if err != nil {
		return err
	}
	if last == nil {
		if err := a.pack(ctx, &p.archive, &p.lines); err != nil {
			return err
		}
		return tx.Archives().Insert(ctx, &p.archive)
	}
	had, now := last.Records(), &p.archive
	last.VMs, last.Executions, last.Tasks = last.VMs+now.VMs, last.Executions+now.Executions, last.Tasks+now.Tasks
	if now.FirstAt.Before(last.FirstAt) {
		last.FirstAt = now.FirstAt
	}
	if now.LastAt.After(last.LastAt) {
		last.LastAt = now.LastAt
	}
	if err := a.pack(ctx, last, io.MultiReader(bytes.NewReader(before), &p.lines)); err != nil {
		return err
	}
	return tx.Archives().Extend(ctx, last, had)
}

// last is the archive of a project that is added to, and what it has; nil: there is none.
// One that cannot be read, damaged or under a key that is gone, is left as it is.
func (a Archiver) last(ctx context.Context, tx storage.Tx, project domain.ID) (*domain.Archive, []byte, error) {
	last, err := tx.Archives().Last(ctx, project, a.Worker)
	if errors.HasCode(err, errors.NotFound) || err == nil && len(last.Content) >= domain.MaxArchive {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	r, err := Read(ctx, a.Sealer, last)
	if err != nil {
		if errors.HasCode(err, errors.Unavailable) || ctx.Err() != nil {
			return nil, nil, err
		}
		return nil, nil, nil
	}
	defer r.Close()
	lines, err := io.ReadAll(r)
	if err != nil {
		return nil, nil, nil
	}
	return last, lines, nil
}

// pack gives an archive its content, under a key that nothing else is under.
func (a Archiver) pack(ctx context.Context, to *domain.Archive, lines io.Reader) error {
	key, place := seal.NewStreamKey(), storage.SealedArchiveKey(to.ProjectID, to.ID)
	var err error
	if to.KeySealed, err = a.Sealer.Seal(ctx, place, key); err != nil {
		return err
	}
	var content bytes.Buffer
	s, err := seal.NewWriter(&content, key, place)
	if err != nil {
		return err
	}
	z, err := zstd.NewWriter(s, zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return errors.Wrap(err, errors.Internal, "records cannot be packed")
	}
	_, err = io.Copy(z, lines)
	if err = errors.Join(err, z.Close(), s.Close()); err != nil {
		return err
	}
	to.Content, to.Bytes = content.Bytes(), int64(content.Len())
	return nil
}

// maxWindow bounds the memory that unpacking takes: what pack makes has less.
const maxWindow = 16 << 20

// Read gives the records of an archive with its content: [api.ArchivedRecord] in JSON,
// one in each line. The caller closes it. Returns Unavailable while its key cannot be
// reached; reading, InvalidArgument where it is damaged.
func Read(ctx context.Context, sealer seal.Sealer, a *domain.Archive) (io.ReadCloser, error) {
	place := storage.SealedArchiveKey(a.ProjectID, a.ID)
	key, err := sealer.Open(ctx, place, a.KeySealed)
	if err != nil {
		return nil, err
	}
	s, err := seal.NewReader(bytes.NewReader(a.Content), key, place)
	if err != nil {
		return nil, err
	}
	z, err := zstd.NewReader(s, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, errors.Wrap(err, errors.Internal, "an archive cannot be unpacked")
	}
	return z.IOReadCloser(), nil
}
