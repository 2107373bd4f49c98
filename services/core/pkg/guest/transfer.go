package guest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/bulk"
	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// Read opens a file: its description and a stream of the asked range. The
// stream is as long as the range or fails. Returns NotFound, InvalidArgument
// for what is no file, PermissionDenied, OutOfRange for a start after the end.
func (c *Client) Read(ctx context.Context, path string, o vmm.FileOptions) (vmm.FileInfo, io.ReadCloser, error) {
	if o.Offset < 0 || o.Length < 0 {
		return vmm.FileInfo{}, nil, errors.New(errors.InvalidArgument, "a range begins at 0 or later").WithField("offset")
	}
	info, err := c.Stat(ctx, path, o)
	if err != nil {
		return vmm.FileInfo{}, nil, err
	}
	header := http.Header{}
	ranged := o.Offset > 0 || o.Length > 0
	if ranged {
		if o.Offset > info.Size {
			return vmm.FileInfo{}, nil, errors.New(errors.OutOfRange, "the file has %d bytes", info.Size).WithField("offset")
		}
		if o.Offset == info.Size {
			return info, http.NoBody, nil
		}
		last := ""
		if o.Length > 0 && o.Length <= info.Size-o.Offset {
			last = strconv.FormatInt(o.Offset+o.Length-1, 10)
		}
		header.Set("Range", fmt.Sprintf("bytes=%d-%s", o.Offset, last))
	}
	resp, err := c.transfer(ctx, http.MethodGet, "/aetherium/file", query(path, o.User), header, nil, "reading a file")
	if err != nil {
		return vmm.FileInfo{}, nil, err
	}
	if ranged && resp.StatusCode != http.StatusPartialContent {
		_ = resp.Body.Close()
		return vmm.FileInfo{}, nil, errors.New(errors.GuestFault, "the guest agent sent the whole file for a part")
	}
	body := resp.Body
	if o.Length > 0 {
		body = limited{io.LimitReader(body, o.Length), body}
	}
	return info, body, nil
}

// Write replaces a file with what r yields, atomically, and returns its
// description. A reader that fails leaves the old file. Returns
// InvalidArgument, PermissionDenied, NoSpace, and r's own error.
func (c *Client) Write(ctx context.Context, path string, r io.Reader, o vmm.FileOptions) (vmm.FileInfo, error) {
	q := query(path, o.User)
	if o.Mode != 0 {
		q.Set("mode", strconv.FormatUint(uint64(o.Mode&0o7777), 8))
	}
	resp, err := c.transfer(ctx, http.MethodPut, "/aetherium/file", q, nil, r, "writing a file")
	if err != nil {
		return vmm.FileInfo{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	var info vmm.FileInfo
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxErrorBody)).Decode(&info); err != nil || len(info.Name) > maxPath || len(info.Path) > maxPath {
		return vmm.FileInfo{}, errors.Wrap(err, errors.GuestFault, "the guest agent answered nonsense while writing a file")
	}
	return info, nil
}

