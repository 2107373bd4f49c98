package guest

import (
	"context"
	"encoding/base64"
	"net/http"
	"time"

	"connectrpc.com/connect"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	filesystempb "github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/filesystem"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

const (
	maxPath     = 4096    // PATH_MAX of Linux
	maxEntries  = 100_000 // of one listing
	maxDepth    = 64
	maxMetadata = 64
)

// checkPath refuses what no guest could have as a path.
func checkPath(field, path string) error {
	if path == "" || len(path) > maxPath {
		return errors.New(errors.InvalidArgument, "a path has 1 to %d bytes", maxPath).WithField(field)
	}
	for i := range len(path) {
		if path[i] == 0 {
			return errors.New(errors.InvalidArgument, "a path has no NUL").WithField(field)
		}
	}
	return nil
}

// as gives a call the rights of an OS user.
func as[T any](m *T, user string) *connect.Request[T] {
	req := connect.NewRequest(m)
	setUser(req.Header(), user)
	return req
}

func setUser(h http.Header, user string) {
	if user != "" {
		h.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(user+":")))
	}
}

// Stat describes a file. Returns NotFound, InvalidArgument, PermissionDenied, GuestFault.
func (c *Client) Stat(ctx context.Context, path string, o vmm.FileOptions) (vmm.FileInfo, error) {
	if err := checkPath("path", path); err != nil {
		return vmm.FileInfo{}, err
	}
	resp, err := bounded(ctx, c.o.FileTimeout, "looking at a file", func(ctx context.Context) (*connect.Response[filesystempb.StatResponse], error) {
		return c.web().files.Stat(ctx, as(&filesystempb.StatRequest{Path: path}, o.User))
	})
	if err != nil {
		return vmm.FileInfo{}, err
	}
	return fileInfo(resp.Msg.GetEntry())
}

// List lists a directory down to a depth (0 means 1), at most 100,000 entries,
// else it is TooLarge. Returns NotFound, InvalidArgument for what is no directory.
func (c *Client) List(ctx context.Context, path string, depth int, o vmm.FileOptions) ([]vmm.FileInfo, error) {
	if err := checkPath("path", path); err != nil {
		return nil, err
	}
	if depth < 0 || depth > maxDepth {
		return nil, errors.New(errors.InvalidArgument, "the depth must be between 0 and %d", maxDepth).WithField("depth")
	}
	resp, err := bounded(ctx, c.o.FileTimeout, "listing a directory", func(ctx context.Context) (*connect.Response[filesystempb.ListDirResponse], error) {
		return c.web().files.ListDir(ctx, as(&filesystempb.ListDirRequest{Path: path, Depth: uint32(depth)}, o.User))
	})
	if err != nil {
		return nil, err
	}
	if n := len(resp.Msg.GetEntries()); n > maxEntries {
		return nil, errors.New(errors.TooLarge, "the directory has %d entries, more than %d", n, maxEntries).WithHint("list with less depth")
	}
	list := make([]vmm.FileInfo, 0, len(resp.Msg.GetEntries()))
	for _, e := range resp.Msg.GetEntries() {
		info, err := fileInfo(e)
		if err != nil {
			return nil, err
		}
		list = append(list, info)
	}
	return list, nil
}

// MakeDir makes a directory and its parents. Returns AlreadyExists, PermissionDenied.
func (c *Client) MakeDir(ctx context.Context, path string, o vmm.FileOptions) (vmm.FileInfo, error) {
	if err := checkPath("path", path); err != nil {
		return vmm.FileInfo{}, err
	}
	resp, err := bounded(ctx, c.o.FileTimeout, "making a directory", func(ctx context.Context) (*connect.Response[filesystempb.MakeDirResponse], error) {
		return c.web().files.MakeDir(ctx, as(&filesystempb.MakeDirRequest{Path: path}, o.User))
	})
	if err != nil {
		return vmm.FileInfo{}, err
	}
	return fileInfo(resp.Msg.GetEntry())
}

// Move renames a file or directory, making the target's parents. Returns NotFound.
func (c *Client) Move(ctx context.Context, from, to string, o vmm.FileOptions) (vmm.FileInfo, error) {
	if err := errors.Join(checkPath("from", from), checkPath("to", to)); err != nil {
		return vmm.FileInfo{}, err
	}
	resp, err := bounded(ctx, c.o.FileTimeout, "moving a file", func(ctx context.Context) (*connect.Response[filesystempb.MoveResponse], error) {
		return c.web().files.Move(ctx, as(&filesystempb.MoveRequest{Source: from, Destination: to}, o.User))
	})
	if err != nil {
		return vmm.FileInfo{}, err
	}
	return fileInfo(resp.Msg.GetEntry())
}

