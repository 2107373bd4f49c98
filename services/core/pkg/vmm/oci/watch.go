package oci

import (
	"context"
	"os"
	"sync/atomic"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"golang.org/x/sys/unix"
)

// watch follows a machine's first process to its end.
type watch struct {
	process process
	fd      *pidfd
	done    chan struct{} // closed when exit is set, or the watch was abandoned
	exit    *vmm.Exit     // nil when abandoned
	killed  atomic.Bool   // we ended it
}

// follow gives the watch of a machine's process, starting one if need be.
// It returns nil when the process has ended and nobody watched.
func (d *Driver) follow(id string, p *process) (*watch, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	m := d.machines[id]
	if m != nil && m.watch != nil && m.watch.process == *p {
		return m.watch, nil
	}
	if d.closed {
		return nil, errors.New(errors.Unavailable, "the driver is closed")
	}
	fd, err := d.openProcess(p)
	if err == unix.ESRCH { //nolint:errorlint // a raw errno
		return nil, nil
	} else if err != nil {
		return nil, errors.Wrap(err, errors.Internal, "cannot watch the machine's process")
	}
	if m == nil {
		m = &machine{turn: make(chan struct{}, 1)}
		m.turn <- struct{}{}
		d.machines[id] = m
	}
	w := &watch{process: *p, fd: fd, done: make(chan struct{})}
	m.watch = w
	go d.attend(id, m, w)
	return w, nil
}

// attend waits for the end and keeps it beside the machine's record.
func (d *Driver) attend(id string, m *machine, w *watch) {
	defer close(w.done)
	err := w.fd.wait()
	if err == nil {
		exit := d.autopsy(id, w)
		w.exit = &exit
		if err := d.keepExit(id, w); err != nil {
			d.log.Warn("cannot keep how a machine ended", "machine", id, "error", err)
		}
	}
	w.fd.close()
	d.mu.Lock()
	defer d.mu.Unlock()
	if m.watch == w {
		m.watch = nil
		if m.users == 0 {
			delete(d.machines, id)
		}
	}
}

// autopsy tells how a process that has just ended did so.
func (d *Driver) autopsy(id string, w *watch) vmm.Exit {
	exit := vmm.Exit{At: time.Now().UTC()}
	ws, known := w.fd.status()
	if known {
		exit.Known = true
		switch {
		case ws.Exited():
			exit.Code = ws.ExitStatus()
		case ws.Signaled():
			exit.Signal = int(ws.Signal())
			exit.Code = 128 + exit.Signal
		}
	}
	if !w.killed.Load() && (!known || exit.Signal == int(unix.SIGKILL)) {
		// The cgroup stays until Stop or Delete, so its count is there to read.
		kills, err := d.group(id).OOMKills()
		exit.OOM = err == nil && kills > 0
	}
	return exit
}

// keepExit writes how a machine ended, if it still is one.
func (d *Driver) keepExit(id string, w *watch) error {
	p := d.cfg.paths(id)
	if _, err := os.Stat(p.facts); err != nil {
		return nil //nolint:nilerr // it is no machine any more
	}
	return writeJSON(p.exit, ended{Process: w.process, Exit: *w.exit})
}

// abandon stops watching; the process goes on.
func (w *watch) abandon() {
	w.fd.close()
	<-w.done
}

// Wait blocks until the machine no longer runs. See [vmm.Driver].
func (d *Driver) Wait(ctx context.Context, id string) (vmm.Exit, error) {
	r, err := d.load(id)
	if err != nil {
		return vmm.Exit{}, err
	}
	if r.run.Process == nil {
		return d.lastExit(id, nil), nil
	}
	var e ended
	if err := readJSON(d.cfg.paths(id).exit, &e); err == nil && e.Process == *r.run.Process {
		return e.Exit, nil
	}
	w, err := d.follow(id, r.run.Process)
	if err != nil {
		return vmm.Exit{}, err
	}
	if w == nil {
		return d.lastExit(id, r.run.Process), nil
	}
	select {
	case <-w.done:
	case <-ctx.Done():
		return vmm.Exit{}, ctx.Err()
	}
	if w.exit == nil {
		return vmm.Exit{}, errors.New(errors.Unavailable, "the driver is closed")
	}
	return *w.exit, nil
}

// lastExit is how the machine last ended, as far as anybody knows.
func (d *Driver) lastExit(id string, p *process) vmm.Exit {
	var e ended
	if err := readJSON(d.cfg.paths(id).exit, &e); err == nil && (p == nil || e.Process == *p) {
		return e.Exit
	}
	exit := vmm.Exit{At: time.Now().UTC()}
	if p != nil {
		kills, err := d.group(id).OOMKills()
		exit.OOM = err == nil && kills > 0
	}
	return exit
}
