package client

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"github.com/aetherium/aetherium/libs/common/pkg/bulk"
	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
)

// File names a file in a VM, where a relative path starts at the user's home,
// or in a volume. Of a volume there is no tar.
type File struct {
	VM     string
	Volume string // in the place of VM
	Path   string
	User   string // whose rights count in a VM; empty: its default user
}

// at are the segments of what is done to files where this one is.
func (f File) at(segments ...string) []string {
	if f.Volume != "" {
		return append([]string{"volumes", f.Volume, "files"}, segments...)
	}
	return append([]string{"vms", f.VM, "files"}, segments...)
}

func (f File) call(method string, segments ...string) call {
	cl := call{method: method, path: f.at(segments...), length: -1}.param("path", f.Path)
	if f.User != "" {
		cl = cl.param("user", f.User)
	}
	return cl
}

// StatFile describes a file. Returns NotFound.
func (c *Client) StatFile(ctx context.Context, f File) (api.FileInfo, error) {
	return fetch[api.FileInfo](ctx, c, f.call(http.MethodGet, "stat").repeatable())
}

// MakeDir makes a directory and its missing parents. A directory that is
// there already is success.
func (c *Client) MakeDir(ctx context.Context, f File) error {
	body := api.MakeDir{Path: f.Path, User: f.User}
	_, err := fetch[api.FileInfo](ctx, c, post(body, f.at("mkdir")...).repeatable())
	if errors.HasCode(err, errors.AlreadyExists) {
		return nil
	}
	return err
}

// ListFiles lists a directory, so many levels deep, at least one.
func (c *Client) ListFiles(ctx context.Context, f File, depth int) ([]api.FileInfo, error) {
	l, err := fetch[api.List[api.FileInfo]](ctx, c, f.call(http.MethodGet, "list").param("depth", strconv.Itoa(depth)).repeatable())
	return l.Items, err
}

// RemoveFile removes a file or a directory with what is in it.
func (c *Client) RemoveFile(ctx context.Context, f File) error {
	return c.perform(ctx, f.call(http.MethodDelete).repeatable())
}

// ReadFile writes a file's bytes to w and returns how many there were. A
// download that breaks goes on where it stood, as long as the file is the
// same; returns Conflict where it has changed meanwhile.
func (c *Client) ReadFile(ctx context.Context, f File, w io.Writer) (int64, error) {
	sink := &countingWriter{w: w}
	etag := ""
	for b := c.backoff(); ; {
		before := sink.n
		err := c.readRest(ctx, f, sink, &etag)
		if err == nil || sink.err != nil {
			return sink.n, err
		}
		if sink.n > before {
			b.reset()
		}
		if sink.n > 0 && etag == "" || !c.worthRepeating(ctx, err) || !b.wait(ctx, err) {
			return sink.n, err
		}
	}
}

func (c *Client) readRest(ctx context.Context, f File, sink *countingWriter, etag *string) error {
	cl := f.call(http.MethodGet).repeatable()
	if sink.n > 0 {
		cl = cl.with("Range", fmt.Sprintf("bytes=%d-", sink.n)).with("If-Range", *etag)
	}
	resp, err := c.open(ctx, cl)
	if err != nil {
		if sink.n > 0 && errors.HasCode(err, errors.OutOfRange) {
			return changed(f)
		}
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if sink.n > 0 && resp.StatusCode != http.StatusPartialContent {
		return changed(f)
	}
	*etag = resp.Header.Get("ETag")
	if _, err = bulk.Copy(sink, resp.Body); err != nil && sink.err == nil {
		return c.unreachable(ctx, err)
	}
	return err
}

func changed(f File) error {
	return errors.New(errors.Conflict, "%s changed while it was copied", f.Path).WithHint("copy it again")
}

// WriteFile replaces a file as a whole: readers see the old content or the
// new. size is -1 where it is not known; mode's permission bits are for a new file, 0: 0644.
func (c *Client) WriteFile(ctx context.Context, f File, r io.Reader, size int64, mode uint32) (api.FileInfo, error) {
	cl := f.call(http.MethodPut)
	if mode != 0 {
		cl = cl.param("mode", "0"+strconv.FormatUint(uint64(mode), 8))
	}
	cl.stream, cl.length = r, size
	return fetch[api.FileInfo](ctx, c, cl.with("Content-Type", "application/octet-stream"))
}

// ReadTar opens a tar stream of a directory tree; the names in it are
// relative to the directory. The caller closes it.
func (c *Client) ReadTar(ctx context.Context, f File) (io.ReadCloser, error) {
	resp, err := c.open(ctx, f.call(http.MethodGet, "tar").repeatable())
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// WriteTar unpacks a tar stream below a directory in the VM. Entries that
// would leave it are refused there.
func (c *Client) WriteTar(ctx context.Context, f File, r io.Reader) error {
	cl := f.call(http.MethodPut, "tar").with("Content-Type", "application/x-tar")
	cl.stream = r
	return c.perform(ctx, cl)
}
