package files

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/internal/agent/archive"
	"github.com/aetherium/aetherium/services/core/internal/agent/fsys"
	"github.com/aetherium/aetherium/services/core/internal/agent/wire"
)

// fileInfo describes a file on the native endpoints.
type fileInfo struct {
	Name          string            `json:"name"`
	Path          string            `json:"path"`
	Type          string            `json:"type"`
	Size          int64             `json:"size"`
	Mode          uint32            `json:"mode"`
	Owner         string            `json:"owner"`
	Group         string            `json:"group"`
	ModifiedAt    time.Time         `json:"modified_at"`
	SymlinkTarget string            `json:"symlink_target,omitempty"`
	Metadata      map[string]string `json:"metadata,omitempty"`
}

var typeNames = map[fsys.Type]string{fsys.File: "file", fsys.Dir: "dir", fsys.Symlink: "symlink", fsys.Other: "other"}

func infoOf(e fsys.Entry) fileInfo {
	return fileInfo{
		Name: e.Name, Path: e.Path, Type: typeNames[e.Type], Size: e.Size, Mode: e.Mode, Owner: e.Owner,
		Group: e.Group, ModifiedAt: e.Time.UTC(), SymlinkTarget: e.Target, Metadata: e.Meta,
	}
}

// readFile is GET /aetherium/file?path&username: a regular file, with Range.
func (h *Handler) readFile(w http.ResponseWriter, r *http.Request) {
	u, path, err := h.target(r, r.URL.Query())
	if err != nil {
		wire.Error(w, err)
		return
	}
	f, info, err := h.FS.Open(u, path)
	if err != nil {
		wire.Error(w, err)
		return
	}
	defer func() { _ = f.Close() }()
	w.Header().Set("Content-Type", "application/octet-stream")
	serve(w, r, f, info, false)
}

// writeFile is PUT /aetherium/file?path&username&mode: the body replaces the
// file atomically. mode is octal.
func (h *Handler) writeFile(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	u, path, err := h.target(r, query)
	if err != nil {
		wire.Error(w, err)
		return
	}
	var mode uint64
	if text := query.Get("mode"); text != "" {
		if mode, err = strconv.ParseUint(text, 8, 32); err != nil || mode > 0o7777 {
			wire.Error(w, errors.New(errors.InvalidArgument, "the mode must be octal and at most 7777").WithField("mode"))
			return
		}
	}
	entry, err := h.FS.Replace(u, path, uint32(mode), uploadBody{r.Body})
	if err != nil {
		wire.Error(w, err)
		return
	}
	wire.JSON(w, http.StatusOK, infoOf(entry))
}

// packTar is GET /aetherium/tar?path&username. What goes wrong after the first
// byte breaks the connection off, so that no client takes a part for the whole.
func (h *Handler) packTar(w http.ResponseWriter, r *http.Request) {
	u, path, err := h.target(r, r.URL.Query())
	if err != nil {
		wire.Error(w, err)
		return
	}
	packer, err := archive.NewPacker(u, path)
	if err != nil {
		wire.Error(w, err)
		return
	}
	defer func() { _ = packer.Close() }()
	w.Header().Set("Content-Type", "application/x-tar")
	if err := packer.Pack(w); err != nil {
		h.Log.WarnContext(r.Context(), "packing ended early", "path", path, "error", err)
		panic(http.ErrAbortHandler)
	}
}

// unpackTar is PUT /aetherium/tar?path&username&owner: the body is unpacked
// below the directory. owner is "uid:gid": whom the files are given to.
func (h *Handler) unpackTar(w http.ResponseWriter, r *http.Request) {
	u, path, err := h.target(r, r.URL.Query())
	if err != nil {
		wire.Error(w, err)
		return
	}
	owner, err := ownerOf(r.URL.Query().Get("owner"))
	if err != nil {
		wire.Error(w, err)
		return
	}
	if err := archive.UnpackFor(u, owner, path, uploadBody{r.Body}); err != nil {
		wire.Error(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// ownerOf reads "uid:gid"; nothing is nobody in particular.
func ownerOf(text string) (*archive.Owner, error) {
	if text == "" {
		return nil, nil
	}
	uid, gid, ok := strings.Cut(text, ":")
	u, uerr := strconv.ParseUint(uid, 10, 31)
	g, gerr := strconv.ParseUint(gid, 10, 31)
	if !ok || uerr != nil || gerr != nil {
		return nil, errors.New(errors.InvalidArgument, "the owner must be uid:gid in numbers").WithField("owner")
	}
	return &archive.Owner{UID: int(u), GID: int(g)}, nil
}
