package cgroup

import (
	"context"
	"os"
	"strings"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"golang.org/x/sys/unix"
)

// Freeze stops every process of the group and returns when all stand still.
// A frozen group is success. Returns NotFound when the group is gone. When it
// fails, the group runs.
func (g Group) Freeze(ctx context.Context) error {
	var err error
	if g.host.unified {
		err = g.freeze2(ctx)
	} else {
		err = g.freeze1(ctx)
	}
	if err == nil {
		return nil
	}
	return errors.Join(frozenError(err), g.Thaw())
}

// Thaw lets a group go on. A group that runs, or is gone, is success.
func (g Group) Thaw() error {
	file, value := "freezer.state", "THAWED"
	if g.host.unified {
		file, value = "cgroup.freeze", "0"
	}
	err := os.WriteFile(g.file("freezer", file), []byte(value), 0)
	if err == nil || os.IsNotExist(err) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return errors.Wrap(err, errors.Internal, "cannot thaw the control group")
}

// Frozen reports whether the group stands still. One that is gone does not.
func (g Group) Frozen() bool {
	if g.host.unified {
		table, _ := readTable(g.file("", "cgroup.events"))
		return table["frozen"] == 1
	}
	raw, _ := os.ReadFile(g.file("freezer", "freezer.state"))
	return strings.TrimSpace(string(raw)) == "FROZEN"
}

func frozenError(err error) error {
	var coded *errors.Error
	switch {
	case errors.As(err, &coded), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case os.IsNotExist(err), errors.Is(err, unix.ENODEV):
		return errors.Wrap(err, errors.NotFound, "the control group is gone")
	}
	return errors.Wrap(err, errors.Internal, "cannot freeze the control group")
}

// freeze2 writes the wish and waits for the kernel's notice on cgroup.events.
func (g Group) freeze2(ctx context.Context) error {
	events, err := os.Open(g.file("", "cgroup.events"))
	if err != nil {
		return err
	}
	defer events.Close()
	if err := os.WriteFile(g.file("", "cgroup.freeze"), []byte("1"), 0); err != nil {
		return err
	}
	return AwaitFrozen(ctx, events)
}

// AwaitFrozen waits until all processes of a group of version 2 that was asked to
// stop stand still, which its cgroup.events tells.
func AwaitFrozen(ctx context.Context, events *os.File) error {
	buf := make([]byte, 256)
	for {
		n, err := events.ReadAt(buf, 0)
		if n == 0 {
			return err
		}
		if strings.Contains(string(buf[:n]), "frozen 1") {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		// The notice is a priority event; the timeout is for the context only.
		fds := []unix.PollFd{{Fd: int32(events.Fd()), Events: unix.POLLPRI}}
		if _, err := unix.Poll(fds, 50); err != nil && err != unix.EINTR {
			return err
		}
	}
}

// freeze1 writes the wish and reads until it holds: in version 1 there is no
// notice to wait for. The kernel can miss a thread that is made meanwhile and
// then never gets done; a thaw and another wish help (runc's manager does the same).
func (g Group) freeze1(ctx context.Context) error {
	const patience = 5 * time.Millisecond // doubled with each try: processes that wait for a disk stop late
	for try := patience; ; try *= 2 {
		frozen, err := g.tryFreeze1(ctx, try)
		if frozen || err != nil {
			return err
		}
		if err := g.Thaw(); err != nil {
			return err
		}
		if err := sleep(ctx, time.Millisecond); err != nil {
			return err
		}
	}
}

func (g Group) tryFreeze1(ctx context.Context, most time.Duration) (bool, error) {
	file := g.file("freezer", "freezer.state")
	if err := os.WriteFile(file, []byte("FROZEN"), 0); err != nil {
		return false, err
	}
	end := time.Now().Add(most)
	for wait := 20 * time.Microsecond; ; wait *= 2 {
		raw, err := os.ReadFile(file) // reading makes the kernel look again
		if err != nil {
			return false, err
		}
		if strings.TrimSpace(string(raw)) == "FROZEN" {
			return true, nil
		}
		if time.Now().After(end) {
			return false, nil
		}
		if err := sleep(ctx, wait); err != nil {
			return false, err
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