// TarDown streams a tar of a file or directory tree. A stream that breaks
// yields an error, not a short archive. Returns NotFound, PermissionDenied.
func (c *Client) TarDown(ctx context.Context, path string, o vmm.FileOptions) (io.ReadCloser, error) {
	resp, err := c.transfer(ctx, http.MethodGet, "/aetherium/tar", query(path, o.User), nil, nil, "packing files")
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// TarUp unpacks a tar below a directory. Returns InvalidArgument for an archive
// that is broken or would leave the directory, PermissionDenied, NoSpace, and
// r's own error.
func (c *Client) TarUp(ctx context.Context, path string, r io.Reader, o vmm.FileOptions) error {
	resp, err := c.transfer(ctx, http.MethodPut, "/aetherium/tar", query(path, o.User), nil, r, "unpacking files")
	if err != nil {
		return err
	}
	_ = resp.Body.Close()
	return nil
}

// TarUpFor is TarUp as root, with what is unpacked given to an owner. The
// directory is part of the guest's system: where a directory of the archive
// meets a link to one, the link stays.
func (c *Client) TarUpFor(ctx context.Context, path string, r io.Reader, uid, gid int) error {
	q := query(path, "root")
	q.Set("owner", strconv.Itoa(uid)+":"+strconv.Itoa(gid))
	resp, err := c.transfer(ctx, http.MethodPut, "/aetherium/tar", q, nil, r, "unpacking files")
	if err != nil {
		return err
	}
	_ = resp.Body.Close()
	return nil
}

func query(path, user string) url.Values {
	q := url.Values{"path": {path}}
	if user != "" {
		q.Set("username", user)
	}
	return q
}

// transfer makes an HTTP call whose body, either way, may be long. What is
// limited in time is the wait for the agent while it has all it needs.
func (c *Client) transfer(ctx context.Context, method, endpoint string, q url.Values, header http.Header, body io.Reader, what string) (*http.Response, error) {
	if err := checkPath("path", q.Get("path")); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	// It runs whenever the agent is to do something and ends the call when the
	// agent does nothing for long.
	clock := time.AfterFunc(c.o.FileTimeout, func() { cancel(errSlow) })
	req, err := http.NewRequestWithContext(ctx, method, base+endpoint+"?"+q.Encode(), nil)
	if err != nil {
		clock.Stop()
		cancel(nil)
		return nil, errors.Wrap(err, errors.Internal, "the request to the guest agent cannot be made")
	}
	up := &upload{r: body, clock: clock, limit: c.o.FileTimeout}
	if body != nil {
		req.Body = up
	}
	for k, v := range header {
		req.Header[k] = v
	}
	resp, err := c.web().bulk.Do(req)
	up.finish()
	if err != nil {
		defer cancel(nil)
		if own := up.failure(); own != nil && ctx.Err() == nil {
			return nil, own
		}
		return nil, fault(ctx, err, what)
	}
	if resp.StatusCode/100 != 2 {
		defer cancel(nil)
		defer func() { _ = resp.Body.Close() }()
		return nil, httpFault(resp, what)
	}
	resp.Body = &download{ReadCloser: resp.Body, ctx: ctx, cancel: cancel, clock: clock, limit: c.o.FileTimeout, what: what}
	return resp, nil
}

// httpFault reads the agent's {code, message}.
func httpFault(resp *http.Response, what string) error {
	var body struct {
		Code    errors.Code `json:"code"`
		Message string      `json:"message"`
	}
	err := json.NewDecoder(io.LimitReader(resp.Body, maxErrorBody)).Decode(&body)
	if err != nil || body.Message == "" {
		return errors.Wrap(err, errors.GuestFault, "the guest agent answered %d without a reason while %s", resp.StatusCode, what)
	}
	switch body.Code {
	case errors.InvalidArgument, errors.NotFound, errors.AlreadyExists, errors.Conflict, errors.PermissionDenied, errors.TooLarge,
		errors.CapacityExhausted, errors.NoSpace, errors.Unsupported, errors.Unavailable, errors.OutOfRange:
		return errors.New(body.Code, "%s", clean(body.Message))
	case errors.Unauthenticated: // the only credential is an OS user's name
		return errors.New(errors.InvalidArgument, "%s", clean(body.Message)).WithField("user")
	}
	return errors.New(errors.GuestFault, "the guest agent failed while %s: %s", what, clean(body.Message))
}

// upload passes a caller's bytes on and remembers the caller's own failure, so
// that it is not blamed on the guest. The clock stands still while the caller
// is read from.
type upload struct {
	r     io.Reader
	clock *time.Timer
	limit time.Duration

	mu   sync.Mutex
	err  error
	done bool
}

func (u *upload) Read(p []byte) (int, error) {
	u.mu.Lock()
	if !u.done { // else the clock is the download's
		u.clock.Stop()
	}
	u.mu.Unlock()
	n, err := u.r.Read(p)
	u.mu.Lock()
	defer u.mu.Unlock()
	if err != nil && !errors.Is(err, io.EOF) {
		u.err = err
	}
	if !u.done {
		u.clock.Reset(u.limit)
	}
	return n, err
}

// WriteTo has net/http pass on larger pieces than its own.
func (u *upload) WriteTo(w io.Writer) (int64, error) { return bulk.Copy(w, u) }

// Close leaves the reader to its owner.
func (u *upload) Close() error { return nil }

func (u *upload) failure() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.err
}

// finish stops the clock for good: there is an answer.
func (u *upload) finish() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.done = true
	u.clock.Stop()
}

// download is an answer's body whose errors are in our vocabulary. The clock
// runs while the agent is waited for, not while the caller does something else.
type download struct {
	io.ReadCloser
	ctx    context.Context
	cancel context.CancelCauseFunc
	clock  *time.Timer
	limit  time.Duration
	what   string
}

func (d *download) Read(p []byte) (int, error) {
	d.clock.Reset(d.limit)
	n, err := d.ReadCloser.Read(p)
	d.clock.Stop()
	if err != nil && !errors.Is(err, io.EOF) {
		err = fault(d.ctx, err, d.what)
	}
	return n, err
}

func (d *download) Close() error {
	defer d.cancel(nil)
	return d.ReadCloser.Close()
}

type limited struct {
	io.Reader
	io.Closer
}
