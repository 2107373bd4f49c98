package files

import (
	"compress/gzip"
	"io"
	"mime"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/internal/agent/fsys"
	"github.com/aetherium/aetherium/services/core/internal/agent/wire"
	"github.com/aetherium/aetherium/services/core/pkg/guest/signature"
)

// download is GET /files: a file's bytes, compressed or in part if asked.
func (h *Handler) download(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	if err := h.Guard.File(r.Header, query, signature.Read, h.Now()); err != nil {
		wire.EnvdError(w, err)
		return
	}
	u, path, err := h.target(r, query)
	if err != nil {
		wire.EnvdError(w, err)
		return
	}
	partial := r.Header.Get("Range") != ""
	encoding, err := negotiate(r.Header.Values("Accept-Encoding"), !partial)
	if err != nil {
		wire.EnvdError(w, err)
		return
	}
	f, info, err := h.FS.Open(u, path)
	if err != nil {
		wire.EnvdError(w, err)
		return
	}
	defer func() { _ = f.Close() }()
	w.Header().Set("Vary", "Accept-Encoding")
	w.Header().Set("Content-Disposition", mime.FormatMediaType("inline", map[string]string{"filename": filepath.Base(path)}))
	serve(w, r, f, info, encoding == "gzip")
}

// serve sends an open file. Files under /proc and /sys say that they are
// empty; they are sent as they come.
func serve(w http.ResponseWriter, r *http.Request, f *os.File, info os.FileInfo, compressed bool) {
	if w.Header().Get("Content-Type") == "" && info.Size() == 0 {
		w.Header().Set("Content-Type", "application/octet-stream")
	}
	switch {
	case compressed:
		w.Header().Set("Content-Encoding", "gzip")
		w.Header().Set("Content-Type", contentType(info.Name()))
		w.Header().Set("Last-Modified", info.ModTime().UTC().Format(http.TimeFormat))
		zip, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
		if err == nil {
			_, err = io.Copy(zip, f)
		}
		if err == nil {
			err = zip.Close()
		}
		if err != nil {
			panic(http.ErrAbortHandler) // the length is not known to the client: make the break visible
		}
	case info.Size() == 0:
		if _, err := io.Copy(w, f); err != nil {
			panic(http.ErrAbortHandler)
		}
	default:
		reader := fsys.NewReader(f, info.Size())
		defer reader.Close()
		http.ServeContent(response{w, info.Size()}, r, info.Name(), info.ModTime(), reader)
	}
}

// response has http.ServeContent copy by larger pieces than its own.
type response struct {
	http.ResponseWriter
	size int64
}

func (w response) ReadFrom(r io.Reader) (int64, error) { return fsys.Send(w.ResponseWriter, r, w.size) }

func contentType(name string) string {
	if t := mime.TypeByExtension(filepath.Ext(name)); t != "" {
		return t
	}
	return "application/octet-stream"
}

// negotiate picks "gzip" or "identity" (RFC 9110 §12.5.3). Returns
// NotAcceptable when the client refuses what there is.
func negotiate(headers []string, mayCompress bool) (string, error) {
	weights := map[string]float64{}
	for item := range strings.SplitSeq(strings.Join(headers, ","), ",") {
		coding, params, _ := strings.Cut(strings.TrimSpace(item), ";")
		if coding = strings.ToLower(strings.TrimSpace(coding)); coding == "" {
			continue
		}
		weight := 1.0
		if value, ok := strings.CutPrefix(strings.ReplaceAll(strings.ToLower(params), " ", ""), "q="); ok {
			parsed, err := strconv.ParseFloat(value, 64)
			if err != nil || parsed < 0 || parsed > 1 {
				return "", errors.New(errors.InvalidArgument, "Accept-Encoding cannot be read")
			}
			weight = parsed
		}
		weights[coding] = weight
	}
	others, hasOthers := weights["*"]
	zip, ok := weights["gzip"]
	if !ok {
		zip = others
	}
	identity, ok := weights["identity"]
	if !ok {
		identity = 1
		if hasOthers {
			identity = others
		}
	}
	switch {
	case mayCompress && zip > 0 && (zip >= identity || identity == 1 && !explicit(weights, "identity")):
		return "gzip", nil
	case identity > 0:
		return "identity", nil
	}
	return "", errors.New(errors.NotAcceptable, "only gzip and identity encodings can be sent")
}

func explicit(weights map[string]float64, coding string) bool {
	_, ok := weights[coding]
	return ok
}