// Remove removes a file or a whole directory; absent is success.
func (c *Client) Remove(ctx context.Context, path string, o vmm.FileOptions) error {
	if err := checkPath("path", path); err != nil {
		return err
	}
	_, err := bounded(ctx, c.o.FileTimeout, "removing a file", func(ctx context.Context) (*connect.Response[filesystempb.RemoveResponse], error) {
		return c.web().files.Remove(ctx, as(&filesystempb.RemoveRequest{Path: path}, o.User))
	})
	return err
}

// Watch reports changes in a directory until ctx ends or the agent does; the
// channel is then closed. Events that nobody takes are held by the agent, not here.
// Returns NotFound, InvalidArgument for what is no directory.
func (c *Client) Watch(ctx context.Context, path string, recursive bool, o vmm.FileOptions) (<-chan vmm.FileEvent, error) {
	if err := checkPath("path", path); err != nil {
		return nil, err
	}
	streamCtx, cancel := context.WithCancelCause(ctx)
	slow := time.AfterFunc(c.o.FileTimeout, func() { cancel(errSlow) })
	str, err := c.web().files.WatchDir(streamCtx, as(&filesystempb.WatchDirRequest{Path: path, Recursive: recursive}, o.User))
	if err == nil && !str.Receive() { // the start event: from here on nothing is missed
		err = str.Err()
		if err == nil {
			err = errors.New(errors.GuestFault, "the guest agent closed the watch at once")
		}
	}
	slow.Stop()
	if err != nil {
		defer cancel(nil)
		return nil, fault(streamCtx, err, "watching a directory")
	}
	events := make(chan vmm.FileEvent, 64)
	go func() {
		defer close(events)
		defer cancel(nil)
		for str.Receive() {
			e, ok := fileEvent(str.Msg())
			if !ok {
				continue
			}
			select {
			case events <- e:
			case <-streamCtx.Done():
				return
			}
		}
	}()
	return events, nil
}

var eventNames = map[filesystempb.EventType]string{
	filesystempb.EventType_EVENT_TYPE_CREATE: "create",
	filesystempb.EventType_EVENT_TYPE_WRITE:  "write",
	filesystempb.EventType_EVENT_TYPE_REMOVE: "remove",
	filesystempb.EventType_EVENT_TYPE_RENAME: "rename",
	filesystempb.EventType_EVENT_TYPE_CHMOD:  "chmod",
}

// fileEvent drops keep-alives and what is no event.
func fileEvent(m *filesystempb.WatchDirResponse) (vmm.FileEvent, bool) {
	e := m.GetFilesystem()
	name, ok := eventNames[e.GetType()]
	if !ok || len(e.GetName()) > maxPath {
		return vmm.FileEvent{}, false
	}
	return vmm.FileEvent{Type: name, Path: e.GetName()}, true
}

// fileInfo checks and translates what the agent says of a file. Names are the
// guest's own and pass as they are; they are data, not text for terminals.
func fileInfo(e *filesystempb.EntryInfo) (vmm.FileInfo, error) {
	if e == nil || e.GetName() == "" || len(e.GetName()) > maxPath || len(e.GetPath()) > maxPath || len(e.GetSymlinkTarget()) > maxPath ||
		len(e.GetOwner()) > 256 || len(e.GetGroup()) > 256 || e.GetSize() < 0 || len(e.GetMetadata()) > maxMetadata {
		return vmm.FileInfo{}, errors.New(errors.GuestFault, "the guest agent described a file out of bounds")
	}
	info := vmm.FileInfo{
		Name: e.GetName(), Path: e.GetPath(), Type: "other", Size: e.GetSize(), Mode: e.GetMode() & 0o7777,
		Owner: e.GetOwner(), Group: e.GetGroup(), SymlinkTarget: e.GetSymlinkTarget(), Metadata: e.GetMetadata(),
	}
	switch e.GetType() {
	case filesystempb.FileType_FILE_TYPE_FILE:
		info.Type = "file"
	case filesystempb.FileType_FILE_TYPE_DIRECTORY:
		info.Type = "dir"
	case filesystempb.FileType_FILE_TYPE_SYMLINK:
		info.Type = "symlink"
	}
	if t := e.GetModifiedTime(); t.IsValid() {
		info.ModifiedAt = t.AsTime()
	}
	return info, nil
}
