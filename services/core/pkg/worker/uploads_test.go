package worker_test

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/service"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/upload"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/worker"
)

// What was sent by way of one gateway is built from by way of another, on whichever
// worker.
func TestUploadsOfAFleet(t *testing.T) {
	t.Parallel()
	f := newFleet(t, func(c *worker.Config) { c.SweepEvery = time.Hour })
	by, ctx := f.one.by, f.one.ctx
	// More than one piece, and than is read at once.
	content := strings.Repeat("of an archive ", 1<<17)
	u, err := f.SaveUpload(ctx, by, "", strings.NewReader(content))
	must(t, err)
	if u.SizeBytes != int64(len(content)) || len(u.SHA256) != 64 || time.Until(u.ExpiresAt) < upload.TTL-time.Minute {
		t.Errorf("%+v", u)
	}
	has, without := f.one, f.other
	if u.WorkerID == f.other.worker.ID() {
		has, without = f.other, f.one
	}
	build := func(on *bed, name string) {
		t.Helper()
		task, err := f.beside.BuildTemplate(ctx, by, vmm.BuildTemplate{Name: name, Source: domain.TemplateSource{Tar: u.ID.String()}})
		must(t, err)
		if task, err = f.beside.WaitTask(ctx, by, task.ID); err != nil || task.State != domain.TaskSucceeded {
			t.Fatalf("%+v, %v", task, err)
		}
		on.images.mu.Lock()
		defer on.images.mu.Unlock()
		if got := on.images.read[task.Subject.String()]; got != content {
			t.Errorf("%s was built from %d bytes there, %d were sent", name, len(got), len(content))
		}
	}
	build(has, "first")
	_, err = f.CordonWorker(ctx, by, has.config.Name)
	must(t, err)
	build(without, "second")
	f.crash(has)
	build(without, "third") // it has been sent it before

	r, err := f.beside.OpenUpload(ctx, by, u.ID)
	if err == nil {
		_ = r.Close()
	}
	refused(t, err, errors.Unavailable) // it is read where it was sent to
}

// endless is a body that never ends.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// A project's uploads are bounded together, those under way included; another
// project has its own share. What does not come to its end is nowhere.
func TestUploadsOfAProject(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	by, ctx := f.one.by, f.one.ctx
	other := vmm.Caller{ProjectID: domain.NewID(), Name: "other"}
	must(t, f.one.store.Update(ctx, func(tx storage.Tx) error {
		return tx.Projects().Insert(ctx, &domain.Project{ID: other.ProjectID, Name: "other", CreatedAt: time.Now().UTC()})
	}))
	left := func() (all []string) {
		for _, b := range []*bed{f.one, f.other} {
			found, err := filepath.Glob(filepath.Join(b.config.DataDir, "uploads", by.ProjectID.String(), "*"))
			must(t, err)
			hidden, err := filepath.Glob(filepath.Join(b.config.DataDir, "uploads", by.ProjectID.String(), ".*"))
			must(t, err)
			all = append(append(all, found...), hidden...)
		}
		return all
	}
	var e *errors.Error
	if _, err := f.SaveUpload(ctx, by, "", endless{}); !errors.As(err, &e) || e.Code != errors.QuotaExceeded || e.Field != "quota.uploads" {
		t.Errorf("an endless one: %v", err)
	}
	_, err := f.SaveUpload(ctx, by, "", io.MultiReader(strings.NewReader("half"), halfway{}))
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("half of one: %v", err)
	}
	_, err = f.SaveUpload(ctx, by, "", strings.NewReader(""))
	refused(t, err, errors.InvalidArgument)
	for len(left()) > 0 { // a worker learns of it a moment later
		must(t, ctx.Err())
		time.Sleep(time.Millisecond)
	}

	u, err := f.SaveUpload(ctx, by, "files", io.LimitReader(endless{}, 40<<20))
	must(t, err)
	_, err = f.SaveUpload(ctx, by, "", strings.NewReader("abc"))
	refused(t, err, errors.QuotaExceeded)
	theirs, err := f.SaveUpload(ctx, other, "files", strings.NewReader("abc"))
	must(t, err)
	for who, want := range map[*vmm.Caller]*domain.Upload{&by: u, &other: theirs} {
		if got, err := f.beside.NamedUpload(ctx, *who, "files"); err != nil || got.ID != want.ID {
			t.Errorf("%s has %+v, %v", who.Name, got, err)
		}
	}
	_, err = f.OpenUpload(ctx, by, theirs.ID)
	refused(t, err, errors.NotFound)
	_, err = f.BuildTemplate(ctx, by, vmm.BuildTemplate{Name: "t", Source: domain.TemplateSource{Tar: theirs.ID.String()}})
	refused(t, err, errors.NotFound)
	r, err := f.beside.OpenUpload(ctx, other, theirs.ID)
	must(t, err)
	content, err := io.ReadAll(r)
	if cerr := r.Close(); err != nil || cerr != nil || !bytes.Equal(content, []byte("abc")) {
		t.Errorf("%q, %v, %v", content, err, cerr)
	}

	// A project that goes takes its own.
	for _, b := range []*bed{f.one, f.other} {
		must(t, b.worker.ForgetProject(ctx, by.ProjectID))
	}
	if found := left(); len(found) > 0 {
		t.Errorf("%v are left", found)
	}
	r, err = f.OpenUpload(ctx, other, theirs.ID)
	must(t, err)
	must(t, r.Close())
	// And a day is over.
	f.one.skip(upload.TTL + 7*time.Hour)
	f.other.skip(upload.TTL + 7*time.Hour)
	for _, b := range []*bed{f.one, f.other} {
		b.worker.Sweep(ctx)
		if _, err := os.Stat(filepath.Join(b.config.DataDir, "uploads", other.ProjectID.String(), theirs.ID.String()+".tar")); err == nil {
			t.Error("an upload has not expired")
		}
	}
	_, err = f.NamedUpload(ctx, other, "files")
	refused(t, err, errors.NotFound)
}

