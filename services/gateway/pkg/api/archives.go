package api

import (
	"context"
	"io"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/gateway/pkg/auth"
)

type archivesOutput struct{ Body *wire.List[wire.Archive] }

func (a *API) archiveRoutes() {
	const tag = "Archives"
	register(a, operation("list-archives", http.MethodGet, "/archives", tag, "List archives",
		"What is kept of ended VMs, executions and tasks once they are not listed any more."), options{scope: domain.ScopeRead},
		func(ctx context.Context, in *PageQuery) (*archivesOutput, error) {
			l, err := a.VMs.ListArchives(ctx, auth.CallerFrom(ctx), in.page())
			if err != nil {
				return nil, err
			}
			return &archivesOutput{listOf(l, archive)}, nil
		})
	read := operation("read-archive", http.MethodGet, "/archives/{id}", tag, "Read an archive", "All its records, as newline-delimited JSON.")
	read.Responses = map[string]*huma.Response{"200": {
		Description: "Its records", Content: map[string]*huma.MediaType{"application/x-ndjson": {Schema: schemaOf[wire.ArchivedRecord](a)}},
	}}
	register(a, read, options{scope: domain.ScopeRead}, a.readArchive)
}

func (a *API) readArchive(ctx context.Context, in *IDPath) (*huma.StreamResponse, error) {
	by := auth.CallerFrom(ctx)
	return streaming(func(w http.ResponseWriter, r *http.Request) error {
		return a.Streams.Lines(w, r, "archive", func(ctx context.Context) (io.ReadCloser, error) {
			_, records, err := a.VMs.ReadArchive(ctx, by, in.id())
			return records, err
		})
	}), nil
}

func archive(a *domain.Archive) wire.Archive {
	return wire.Archive{
		ID: a.ID.String(), VMs: a.VMs, Executions: a.Executions, Tasks: a.Tasks,
		FirstEndedAt: a.FirstAt, LastEndedAt: a.LastAt, SizeBytes: a.Bytes, CreatedAt: a.CreatedAt,
	}
}
