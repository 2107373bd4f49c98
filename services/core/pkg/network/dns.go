package network

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/network/internal/statefile"
	"github.com/aetherium/aetherium/services/core/pkg/network/netd"
)

// How long netd may take to serve, and to end when asked before it is killed.
const (
	netdStartWithin = 15 * time.Second
	netdEndWithin   = 3 * time.Second
)

// netdProcess is a running netd, whoever started it: a pidfd that becomes
// readable when it ends.
type netdProcess struct {
	pid int
	fd  int
}

func (m *Manager) netdConfig(nat *natNetwork) netd.Config {
	lease := m.currentLease()
	return netd.Config{
		Listen: nat.bridge.Gateway.Addr(), Clients: nat.subnet, Resolvers: m.cfg.Resolvers, LockFile: m.path("netd.lock"), User: netdUser(lease),
		Control: m.path("netd.sock"), LogDir: m.cfg.EgressLogDir, LogGroup: logGroup(lease),
		Deny: m.cfg.DenyCIDRs, Allow: m.cfg.AllowCIDRs, Roots: m.cfg.EgressRoots,
	}
}

// startNetd adopts the netd that runs with the wanted configuration, or
// starts one, and has it watched. Returns Unavailable with what netd said.
func (m *Manager) startNetd(nat *natNetwork) error {
	want := m.netdConfig(nat)
	if err := m.prepareLogs(want.User); err != nil {
		return err
	}
	p, err := m.findNetd()
	if err != nil {
		return err
	}
	if p != nil {
		if m.startedWith(want) {
			if err := m.tellNetd(m.ctx, true); err != nil {
				_ = unix.Close(p.fd)
				return err // it is adopted by the next try, and watched then, once
			}
			m.cfg.Log.Info("netd adopted", "pid", p.pid)
			m.watchNetd(p, nat)
			return nil
		}
		if err := p.end(); err != nil {
			return err
		}
	}
	if p, err = m.launchNetd(want); err != nil {
		return err
	}
	if err := m.tellNetd(m.ctx, false); err != nil {
		return errors.Join(err, p.end()) // nobody adopts one that knows nothing
	}
	m.cfg.Log.Info("netd started", "pid", p.pid)
	m.watchNetd(p, nat)
	return nil
}

// startedWith reports whether the running netd has this configuration.
func (m *Manager) startedWith(want netd.Config) bool {
	var have netd.Config
	if statefile.Read(m.path("netd.json"), &have) != nil {
		return false
	}
	a, errA := json.Marshal(have)
	b, errB := json.Marshal(want)
	return errA == nil && errB == nil && bytes.Equal(a, b)
}

// findNetd finds the running netd by the lock it holds; nil when there is none.
func (m *Manager) findNetd() (*netdProcess, error) {
	lock, err := os.OpenFile(m.path("netd.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, errors.Wrap(err, errors.Unavailable, "cannot open netd's lock file")
	}
	defer func() { _ = lock.Close() }()
	for {
		free, err := lockFree(lock)
		if free || err != nil {
			return nil, err
		}
		raw, err := os.ReadFile(lock.Name())
		if err != nil {
			return nil, errors.Wrap(err, errors.Unavailable, "cannot read netd's lock file")
		}
		pid, err := strconv.Atoi(string(bytes.TrimSpace(raw)))
		if err != nil {
			continue // it has the lock and is about to write
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			if errors.Is(err, unix.ESRCH) {
				continue // it just ended
			}
			return nil, errors.Wrap(err, errors.Unsupported, "the kernel has no pidfd_open")
		}
		// Still locked by the same process ID after the descriptor was made: it is that process's.
		again, err := os.ReadFile(lock.Name())
		free, lockErr := lockFree(lock)
		if err == nil && lockErr == nil && !free && bytes.Equal(raw, again) {
			return &netdProcess{pid: pid, fd: fd}, nil
		}
		_ = unix.Close(fd)
	}
}

// lockFree reports whether nobody holds the lock on f.
func lockFree(f *os.File) (bool, error) {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	switch {
	case err == nil:
		return true, unix.Flock(int(f.Fd()), unix.LOCK_UN)
	case errors.Is(err, unix.EWOULDBLOCK):
		return false, nil
	}
	return false, errors.Wrap(err, errors.Unavailable, "cannot look at netd's lock")
}

// launchNetd starts netd in a session of its own and waits until it serves.
func (m *Manager) launchNetd(cfg netd.Config) (*netdProcess, error) {
	if err := statefile.Write(m.path("netd.json"), cfg); err != nil {
		return nil, err
	}
	log, err := os.OpenFile(m.path("netd.log"), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, errors.Wrap(err, errors.Unavailable, "cannot write netd's log")
	}
	defer func() { _ = log.Close() }()
	r, w, err := os.Pipe()
	if err != nil {
		return nil, errors.Wrap(err, errors.Unavailable, "cannot make a pipe")
	}
	defer func() { _ = r.Close() }()
	// No context ends it: it outlives this process.
	cmd := exec.CommandContext(context.WithoutCancel(m.ctx), m.cfg.NetdPath, m.path("netd.json"))
	cmd.Dir, cmd.Env = "/", []string{"GOMAXPROCS=2", "GOMEMLIMIT=256MiB"}
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = log, log, []*os.File{w}
	pidfd := -1
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, PidFD: &pidfd}
	err = cmd.Start()
	_ = w.Close()
	if err != nil {
		return nil, errors.Wrap(err, errors.Unavailable, "cannot start netd")
	}
	p := &netdProcess{pid: cmd.Process.Pid, fd: pidfd}
	// It is waited for through the pidfd, as one that an earlier worker started.
	_ = cmd.Process.Release()
	if p.fd < 0 {
		if p.fd, err = unix.PidfdOpen(p.pid, 0); err != nil {
			_ = unix.Kill(p.pid, unix.SIGKILL)
			return nil, errors.Wrap(err, errors.Unsupported, "the kernel has no pidfd_open")
		}
	}
	_ = r.SetReadDeadline(time.Now().Add(netdStartWithin))
	word, err := io.ReadAll(io.LimitReader(r, 4096))
	if err == nil && string(word) == netd.ReadyWord {
		return p, nil
	}
	_ = p.end()
	if err != nil {
		return nil, errors.Wrap(err, errors.Unavailable, "netd did not come up in time")
	}
	return nil, errors.Wrap(errors.Plain(string(word)), errors.Unavailable, "netd cannot serve").
		WithHint("see netd.log in the instance's runtime directory")
}

