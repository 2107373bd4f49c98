package api

import (
	"context"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/aetherium/aetherium/libs/common/pkg/bulk"
	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/gateway/pkg/problem"
)

// readFile answers GET and HEAD of a file: whole, a range, or that it has not
// changed.
func (a *API) readFile(ctx context.Context, in *readFileInput) (*huma.StreamResponse, error) {
	by, vm, err := a.resolve(ctx, in.VMPath)
	if err != nil {
		return nil, err
	}
	return streaming(func(w http.ResponseWriter, r *http.Request) error {
		o := in.options()
		var partial bool
		var asked span
		if r.Method == http.MethodHead || in.Range != "" || in.IfNoneMatch != "" {
			info, err := a.VMs.StatFile(r.Context(), by, vm, in.Path, o)
			if err != nil {
				return err
			}
			if in.answered(w, r, info) {
				return nil
			}
			if asked, partial, err = in.span(info); err != nil {
				return err
			}
		}
		if partial {
			o.Offset, o.Length = asked.start, asked.length
		}
		info, body, err := a.VMs.ReadFile(r.Context(), by, vm, in.Path, o)
		if err != nil {
			return err
		}
		defer func() { _ = body.Close() }()
		h := w.Header()
		describe(h, info)
		if !partial {
			if info.Size == 0 { // empty, or a file like those in /proc that do not know their size
				return copyOut(w, body)
			}
			return copyExactly(w, http.StatusOK, body, info.Size)
		}
		if asked.start+asked.length > info.Size {
			return errors.New(errors.Conflict, "the file became shorter while it was read").WithHint("ask again")
		}
		return copyPart(w, body, asked, info)
	}), nil
}

// answered answers who asks for a file's headers alone, or has it already.
func (in ReadHeaders) answered(w http.ResponseWriter, r *http.Request, info vmm.FileInfo) bool {
	status := http.StatusOK
	switch {
	case in.IfNoneMatch != "" && matches(in.IfNoneMatch, etag(info)):
		status = http.StatusNotModified
	case r.Method != http.MethodHead:
		return false
	case info.Type == "file":
		w.Header().Set("Content-Length", strconv.FormatInt(info.Size, 10))
	}
	describe(w.Header(), info)
	w.WriteHeader(status)
	return true
}

// span is the part of a file that is wanted; partial is false for all of it.
// Returns OutOfRange.
func (in ReadHeaders) span(info vmm.FileInfo) (asked span, partial bool, err error) {
	if in.IfRange != "" && in.IfRange != etag(info) {
		return span{}, false, nil
	}
	if asked, partial, err = parseRange(in.Range, info.Size); err != nil {
		err = problem.From(err).SetHeader("Content-Range", fmt.Sprintf("bytes */%d", info.Size))
	}
	return asked, partial, err
}

// copyPart streams a part of a file, which r is at.
func copyPart(w http.ResponseWriter, r io.Reader, part span, info vmm.FileInfo) error {
	w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", part.start, part.start+part.length-1, info.Size))
	return copyExactly(w, http.StatusPartialContent, r, part.length)
}

func describe(h http.Header, f vmm.FileInfo) {
	plain(h, "application/octet-stream")
	h.Set("Etag", etag(f))
	h.Set("Last-Modified", f.ModifiedAt.UTC().Format(http.TimeFormat))
	h.Set("Accept-Ranges", "bytes")
	h.Set(wire.HeaderFileMode, octal(f.Mode))
	h.Set(wire.HeaderFileOwner, f.Owner)
	h.Set(wire.HeaderFileGroup, f.Group)
	h.Set(wire.HeaderFileType, f.Type)
	if d := mime.FormatMediaType("attachment", map[string]string{"filename": f.Name}); d != "" {
		h.Set("Content-Disposition", d)
	}
}

// etag changes when a file does: time in nanoseconds and size.
func etag(f vmm.FileInfo) string {
	return fmt.Sprintf(`"%x-%x"`, f.ModifiedAt.UnixNano(), f.Size)
}

func matches(header, tag string) bool {
	for t := range strings.SplitSeq(header, ",") {
		t = strings.TrimPrefix(strings.TrimSpace(t), "W/")
		if t == "*" || t == tag {
			return true
		}
	}
	return false
}

// span is a range of bytes.
type span struct{ start, length int64 }

// parseRange reads a Range header for a file of a size. Several ranges and
// other units are ignored, as RFC 9110 §14.2 allows. Returns OutOfRange.
func parseRange(header string, size int64) (s span, ok bool, err error) {
	spec, isBytes := strings.CutPrefix(header, "bytes=")
	if !isBytes || strings.Contains(spec, ",") {
		return span{}, false, nil
	}
	first, last, dash := strings.Cut(strings.TrimSpace(spec), "-")
	if !dash {
		return span{}, false, nil
	}
	outside := errors.New(errors.OutOfRange, "the range lies outside of the file's %d bytes", size)
	if first == "" { // the last so many bytes
		n, err := strconv.ParseUint(last, 10, 63)
		switch {
		case err != nil:
			return span{}, false, nil //nolint:nilerr // a malformed header is ignored
		case n == 0 || size == 0:
			return span{}, false, outside
		}
		length := min(int64(n), size)
		return span{size - length, length}, true, nil
	}
	start, err := strconv.ParseUint(first, 10, 63)
	if err != nil {
		return span{}, false, nil //nolint:nilerr // a malformed header is ignored
	}
	if int64(start) >= size {
		return span{}, false, outside
	}
	end := size - 1
	if last != "" {
		n, err := strconv.ParseUint(last, 10, 63)
		if err != nil || n < start {
			return span{}, false, nil //nolint:nilerr // a malformed header is ignored
		}
		end = min(end, int64(n))
	}
	return span{int64(start), end - int64(start) + 1}, true, nil
}

// copyOut streams all of r. When it breaks off, so does the connection.
func copyOut(w http.ResponseWriter, r io.Reader) error {
	_, err := bulk.Copy(w, r)
	return err
}

// copyExactly streams n bytes of r, no more even if the file has grown. Fewer
// are an error, which breaks the connection.
func copyExactly(w http.ResponseWriter, status int, r io.Reader, n int64) error {
	w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
	w.WriteHeader(status)
	cr := &countReader{r: io.LimitReader(r, n)}
	if err := copyOut(w, cr); err != nil {
		return err
	}
	if cr.n < n {
		return errors.New(errors.Conflict, "the file became shorter while it was read")
	}
	return nil
}

type countReader struct {
	r io.Reader
	n int64
}

func (c *countReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}
