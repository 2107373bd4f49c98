package firecracker

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/firecracker/internal/api"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/fault"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/microvm"
	"golang.org/x/sys/unix"
)

// Save writes a guest's memory and devices, see [microvm.Engine]. Connections to
// its agent end by that, also when it goes on: who has one dials anew. Returns
// Conflict when the guest does not run, or runs in another release than the one
// that is installed; NoSpace.
//
// The monitor writes into a directory that is mounted in its root meanwhile.
// What is kept is a copy: it may still have the file open. Where the file system
// shares blocks, the copy costs nothing, and a guest that was saved or restored
// before writes onto such a copy of that memory only what it changed since.
func (e *Engine) Save(ctx context.Context, g microvm.Guest, to microvm.Memory, last bool,
	disk func(context.Context) error,
) (time.Duration, error) {
	h, err := e.host(ctx)
	if err != nil {
		return 0, err
	}
	f, err := formOf(h, g)
	if err == nil {
		f.Run, err = runOf(g)
	}
	if err != nil {
		return 0, err
	}
	pid, err := monitorPID(ctx, g)
	if err != nil {
		return 0, err
	}
	c := newClient(g)
	defer c.Close()
	instance, err := c.Describe(ctx)
	if err == nil {
		err = h.runs(instance)
	}
	if err != nil {
		return 0, err
	}
	s := saving{client: c, guest: g, reset: func() { e.connections.end(g) }, to: to, runs: instance.State == api.Running, last: last, disk: disk, track: e.tracks(h, g)}
	defer func() { _ = os.RemoveAll(s.stage()) }()
	if err := s.prepare(); err != nil {
		return 0, fault.Of(err, "cannot write a machine's memory")
	}
	if err := inside(pid, s.stage(), jailSave, func() error { return s.run(ctx) }); err != nil {
		return 0, fault.Of(err, "cannot write a machine's memory")
	}
	if err := s.collect(); err != nil {
		return 0, fault.Of(err, "cannot write a machine's memory")
	}
	f.Shared = s.kind == api.Diff
	if err := f.keep(to); err != nil {
		return 0, err
	}
	if s.track && !last {
		if err := writeBase(g, base{to.Dir, f.ID}); err != nil {
			return 0, err
		}
	}
	return s.stood, nil
}

// runs checks that a guest's monitor is of the release that is installed. What one
// of another writes could not be restored here: who pauses a guest would have lost
// what is in its memory, and so it goes on.
func (h *host) runs(monitor api.Instance) error {
	running, err := parseRelease("v" + monitor.Version)
	if err == nil && running != h.version {
		err = errors.New(errors.Conflict, "the machine runs in Firecracker %s, and installed is %s, which could not restore its memory", running, h.version).
			WithHint("stop it and start it, and it runs in %s; or install %s again", h.version, running)
	}
	return err
}

// saving is a guest whose memory is being written.
type saving struct {
	client *api.Client
	guest  microvm.Guest
	to     microvm.Memory
	runs   bool // the guest did, and is to again
	last   bool
	track  bool
	disk   func(context.Context) error
	reset  func() // ends the host's connections to the guest
	kind   string
	stood  time.Duration
}

func (s *saving) stage() string { return filepath.Join(s.to.Dir, stageDir) }

// prepare makes the directory that the monitor writes to, with a copy of the
// memory that its changes go onto, if there is one and copies cost nothing.
func (s *saving) prepare() error {
	if err := os.Mkdir(s.stage(), 0o700); err != nil {
		return err
	}
	s.kind = api.Full
	b, err := takeBase(s.guest)
	if err != nil {
		return err
	}
	id := int(s.guest.UID)
	if b != nil && s.track {
		copied := filepath.Join(s.stage(), memoryFile)
		switch err := share(filepath.Join(b.Dir, memoryFile), copied); {
		case err == nil:
			s.kind = api.Diff
			if err := os.Chown(copied, id, id); err != nil {
				return err
			}
		case errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT):
			return err
		default: // no such file system
			if err := os.Remove(copied); err != nil && !os.IsNotExist(err) {
				return err
			}
		}
	}
	return os.Chown(s.stage(), id, id)
}

// run has the monitor write, and the disks be copied, while the guest stands still.
func (s *saving) run(ctx context.Context) error {
	began := time.Now()
	if err := s.client.Pause(ctx); err != nil {
		return err
	}
	err := unsettle(s.guest)
	if err == nil {
		err = s.client.CreateSnapshot(ctx, api.Create{
			Type: s.kind, State: jailSave + "/" + stateFile, Memory: jailSave + "/" + memoryFile,
		})
		s.reset() // the guest was told so, whatever came of it
	}
	if err == nil {
		err = s.disk(ctx)
	}
	if s.runs && (err != nil || !s.last) {
		err = errors.Join(err, s.client.Resume(context.WithoutCancel(ctx)))
	}
	s.stood = time.Since(began)
	return err
}

// collect makes what the monitor wrote root's.
func (s *saving) collect() error {
	for _, name := range []string{memoryFile, stateFile} {
		from, to := filepath.Join(s.stage(), name), filepath.Join(s.to.Dir, name)
		err := share(from, to)
		if err != nil && !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
			err = copySparse(from, to)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// share makes a file whose blocks are those of another (FICLONE). For all to
// read: that is up to the directory.
func share(from, to string) error {
	src, dst, err := openPair(from, to)
	if err != nil {
		return err
	}
	defer src.Close()
	defer dst.Close()
	return os.NewSyscallError("FICLONE", unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())))
}

// openPair opens two files. The monitor could have put a link, a pipe or a
// device in place of the first.
func openPair(from, to string) (src, dst *os.File, err error) {
	fd, err := unix.Open(from, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, &os.PathError{Op: "open", Path: from, Err: err}
	}
	src = os.NewFile(uintptr(fd), from)
	info, err := src.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New(errors.GuestFault, "what the monitor wrote is not a file")
	}
	if err == nil {
		dst, err = os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644) // other users' monitors read it
	}
	if err != nil {
		src.Close()
		return nil, nil, err
	}
	return src, dst, nil
}

// copySparse copies a file where blocks cannot be shared; holes stay holes.
func copySparse(from, to string) error {
	src, dst, err := openPair(from, to)
	if err != nil {
		return err
	}
	defer src.Close()
	defer dst.Close()
	info, err := src.Stat()
	if err != nil {
		return err
	}
	size := info.Size()
	if err := dst.Truncate(size); err != nil {
		return err
	}
	for at := int64(0); at < size; {
		start, err := unix.Seek(int(src.Fd()), at, unix.SEEK_DATA)
		if err == unix.ENXIO { //nolint:errorlint // a raw errno
			break
		} else if err != nil {
			return os.NewSyscallError("lseek", err)
		}
		end, err := unix.Seek(int(src.Fd()), start, unix.SEEK_HOLE)
		if err != nil {
			return os.NewSyscallError("lseek", err)
		}
		if _, err := io.Copy(io.NewOffsetWriter(dst, start), io.NewSectionReader(src, start, end-start)); err != nil {
			return err
		}
		at = end
	}
	return dst.Close()
}