// wait blocks until the process has ended or d has passed; negative: no limit.
func (p *netdProcess) wait(d time.Duration, also ...unix.PollFd) bool {
	deadline := time.Now().Add(d)
	for {
		ms := -1
		if d >= 0 {
			ms = max(0, int(time.Until(deadline).Milliseconds()))
		}
		fds := append([]unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}, also...)
		n, err := unix.Poll(fds, ms)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if n > 0 && fds[0].Revents != 0 {
			_, _ = unix.Wait4(p.pid, nil, unix.WNOHANG, nil) // if it is a child of ours
			return true
		}
		return false
	}
}

// end asks the process to end, then makes it.
func (p *netdProcess) end() error {
	defer func() { _ = unix.Close(p.fd) }()
	for _, s := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		if err := unix.PidfdSendSignal(p.fd, s, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return errors.Wrap(err, errors.Unavailable, "cannot signal netd")
		}
		if p.wait(netdEndWithin) {
			return nil
		}
	}
	return errors.New(errors.Unavailable, "netd does not end")
}

// watchNetd starts netd again when it dies, until Close.
func (m *Manager) watchNetd(p *netdProcess, nat *natNetwork) {
	// Poll needs a descriptor that says when to stop; it is closed with the watch.
	stop, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		m.cfg.Log.Warn("netd is not watched", "err", err)
		_ = unix.Close(p.fd)
		return
	}
	m.tasks.Add(2)
	over := make(chan struct{})
	go func() {
		defer m.tasks.Done()
		select {
		case <-m.ctx.Done():
			_, _ = unix.Write(stop, []byte{1, 0, 0, 0, 0, 0, 0, 0})
			<-over
		case <-over:
		}
		_ = unix.Close(stop)
	}()
	go func() {
		defer m.tasks.Done()
		died := p.wait(-1, unix.PollFd{Fd: int32(stop), Events: unix.POLLIN})
		_ = unix.Close(p.fd)
		close(over)
		if died && m.ctx.Err() == nil {
			m.reviveNetd(p.pid, nat)
		}
	}()
}

// reviveNetd starts netd again, later and later while that fails.
func (m *Manager) reviveNetd(died int, nat *natNetwork) {
	m.cfg.Log.Warn("netd died", "pid", died)
	for wait := time.Duration(0); ; wait = min(max(2*wait, refillWaitLow), refillWaitHigh) {
		select {
		case <-m.ctx.Done():
			return
		case <-time.After(wait):
		}
		err := m.startNetd(nat)
		if err == nil || m.ctx.Err() != nil {
			return
		}
		m.cfg.Log.Warn("cannot start netd again", "err", err)
	}
}

// stopNetd ends the instance's netd; none is success.
func (m *Manager) stopNetd() error {
	p, err := m.findNetd()
	if err != nil || p == nil {
		return err
	}
	return p.end()
}
