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
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/seal"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/apiform"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

const (
	// MaxProjects is of how many projects one transaction archives records at most.
	MaxProjects = 20
	// maxLines bounds what an archive has unpacked that is added to.
	maxLines = 8 << 20
	// maxAge is how long an archive is added to: what is in it goes together.
	maxAge = 24 * time.Hour
	// maxWindow bounds the memory that unpacking takes: what pack makes has less.
	maxWindow = 16 << 20
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

// Begun is the archives that are added to, with what they have, by project.
type Begun map[domain.ID]begun

type begun struct {
	archive *domain.Archive
	lines   []byte
}

// Prepare finds the archives of some projects that records can be added to, opens them,
// and sees to it that Add can encrypt. All that may take requests to a service that
// holds keys, so it is done before the transaction. Returns Unavailable.
func (a Archiver) Prepare(ctx context.Context, store storage.Store, now time.Time, projects map[domain.ID]bool) (Begun, error) {
	id := domain.NewID()
	if _, err := a.Sealer.Seal(ctx, storage.SealedArchiveKey(id, id), seal.NewStreamKey()); err != nil {
		return nil, err
	}
	all := Begun{}
	err := store.View(ctx, func(tx storage.Tx) error {
		clear(all)
		for project := range projects {
			last, err := tx.Archives().Last(ctx, project, a.Worker)
			switch {
			case errors.HasCode(err, errors.NotFound):
			case err != nil:
				return err
			case len(last.Content) < domain.MaxArchive && now.Sub(last.CreatedAt) < maxAge:
				all[project] = begun{archive: last}
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for project, b := range all {
		if b.lines, err = a.unpacked(ctx, b.archive); err != nil {
			return nil, err
		}
		if b.lines == nil {
			delete(all, project)
		} else {
			all[project] = b
		}
	}
	return all, nil
}

// unpacked is what an archive has; nil where that cannot be read, damaged or under a key
// that is gone, or is much: it is left as it is then, and another is begun.
func (a Archiver) unpacked(ctx context.Context, of *domain.Archive) ([]byte, error) {
	r, err := Read(ctx, a.Sealer, of)
	if err != nil {
		if errors.HasCode(err, errors.Unavailable) || ctx.Err() != nil {
			return nil, err
		}
		return nil, nil
	}
	defer func() { _ = r.Close() }()
	lines, err := io.ReadAll(io.LimitReader(r, maxLines+1))
	if err != nil || len(lines) > maxLines {
		return nil, nil //nolint:nilerr // see above
	}
	return lines, nil
}

// Add archives records in the transaction that their rows go in. What there is of a
// project is added to the archive that was begun, if one was; a record that cannot be
// written is left out. Returns Conflict where an archive is another by now.
func (a Archiver) Add(ctx context.Context, tx storage.Tx, now time.Time, to Begun, r Records) error {
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
		if form.Tombstone != nil {
			form.Tombstone.LastOutput = "" // output is not archived
		}
		if p := at(vm.ProjectID); p.add(api.ArchivedRecord{Kind: api.ArchivedVM, VM: &form}, cmp.Or(vm.EndedAt, &vm.UpdatedAt)) {
			p.archive.VMs++
		}
	}
	for _, x := range r.Executions {
		form := apiform.Execution(x)
		form.Stored = false // its output goes
		if p := at(x.ProjectID); p.add(api.ArchivedRecord{Kind: api.ArchivedExecution, Execution: &form}, cmp.Or(x.EndedAt, &x.CreatedAt)) {
			p.archive.Executions++
		}
	}
	for _, t := range r.Tasks {
		form := apiform.Task(t)
		if p := at(t.ProjectID); p.add(api.ArchivedRecord{Kind: api.ArchivedTask, Task: &form}, cmp.Or(t.EndedAt, &t.UpdatedAt)) {
			p.archive.Tasks++
		}
	}
	for _, project := range slices.Sorted(maps.Keys(of)) {
		if p := of[project]; p.archive.Records() > 0 {
			if err := a.put(ctx, tx, to[project], p); err != nil {
				return err
			}
		}
	}
	return nil
}

// part is what is archived of one project.
type part struct {
	archive domain.Archive
	lines   bytes.Buffer
}

func (p *part) add(r api.ArchivedRecord, ended *time.Time) bool {
	line, err := json.Marshal(r)
	if err != nil {
		return false
	}
	p.lines.Write(append(line, '\n'))
	if p.archive.FirstAt.IsZero() || ended.Before(p.archive.FirstAt) {
		p.archive.FirstAt = *ended
	}
	if ended.After(p.archive.LastAt) {
		p.archive.LastAt = *ended
	}
	return true
}

func (a Archiver) put(ctx context.Context, tx storage.Tx, to begun, p *part) error {
	if to.archive == nil {
		if err := a.pack(ctx, &p.archive, &p.lines); err != nil {
			return err
		}
		return tx.Archives().Insert(ctx, &p.archive)
	}
	had, more := to.archive.Records(), &p.archive
	next := *to.archive
	next.VMs, next.Executions, next.Tasks = next.VMs+more.VMs, next.Executions+more.Executions, next.Tasks+more.Tasks
	if more.FirstAt.Before(next.FirstAt) {
		next.FirstAt = more.FirstAt
	}
	if more.LastAt.After(next.LastAt) {
		next.LastAt = more.LastAt
	}
	if err := a.pack(ctx, &next, io.MultiReader(bytes.NewReader(to.lines), &p.lines)); err != nil {
		return err
	}
	return tx.Archives().Extend(ctx, &next, had)
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

// Read gives the records of an archive with its content: [api.ArchivedRecord] in JSON,
// one in each line. The caller closes it, at any time. Returns Unavailable while its key
// cannot be reached, and what the sealer does where it is damaged; so does reading.
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
	return &reader{z: z}, nil
}

// reader is a decoder that may be closed while it is read from, which a decoder may not.
type reader struct {
	mu sync.Mutex
	z  *zstd.Decoder // nil: closed
}

func (r *reader) Read(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.z == nil {
		return 0, io.ErrClosedPipe
	}
	return r.z.Read(p)
}

func (r *reader) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.z != nil {
		r.z.Close()
		r.z = nil
	}
	return nil
}
