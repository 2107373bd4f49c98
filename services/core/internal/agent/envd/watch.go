package envd

import (
	"context"
	"crypto/rand"
	"path/filepath"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/internal/agent/watch"
	"github.com/aetherium/aetherium/services/core/internal/agent/wire"
	filesystempb "github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/filesystem"
)

const (
	maxWatchers = 256
	// abandoned is when a polled watcher gives way to a new one.
	abandoned = 10 * time.Minute
)

// Watchers are the watchers of clients that poll, and the count of all.
type Watchers struct {
	mu     sync.Mutex
	count  int
	polled map[string]*polled
}

type polled struct {
	*watch.Watcher
	withEntry bool
}

// reserve takes one of the places, at the expense of a watcher that nobody has
// asked for long if need be. Returns CapacityExhausted.
func (s *Watchers) reserve() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.count >= maxWatchers {
		for id, w := range s.polled {
			if w.Idle() > abandoned {
				delete(s.polled, id)
				w.Close()
				s.count--
				break
			}
		}
	}
	if s.count >= maxWatchers {
		return errors.New(errors.CapacityExhausted, "more than %d directories are watched", maxWatchers)
	}
	s.count++
	return nil
}

func (s *Watchers) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count--
}

func (s *Watchers) add(w *polled) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.polled == nil {
		s.polled = map[string]*polled{}
	}
	id := rand.Text()
	s.polled[id] = w
	return id
}

func (s *Watchers) get(id string) (*polled, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w, ok := s.polled[id]; ok {
		return w, nil
	}
	return nil, errors.New(errors.NotFound, "no watcher %.64q is known", id)
}

func (s *Watchers) remove(id string) bool {
	s.mu.Lock()
	w, ok := s.polled[id]
	delete(s.polled, id)
	s.mu.Unlock()
	if ok {
		w.Close()
		s.release()
	}
	return ok
}

// Clear ends the watchers of clients that poll.
func (s *Watchers) Clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, w := range s.polled {
		delete(s.polled, id)
		w.Close()
		s.count--
	}
}

// WatchDir streams changes until the client goes.
func (f *Filesystem) WatchDir(ctx context.Context, req *connect.Request[filesystempb.WatchDirRequest], out *connect.ServerStream[filesystempb.WatchDirResponse]) error {
	u, path, err := f.target(req.Header(), req.Msg.GetPath())
	if err != nil {
		return wire.Connect(err)
	}
	if err := f.Watchers.reserve(); err != nil {
		return wire.Connect(err)
	}
	defer f.Watchers.release()
	w, err := watch.New(u, path, req.Msg.GetRecursive(), req.Msg.GetAllowNetworkMounts())
	if err != nil {
		return wire.Connect(err)
	}
	defer w.Close()
	err = out.Send(&filesystempb.WatchDirResponse{Event: &filesystempb.WatchDirResponse_Start{
		Start: &filesystempb.WatchDirResponse_StartEvent{},
	}})
	if err != nil {
		return err
	}
	interval := keepalive(req.Header())
	silence := time.NewTicker(interval)
	defer silence.Stop()
	for {
		events, dropped, more := w.Take()
		if dropped {
			return wire.Connect(errors.New(errors.CapacityExhausted, "changes came faster than they were read and some were lost"))
		}
		for _, e := range events {
			err := out.Send(&filesystempb.WatchDirResponse{Event: &filesystempb.WatchDirResponse_Filesystem{
				Filesystem: f.event(w, e, req.Msg.GetIncludeEntry()),
			}})
			if err != nil {
				return err
			}
		}
		if len(events) > 0 {
			silence.Reset(interval)
		}
		select {
		case <-more:
		case <-silence.C:
			err := out.Send(&filesystempb.WatchDirResponse{Event: &filesystempb.WatchDirResponse_Keepalive{
				Keepalive: &filesystempb.WatchDirResponse_KeepAlive{},
			}})
			if err != nil {
				return err
			}
		case <-ctx.Done():
			return wire.Connect(ctx.Err())
		}
	}
}

var eventTypes = map[watch.Type]filesystempb.EventType{
	watch.Create: filesystempb.EventType_EVENT_TYPE_CREATE,
	watch.Write:  filesystempb.EventType_EVENT_TYPE_WRITE,
	watch.Remove: filesystempb.EventType_EVENT_TYPE_REMOVE,
	watch.Rename: filesystempb.EventType_EVENT_TYPE_RENAME,
	watch.Chmod:  filesystempb.EventType_EVENT_TYPE_CHMOD,
}

// event is a change as clients see it; the entry is what is there now.
func (f *Filesystem) event(w *watch.Watcher, e watch.Event, withEntry bool) *filesystempb.FilesystemEvent {
	event := &filesystempb.FilesystemEvent{Name: utf8(e.Name), Type: eventTypes[e.Type]}
	if withEntry && e.Type != watch.Remove && e.Type != watch.Rename {
		if entry, err := f.FS.Stat(w.User(), filepath.Join(w.Root(), e.Name)); err == nil {
			event.Entry = entryOf(entry)
		}
	}
	return event
}

// CreateWatcher begins to collect changes for a client that polls.
func (f *Filesystem) CreateWatcher(_ context.Context, req *connect.Request[filesystempb.CreateWatcherRequest]) (*connect.Response[filesystempb.CreateWatcherResponse], error) {
	u, path, err := f.target(req.Header(), req.Msg.GetPath())
	if err != nil {
		return nil, wire.Connect(err)
	}
	if err := f.Watchers.reserve(); err != nil {
		return nil, wire.Connect(err)
	}
	w, err := watch.New(u, path, req.Msg.GetRecursive(), req.Msg.GetAllowNetworkMounts())
	if err != nil {
		f.Watchers.release()
		return nil, wire.Connect(err)
	}
	id := f.Watchers.add(&polled{w, req.Msg.GetIncludeEntry()})
	return connect.NewResponse(&filesystempb.CreateWatcherResponse{WatcherId: id}), nil
}

// GetWatcherEvents returns the changes since the last call, all that happened
// before this one included. The oldest are gone when there were too many.
func (f *Filesystem) GetWatcherEvents(_ context.Context, req *connect.Request[filesystempb.GetWatcherEventsRequest]) (*connect.Response[filesystempb.GetWatcherEventsResponse], error) {
	w, err := f.Watchers.get(req.Msg.GetWatcherId())
	if err != nil {
		return nil, wire.Connect(err)
	}
	events, _, _ := w.Take()
	res := &filesystempb.GetWatcherEventsResponse{}
	for _, e := range events {
		res.Events = append(res.Events, f.event(w.Watcher, e, w.withEntry))
	}
	return connect.NewResponse(res), nil
}

// RemoveWatcher ends a collection.
func (f *Filesystem) RemoveWatcher(_ context.Context, req *connect.Request[filesystempb.RemoveWatcherRequest]) (*connect.Response[filesystempb.RemoveWatcherResponse], error) {
	if !f.Watchers.remove(req.Msg.GetWatcherId()) {
		return nil, wire.Connect(errors.New(errors.NotFound, "no watcher %.64q is known", req.Msg.GetWatcherId()))
	}
	return connect.NewResponse(&filesystempb.RemoveWatcherResponse{}), nil
}
