// Package watch tells changes below a directory by inotify(7), used directly:
// a client that polls must get everything that happened before its question,
// so the kernel's queue is drained when it asks, not when a reader gets to it.
package watch

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/internal/agent/fsys"
	"github.com/aetherium/aetherium/services/core/internal/agent/osuser"
	"github.com/aetherium/aetherium/services/core/pkg/watch"
)

// Type is what happened.
type Type int

// The types of events.
const (
	Create Type = iota + 1
	Write
	Remove
	Rename
	Chmod
)

// Event is a change of one file.
type Event struct {
	Name string // relative to the watched directory; "." for itself
	Type Type
}

const (
	maxEvents = 16384 // held for a client that polls; the oldest go first
	maxDirs   = 65536 // watched by one recursive watcher
	readBuf   = 16 << 10

	mask = unix.IN_CREATE | unix.IN_MODIFY | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO |
		unix.IN_ATTRIB | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR | unix.IN_EXCL_UNLINK
)

// Watcher follows one directory. It is safe for concurrent use.
type Watcher struct {
	user      *osuser.User
	root      string
	recursive bool
	file      *os.File
	done      chan struct{} // the reading goroutine has ended

	mu      sync.Mutex
	fd      int
	dirs    map[int32]string // by watch descriptor, relative to root; "." is root
	events  []Event
	dropped bool // an overflow, here or in the kernel
	change  watch.Change
	polled  time.Time
	closed  bool
}

// New watches a directory with a user's rights; with recursive, every directory
// below it that the user may read, new ones included. Returns NotFound,
// InvalidArgument for what is no directory or is on a network file system
// (whose remote changes inotify misses) without allowNetwork, CapacityExhausted.
func New(u *osuser.User, path string, recursive, allowNetwork bool) (*Watcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, limit(err, path)
	}
	w := &Watcher{
		user: u, root: path, recursive: recursive, fd: fd, polled: time.Now(),
		file: os.NewFile(uintptr(fd), "inotify"), dirs: map[int32]string{}, done: make(chan struct{}),
	}
	err = osuser.Do(u, func() error {
		if err := checkRoot(path, allowNetwork); err != nil {
			return err
		}
		return w.addLocked(".", false)
	})
	if err != nil {
		_ = w.file.Close()
		return nil, limit(err, path)
	}
	go w.run()
	return w, nil
}

func limit(err error, path string) error {
	switch {
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENOSPC), errors.Is(err, unix.ENFILE):
		return errors.Wrap(err, errors.CapacityExhausted, "the machine watches too many directories")
	case errors.Is(err, unix.ENOTDIR):
		return errors.New(errors.InvalidArgument, "%q is not a directory", path)
	}
	return fsys.Error(err, path)
}

func checkRoot(path string, allowNetwork bool) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return errors.New(errors.InvalidArgument, "%q is not a directory", path)
	}
	var fs unix.Statfs_t
	if allowNetwork {
		return nil
	}
	if err := unix.Statfs(path, &fs); err != nil {
		return err
	}
	switch uint32(fs.Type) {
	case unix.NFS_SUPER_MAGIC, unix.SMB_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC,
		unix.CEPH_SUPER_MAGIC, unix.AFS_SUPER_MAGIC, unix.CODA_SUPER_MAGIC, unix.FUSE_SUPER_MAGIC, unix.V9FS_MAGIC:
		return errors.New(errors.InvalidArgument, "%q is on a network file system, whose changes cannot be watched reliably", path)
	}
	return nil
}

// addLocked watches a directory and, if asked, those below it. What is below
// a directory that appeared is told as created: it was, and before the watch
// began. It runs with the user's rights.
func (w *Watcher) addLocked(rel string, appeared bool) error {
	if len(w.dirs) >= maxDirs {
		return unix.ENOSPC
	}
	path := filepath.Join(w.root, rel)
	flags := uint32(mask)
	if rel != "." {
		flags |= unix.IN_DONT_FOLLOW
	}
	wd, err := unix.InotifyAddWatch(w.fd, path, flags)
	if err != nil {
		return err
	}
	w.dirs[int32(wd)] = rel
	if !w.recursive {
		return nil
	}
	list, _ := os.ReadDir(path) // empty when it is gone again, or not the user's to read
	for _, entry := range list {
		below := filepath.Join(rel, entry.Name())
		if appeared {
			w.tellLocked(Event{Name: below, Type: Create})
		}
		if !entry.IsDir() {
			continue
		}
		if err := w.addLocked(below, appeared); errors.Is(err, unix.ENOSPC) {
			return err
		}
	}
	return nil
}

