package api

import (
	"bytes"
	"context"
	"io"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/gateway/pkg/auth"
	"github.com/aetherium/aetherium/services/gateway/pkg/middleware"
)

type (
	// FileInput names a file in a VM.
	FileInput struct {
		VMPath
		PathQuery
	}
	// ReadHeaders say which part of a file is wanted, and when.
	ReadHeaders struct {
		Range       string `header:"Range" maxLength:"128" doc:"One range of bytes (RFC 9110 §14)"`
		IfRange     string `header:"If-Range" maxLength:"128" doc:"The ETag for which Range holds"`
		IfNoneMatch string `header:"If-None-Match" maxLength:"1024"`
	}
	readFileInput struct {
		FileInput
		ReadHeaders
	}
	writeFileInput struct {
		FileInput
		Mode string `query:"mode" maxLength:"5" pattern:"^0?[0-7]{3,4}$" doc:"Octal permission bits of a new file; absent: 0644"`
	}
	listFilesInput struct {
		FileInput
		Depth int `query:"depth" minimum:"0" maximum:"64" default:"1" doc:"Levels of directories"`
	}
	watchInput struct {
		FileInput
		Recursive bool `query:"recursive" doc:"Directories below as well"`
	}
	mkdirInput struct {
		VMPath
		KeyHeader
		Body wire.MakeDir
	}
	moveInput struct {
		VMPath
		KeyHeader
		Body wire.MoveFile
	}
	fileOutput  struct{ Body wire.FileInfo }
	filesOutput struct{ Body *wire.List[wire.FileInfo] }
)

func (a *API) fileRoutes() {
	const tag = "Files"
	reads(a, "file", "/vms/{vm}/files", tag, "Read a file", "Describe a file by headers", a.readFile)

	write := operation("write-file", http.MethodPut, "/vms/{vm}/files", tag, "Write a file", "Replaces it as a whole: readers see the old content or the new.")
	write.RequestBody = binaryBody("application/octet-stream", "The content; none makes an empty file")
	write.Responses = map[string]*huma.Response{"200": jsonOf[wire.FileInfo](a, "Written")}
	register(a, write, options{scope: domain.ScopeRun}, a.writeFile)

	register(a, operation("remove-file", http.MethodDelete, "/vms/{vm}/files", tag, "Remove a file or a directory with what is in it", ""), options{scope: domain.ScopeRun},
		func(ctx context.Context, in *FileInput) (*empty, error) {
			by, vm, err := a.resolve(ctx, in.VMPath)
			if err != nil {
				return nil, err
			}
			return nil, a.VMs.RemoveFile(ctx, by, vm, in.Path, in.options())
		})
	register(a, operation("stat-file", http.MethodGet, "/vms/{vm}/files/stat", tag, "Describe a file", ""), options{scope: domain.ScopeRead},
		func(ctx context.Context, in *FileInput) (*fileOutput, error) {
			return a.info(ctx, in.VMPath, func(by vmm.Caller, vm domain.ID) (vmm.FileInfo, error) {
				return a.VMs.StatFile(ctx, by, vm, in.Path, in.options())
			})
		})
	register(a, operation("list-files", http.MethodGet, "/vms/{vm}/files/list", tag, "List a directory", ""), options{scope: domain.ScopeRead}, a.listFiles)
	register(a, operation("make-dir", http.MethodPost, "/vms/{vm}/files/mkdir", tag, "Make a directory and its missing parents", ""), options{scope: domain.ScopeRun},
		func(ctx context.Context, in *mkdirInput) (*fileOutput, error) {
			return a.info(ctx, in.VMPath, func(by vmm.Caller, vm domain.ID) (vmm.FileInfo, error) {
				return a.VMs.MakeDir(ctx, by, vm, in.Body.Path, vmm.FileOptions{User: in.Body.User, Mode: parseMode(in.Body.Mode)})
			})
		})
	register(a, operation("move-file", http.MethodPost, "/vms/{vm}/files/move", tag, "Rename a file", ""), options{scope: domain.ScopeRun},
		func(ctx context.Context, in *moveInput) (*fileOutput, error) {
			return a.info(ctx, in.VMPath, func(by vmm.Caller, vm domain.ID) (vmm.FileInfo, error) {
				return a.VMs.MoveFile(ctx, by, vm, in.Body.From, in.Body.To, vmm.FileOptions{User: in.Body.User})
			})
		})

	watch := operation("watch-files", http.MethodGet, "/vms/{vm}/files/watch", tag, "Follow changes in a directory", "As server-sent events or over WebSocket; FileEvent in JSON.")
	watch.Responses = streamResponses[wire.FileEvent](a)
	register(a, watch, options{scope: domain.ScopeRead}, func(ctx context.Context, in *watchInput) (*huma.StreamResponse, error) {
		by, vm, err := a.resolve(ctx, in.VMPath)
		if err != nil {
			return nil, err
		}
		return streaming(func(w http.ResponseWriter, r *http.Request) error {
			return a.Streams.Watch(w, r, by, vm, in.Path, in.Recursive, in.options())
		}), nil
	})

	down := operation("read-tar", http.MethodGet, "/vms/{vm}/files/tar", tag, "Read a file or a directory tree as a tar", "")
	down.Responses = map[string]*huma.Response{"200": binaryResponse("application/x-tar", "A tar (PAX)")}
	register(a, down, options{scope: domain.ScopeRead}, a.readTar)
	up := operation("write-tar", http.MethodPut, "/vms/{vm}/files/tar", tag, "Unpack a tar below a directory", "Entries that would leave it are refused.")
	up.RequestBody = binaryBody("application/x-tar", "A tar; none makes the directory")
	up.Responses = map[string]*huma.Response{"204": {Description: "Unpacked"}}
	register(a, up, options{scope: domain.ScopeRun}, a.writeTar)
}

