// Package files serves the machine's files over plain HTTP: /files as SDKs of
// the field use it, and the native endpoints under /aetherium/, which stream
// single files, whole trees as tar, and the bytes of a TCP port.
package files

import (
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"github.com/aetherium/aetherium/services/core/internal/agent/access"
	"github.com/aetherium/aetherium/services/core/internal/agent/fsys"
	"github.com/aetherium/aetherium/services/core/internal/agent/osuser"
)

// Handler serves files with the rights of the user that a request names.
type Handler struct {
	Guard *access.Guard
	FS    *fsys.FS
	Now   func() time.Time
	Log   *slog.Logger
}

// Envd registers what clients of the envd services use.
func (h *Handler) Envd(mux *http.ServeMux) {
	mux.HandleFunc("GET /files", h.download)
	mux.HandleFunc("POST /files", h.upload)
}

// Native registers what only the host uses. The channel is its credential.
func (h *Handler) Native(mux *http.ServeMux) {
	mux.HandleFunc("GET /aetherium/file", h.readFile)
	mux.HandleFunc("PUT /aetherium/file", h.writeFile)
	mux.HandleFunc("GET /aetherium/tar", h.packTar)
	mux.HandleFunc("PUT /aetherium/tar", h.unpackTar)
	mux.HandleFunc("POST /aetherium/port/{port}", forwardPort)
}

// target finds whom a request acts as and the absolute path it is about.
func (h *Handler) target(r *http.Request, query url.Values) (u *osuser.User, path string, err error) {
	if name := query.Get("username"); name != "" {
		u, err = h.Guard.Named(name)
	} else {
		u, err = h.Guard.User(r.Header)
	}
	if err != nil {
		return nil, "", err
	}
	path, err = fsys.Resolve(u, query.Get("path"))
	return u, path, err
}
