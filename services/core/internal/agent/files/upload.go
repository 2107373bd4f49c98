package files

import (
	"compress/gzip"
	"io"
	"mime"
	"net/http"
	"net/textproto"
	"path/filepath"
	"strings"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/internal/agent/fsys"
	"github.com/aetherium/aetherium/services/core/internal/agent/osuser"
	"github.com/aetherium/aetherium/services/core/internal/agent/wire"
	"github.com/aetherium/aetherium/services/core/pkg/guest/signature"
)

const (
	maxParts       = 10_000 // files in one upload
	metadataHeader = "X-Metadata-"
	maxMetadata    = 64
)

func isEOF(err error) bool { return errors.Is(err, io.EOF) }

// uploaded is what is told of a stored file; SDKs reject further keys.
type uploaded struct {
	Path     string            `json:"path"`
	Name     string            `json:"name"`
	Type     string            `json:"type"`
	Metadata map[string]string `json:"metadata,omitempty"`
}

// upload is POST /files: the body itself, or the parts "file" of a form, each
// written to its path.
func (h *Handler) upload(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	if err := h.Guard.File(r.Header, query, signature.Write, h.Now()); err != nil {
		wire.EnvdError(w, err)
		return
	}
	u, path, err := h.target(r, query)
	if err != nil {
		wire.EnvdError(w, err)
		return
	}
	meta, err := metadata(r.Header)
	if err != nil {
		wire.EnvdError(w, err)
		return
	}
	body, err := decoded(r)
	if err != nil {
		wire.EnvdError(w, err)
		return
	}
	kind, params, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	var stored []uploaded
	switch kind {
	case "application/octet-stream":
		if query.Get("path") == "" {
			err = errors.New(errors.InvalidArgument, "the path is missing")
			break
		}
		var one uploaded
		one, err = h.store(u, path, meta, uploadBody{body})
		stored = []uploaded{one}
	case "multipart/form-data":
		r.Body = io.NopCloser(body)
		if params["boundary"] == "" {
			err = errors.New(errors.InvalidArgument, "the form has no boundary")
			break
		}
		stored, err = h.form(r, u, query.Get("path"), meta)
	default:
		err = errors.New(errors.InvalidArgument, "the content type must be multipart/form-data or application/octet-stream")
	}
	if err != nil {
		wire.EnvdError(w, err)
		return
	}
	wire.JSON(w, http.StatusOK, stored)
}

// form stores the parts "file" of a form. The path in the query wins over a
// part's file name, which holds a whole path (Part.FileName would cut it).
func (h *Handler) form(r *http.Request, u *osuser.User, path string, meta map[string]string) ([]uploaded, error) {
	parts, err := r.MultipartReader()
	if err != nil {
		return nil, errors.Wrap(err, errors.InvalidArgument, "the form cannot be read")
	}
	stored := []uploaded{}
	for {
		part, err := parts.NextPart()
		if isEOF(err) {
			return stored, nil
		}
		if err != nil {
			return nil, errors.Wrap(err, errors.InvalidArgument, "the form did not arrive whole")
		}
		_, params, err := mime.ParseMediaType(part.Header.Get("Content-Disposition"))
		if err != nil || params["name"] != "file" {
			continue
		}
		name := path
		if name == "" {
			name = params["filename"]
		}
		switch {
		case name == "":
			return nil, errors.New(errors.InvalidArgument, "a file has no path")
		case len(stored) >= maxParts:
			return nil, errors.New(errors.TooLarge, "more than %d files in one upload", maxParts)
		case path != "" && len(stored) > 0:
			return nil, errors.New(errors.InvalidArgument, "a path for several files")
		}
		full, err := fsys.Resolve(u, name)
		if err != nil {
			return nil, err
		}
		one, err := h.store(u, full, meta, uploadBody{part})
		if err != nil {
			return nil, err
		}
		stored = append(stored, one)
	}
}

// store writes a file.
func (h *Handler) store(u *osuser.User, path string, meta map[string]string, r io.Reader) (uploaded, error) {
	err := h.FS.Write(u, path, meta, r)
	return uploaded{Path: path, Name: filepath.Base(path), Type: "file", Metadata: meta}, err
}

// decoded undoes the request's Content-Encoding.
func decoded(r *http.Request) (io.Reader, error) {
	switch coding := strings.ToLower(strings.TrimSpace(r.Header.Get("Content-Encoding"))); coding {
	case "", "identity":
		return r.Body, nil
	case "gzip":
		zip, err := gzip.NewReader(r.Body)
		if err != nil {
			return nil, errors.Wrap(err, errors.InvalidArgument, "the body is not gzip")
		}
		return zip, nil
	default:
		return nil, errors.New(errors.InvalidArgument, "the content encoding %.32q is not supported", coding)
	}
}

// metadata reads the X-Metadata-* headers; names are case-insensitive and kept
// in lower case.
func metadata(h http.Header) (map[string]string, error) {
	var meta map[string]string
	for name, values := range h {
		key, ok := strings.CutPrefix(textproto.CanonicalMIMEHeaderKey(name), metadataHeader)
		if !ok {
			continue
		}
		key = strings.ToLower(key)
		if key == "" || len(fsys.MetadataPrefix)+len(key) > 255 { // XATTR_NAME_MAX
			return nil, errors.New(errors.InvalidArgument, "a metadata name is empty or too long")
		}
		if meta == nil {
			meta = map[string]string{}
		}
		if meta[key] = values[0]; len(meta) > maxMetadata {
			return nil, errors.New(errors.InvalidArgument, "more than %d metadata entries", maxMetadata)
		}
	}
	return meta, nil
}

// uploadBody is a request's body whose errors are the client's.
type uploadBody struct{ r io.Reader }

func (b uploadBody) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if err != nil && !isEOF(err) {
		err = errors.Wrap(err, errors.InvalidArgument, "the upload did not arrive whole")
	}
	return n, err
}