func (w *Watcher) tellLocked(e Event) {
	if len(w.events) >= maxEvents {
		w.events, w.dropped = w.events[1:], true
	}
	w.events = append(w.events, e)
	w.change.Notify()
}

// run drains the queue whenever there is something in it.
func (w *Watcher) run() {
	defer close(w.done)
	raw, err := w.file.SyscallConn()
	if err != nil {
		return
	}
	for err == nil {
		err = raw.Read(func(uintptr) bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.drainLocked()
		})
	}
}

// drainLocked takes everything from the kernel's queue and reports whether
// there was anything.
func (w *Watcher) drainLocked() (some bool) {
	if w.closed {
		return true
	}
	var buf [readBuf]byte
	for {
		n, err := unix.Read(w.fd, buf[:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n < unix.SizeofInotifyEvent {
			return some
		}
		some = true
		w.parseLocked(buf[:n])
	}
}

func (w *Watcher) parseLocked(b []byte) {
	for len(b) >= unix.SizeofInotifyEvent {
		raw := (*unix.InotifyEvent)(unsafe.Pointer(&b[0]))
		size := unix.SizeofInotifyEvent + int(raw.Len)
		if size > len(b) {
			return
		}
		name := strings.TrimRight(string(b[unix.SizeofInotifyEvent:size]), "\x00")
		w.eventLocked(raw.Wd, raw.Mask, name)
		b = b[size:]
	}
}

func (w *Watcher) eventLocked(wd int32, bits uint32, name string) {
	if bits&unix.IN_Q_OVERFLOW != 0 {
		w.dropped = true
		return
	}
	dir, known := w.dirs[wd]
	if !known {
		return
	}
	if bits&unix.IN_IGNORED != 0 {
		delete(w.dirs, wd)
		return
	}
	rel := filepath.Join(dir, name)
	if name == "" && dir != "." || strings.HasPrefix(name, fsys.TempPrefix) {
		return // the parent tells it, or the name that a written file takes
	}
	for _, m := range []struct {
		bits uint32
		what Type
	}{
		{unix.IN_CREATE | unix.IN_MOVED_TO, Create},
		{unix.IN_MOVED_FROM | unix.IN_MOVE_SELF, Rename},
		{unix.IN_ATTRIB, Chmod},
		{unix.IN_MODIFY, Write},
		{unix.IN_DELETE | unix.IN_DELETE_SELF, Remove},
	} {
		if bits&m.bits != 0 {
			w.tellLocked(Event{Name: rel, Type: m.what})
		}
	}
	if w.recursive && bits&unix.IN_ISDIR != 0 && name != "" {
		w.followLocked(rel, bits)
	}
}

// followLocked keeps the watches of directories below in step.
func (w *Watcher) followLocked(rel string, bits uint32) {
	if bits&unix.IN_MOVED_FROM != 0 {
		// Its watches would go on under its old name, also outside the root.
		for wd, dir := range w.dirs {
			if dir == rel || strings.HasPrefix(dir, rel+"/") {
				_, _ = unix.InotifyRmWatch(w.fd, uint32(wd))
				delete(w.dirs, wd)
			}
		}
	}
	if bits&(unix.IN_CREATE|unix.IN_MOVED_TO) != 0 {
		err := osuser.Do(w.user, func() error { return w.addLocked(rel, bits&unix.IN_CREATE != 0) })
		if errors.Is(err, unix.ENOSPC) {
			w.dropped = true
		}
	}
}

// Take returns the events since the last call, all that happened before this
// call included, with a channel that is closed when there are more. dropped
// tells that some were lost because there were too many.
func (w *Watcher) Take() (events []Event, dropped bool, changed <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.drainLocked()
	events, dropped = w.events, w.dropped
	w.events, w.dropped, w.polled = nil, false, time.Now()
	return events, dropped, w.change.Next()
}

// Idle is how long nobody has asked.
func (w *Watcher) Idle() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Since(w.polled)
}

// Root is the watched directory.
func (w *Watcher) Root() string { return w.root }

// User is whose rights count.
func (w *Watcher) User() *osuser.User { return w.user }

// Close ends the watch.
func (w *Watcher) Close() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	_ = w.file.Close()
	<-w.done
}
