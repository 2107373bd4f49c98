package fake

import (
	"context"
	"io"
	"strings"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// archive is one of a project, with its records.
type archive struct {
	of    domain.Archive
	lines string
}

// Archive gives a project an archive of an execution, whose record is a line.
func (o *Orchestrator) Archive(project domain.ID, line string) domain.ID {
	o.mu.Lock()
	defer o.mu.Unlock()
	at := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	a := archive{domain.Archive{ID: domain.NewID(), ProjectID: project, Executions: 1, FirstAt: at, LastAt: at, CreatedAt: at, Bytes: 7}, line}
	o.archives = append(o.archives, a)
	return a.of.ID
}

// ListArchives implements vmm.Archives.
func (o *Orchestrator) ListArchives(_ context.Context, by vmm.Caller, _ vmm.Page) (list vmm.List[*domain.Archive], err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, a := range o.archives {
		if a.of.ProjectID == by.ProjectID {
			list.Items = append(list.Items, &a.of)
		}
	}
	return list, nil
}

// ReadArchive implements vmm.Archives.
func (o *Orchestrator) ReadArchive(_ context.Context, by vmm.Caller, id domain.ID) (*domain.Archive, io.ReadCloser, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, a := range o.archives {
		if a.of.ProjectID == by.ProjectID && a.of.ID == id {
			return &a.of, io.NopCloser(strings.NewReader(a.lines)), nil
		}
	}
	return nil, nil, errors.New(errors.NotFound, "archive %s does not exist", id)
}