type halfway struct{}

func (halfway) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// losing is a fleet whose workers' answers about uploads are lost, and that cannot be
// told to be rid of them while away is set.
type losing struct {
	*bed
	away *bool
}

func (l losing) Node(id domain.ID) (service.Node, error) {
	n, err := l.bed.Node(id)
	return losingNode{n, l.away}, err
}

func (l losing) Here() service.Node { return nil }

type losingNode struct {
	service.Node
	away *bool
}

var errLost = errors.New(errors.Unavailable, "the link is cut")

func (n losingNode) KeepUpload(ctx context.Context, project, id domain.ID, want string, r io.Reader) (int64, string, error) {
	if _, _, err := n.Node.KeepUpload(ctx, project, id, want, r); err != nil {
		return 0, "", err
	}
	return 0, "", errLost
}

func (n losingNode) DropUpload(ctx context.Context, project, id domain.ID) error {
	if *n.away {
		return errLost
	}
	return n.Node.DropUpload(ctx, project, id)
}

// An upload whose sender hears that it is not kept is not, or it counts.
func TestUploadsThatNobodyIsToldOf(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	away := false
	s := b.serve(losing{b, &away}, b.changes)
	files := func() (n int) {
		found, err := filepath.Glob(filepath.Join(b.config.DataDir, "uploads", "*", "*"))
		must(t, err)
		return len(found)
	}
	held := func() (bytes int64) {
		must(t, b.store.View(b.ctx, func(tx storage.Tx) (err error) {
			bytes, err = tx.Uploads().Held(b.ctx, b.by.ProjectID, time.Now())
			return err
		}))
		return bytes
	}
	if _, err := s.SaveUpload(b.ctx, b.by, "", strings.NewReader("abc")); !errors.Is(err, errLost) {
		t.Errorf("the answer is not lost: %v", err)
	}
	if files() != 0 || held() != 0 {
		t.Errorf("%d files are left, and %d bytes count", files(), held())
	}
	away = true
	if _, err := s.SaveUpload(b.ctx, b.by, "", strings.NewReader("abc")); !errors.Is(err, errLost) {
		t.Errorf("the answer is not lost: %v", err)
	}
	if files() != 1 || held() != 3 {
		t.Errorf("%d files are left, and %d bytes count", files(), held())
	}
	// Nor does it stay where its sender has gone when all is there.
	ctx, leave := context.WithCancel(b.ctx)
	if _, err := b.SaveUpload(ctx, b.by, "", io.MultiReader(strings.NewReader("abc"), atEnd(leave))); !errors.Is(err, context.Canceled) {
		t.Errorf("it is kept: %v", err)
	}
	if files() != 1 || held() != 3 {
		t.Errorf("then %d files are left, and %d bytes count", files(), held())
	}
}

// atEnd calls a function at the end of what is read.
type atEnd func()

func (f atEnd) Read([]byte) (int, error) {
	f()
	return 0, io.EOF
}