// reads adds the operations that answer with a file: GET and HEAD.
func reads[I any](a *API, what, path, tag, read, head string, handler func(context.Context, *I) (*huma.StreamResponse, error)) {
	get := operation("read-"+what, http.MethodGet, path, tag, read, "Its bytes, whole or a range.")
	get.Responses = map[string]*huma.Response{
		"200": binaryResponse("application/octet-stream", "The file"),
		"206": binaryResponse("application/octet-stream", "A range of it"),
		"304": {Description: "It is still what If-None-Match names"},
	}
	register(a, get, options{scope: domain.ScopeRead}, handler)
	describe := operation("head-"+what, http.MethodHead, path, tag, head, "")
	describe.Responses = map[string]*huma.Response{"200": {Description: "Content-Length, ETag, Last-Modified and X-File-* tell"}}
	register(a, describe, options{scope: domain.ScopeRead}, handler)
}

func streamResponses[T any](a *API, more ...*huma.Schema) map[string]*huma.Response {
	return map[string]*huma.Response{
		"101": upgradeResponse(),
		"200": eventStream("Events", append([]*huma.Schema{schemaOf[T](a), schemaOf[wire.ServerControl](a)}, more...)...),
	}
}

func (a *API) info(ctx context.Context, p VMPath, f func(vmm.Caller, domain.ID) (vmm.FileInfo, error)) (*fileOutput, error) {
	by, vm, err := a.resolve(ctx, p)
	if err != nil {
		return nil, err
	}
	info, err := f(by, vm)
	if err != nil {
		return nil, err
	}
	return &fileOutput{fileInfo(info)}, nil
}

func (a *API) listFiles(ctx context.Context, in *listFilesInput) (*filesOutput, error) {
	by, vm, err := a.resolve(ctx, in.VMPath)
	if err != nil {
		return nil, err
	}
	files, err := a.VMs.ListDir(ctx, by, vm, in.Path, in.Depth, in.options())
	if err != nil {
		return nil, err
	}
	return &filesOutput{&wire.List[wire.FileInfo]{Items: mapped(files, fileInfo)}}, nil
}

func (a *API) writeFile(ctx context.Context, in *writeFileInput) (*huma.StreamResponse, error) {
	by, vm, err := a.resolve(ctx, in.VMPath)
	if err != nil {
		return nil, err
	}
	return streaming(func(w http.ResponseWriter, r *http.Request) error {
		if err := middleware.LimitBody(w, r, a.MaxFileBytes); err != nil {
			return err
		}
		o := in.options()
		o.Mode = parseMode(in.Mode)
		info, err := a.VMs.WriteFile(r.Context(), by, vm, in.Path, r.Body, o)
		if err != nil {
			return err
		}
		return writeJSON(w, http.StatusOK, fileInfo(info))
	}), nil
}

func (a *API) readTar(ctx context.Context, in *FileInput) (*huma.StreamResponse, error) {
	by, vm, err := a.resolve(ctx, in.VMPath)
	if err != nil {
		return nil, err
	}
	return streaming(func(w http.ResponseWriter, r *http.Request) error {
		body, err := a.VMs.TarDown(r.Context(), by, vm, in.Path, in.options())
		if err != nil {
			return err
		}
		defer func() { _ = body.Close() }()
		// An error often shows with the first bytes; it can still be told then.
		first := make([]byte, 512)
		n, err := io.ReadFull(body, first)
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return err
		}
		plain(w.Header(), "application/x-tar")
		return copyOut(w, io.MultiReader(bytes.NewReader(first[:n]), body))
	}), nil
}

func (a *API) writeTar(ctx context.Context, in *FileInput) (*huma.StreamResponse, error) {
	by := auth.CallerFrom(ctx)
	_, vm, err := a.resolve(ctx, in.VMPath)
	if err != nil {
		return nil, err
	}
	return streaming(func(w http.ResponseWriter, r *http.Request) error {
		if err := middleware.LimitBody(w, r, a.MaxFileBytes); err != nil {
			return err
		}
		if err := a.VMs.TarUp(r.Context(), by, vm, in.Path, r.Body, in.options()); err != nil {
			return err
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	}), nil
}

// plain sets what keeps a browser from making anything of guest bytes.
func plain(h http.Header, media string) {
	h.Set("Content-Type", media)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-cache")
	h.Set("Content-Security-Policy", "sandbox")
}
