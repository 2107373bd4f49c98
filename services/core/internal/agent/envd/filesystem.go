package envd

import (
	"context"
	"math"
	"net/http"
	"strings"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/aetherium/aetherium/services/core/internal/agent/access"
	"github.com/aetherium/aetherium/services/core/internal/agent/fsys"
	"github.com/aetherium/aetherium/services/core/internal/agent/osuser"
	"github.com/aetherium/aetherium/services/core/internal/agent/wire"
	filesystempb "github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/filesystem"
	"github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/filesystem/filesystempbconnect"
)

// Filesystem serves filesystem.Filesystem.
type Filesystem struct {
	Guard    *access.Guard
	FS       *fsys.FS
	Watchers *Watchers
}

var _ filesystempbconnect.FilesystemHandler = (*Filesystem)(nil)

// target finds whom a call acts as and the absolute path it is about.
func (f *Filesystem) target(h http.Header, path string) (*osuser.User, string, error) {
	u, err := f.Guard.User(h)
	if err != nil {
		return nil, "", err
	}
	path, err = fsys.Resolve(u, path)
	return u, path, err
}

// Stat describes a file.
func (f *Filesystem) Stat(_ context.Context, req *connect.Request[filesystempb.StatRequest]) (*connect.Response[filesystempb.StatResponse], error) {
	u, path, err := f.target(req.Header(), req.Msg.GetPath())
	if err != nil {
		return nil, wire.Connect(err)
	}
	e, err := f.FS.Stat(u, path)
	return connect.NewResponse(&filesystempb.StatResponse{Entry: entryOf(e)}), wire.Connect(err)
}

// MakeDir makes a directory and its parents.
func (f *Filesystem) MakeDir(_ context.Context, req *connect.Request[filesystempb.MakeDirRequest]) (*connect.Response[filesystempb.MakeDirResponse], error) {
	u, path, err := f.target(req.Header(), req.Msg.GetPath())
	if err != nil {
		return nil, wire.Connect(err)
	}
	e, err := f.FS.MakeDir(u, path)
	return connect.NewResponse(&filesystempb.MakeDirResponse{Entry: entryOf(e)}), wire.Connect(err)
}

// Move renames.
func (f *Filesystem) Move(_ context.Context, req *connect.Request[filesystempb.MoveRequest]) (*connect.Response[filesystempb.MoveResponse], error) {
	u, from, err := f.target(req.Header(), req.Msg.GetSource())
	if err != nil {
		return nil, wire.Connect(err)
	}
	to, err := fsys.Resolve(u, req.Msg.GetDestination())
	if err != nil {
		return nil, wire.Connect(err)
	}
	e, err := f.FS.Move(u, from, to)
	return connect.NewResponse(&filesystempb.MoveResponse{Entry: entryOf(e)}), wire.Connect(err)
}

// ListDir lists a directory down to a depth.
func (f *Filesystem) ListDir(_ context.Context, req *connect.Request[filesystempb.ListDirRequest]) (*connect.Response[filesystempb.ListDirResponse], error) {
	u, path, err := f.target(req.Header(), req.Msg.GetPath())
	if err != nil {
		return nil, wire.Connect(err)
	}
	list, err := f.FS.List(u, path, int(min(req.Msg.GetDepth(), math.MaxInt16)))
	if err != nil {
		return nil, wire.Connect(err)
	}
	res := &filesystempb.ListDirResponse{Entries: make([]*filesystempb.EntryInfo, 0, len(list))}
	for _, e := range list {
		res.Entries = append(res.Entries, entryOf(e))
	}
	return connect.NewResponse(res), nil
}

// Remove removes a file or directory; what is absent is removed already.
func (f *Filesystem) Remove(_ context.Context, req *connect.Request[filesystempb.RemoveRequest]) (*connect.Response[filesystempb.RemoveResponse], error) {
	u, path, err := f.target(req.Header(), req.Msg.GetPath())
	if err == nil {
		err = f.FS.Remove(u, path)
	}
	return connect.NewResponse(&filesystempb.RemoveResponse{}), wire.Connect(err)
}

var entryTypes = map[fsys.Type]filesystempb.FileType{
	fsys.File:    filesystempb.FileType_FILE_TYPE_FILE,
	fsys.Dir:     filesystempb.FileType_FILE_TYPE_DIRECTORY,
	fsys.Symlink: filesystempb.FileType_FILE_TYPE_SYMLINK,
}

func entryOf(e fsys.Entry) *filesystempb.EntryInfo {
	info := &filesystempb.EntryInfo{
		Name: utf8(e.Name), Type: entryTypes[e.Type], Path: utf8(e.Path), Size: e.Size, Mode: e.Mode,
		Permissions: e.Perm.String(), Owner: utf8(e.Owner), Group: utf8(e.Group),
		ModifiedTime: timestamppb.New(e.Time),
	}
	if e.Target != "" {
		target := utf8(e.Target)
		info.SymlinkTarget = &target
	}
	for name, value := range e.Meta {
		if info.Metadata == nil {
			info.Metadata = make(map[string]string, len(e.Meta))
		}
		info.Metadata[utf8(name)] = utf8(value)
	}
	return info
}

// utf8 makes bytes of a file system into text as protocol buffers want it: one
// name that is no UTF-8 must not make a whole directory unreadable.
func utf8(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }
