package worker

import (
	"bytes"
	"context"
	"io"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/guest"
	stepfile "github.com/aetherium/aetherium/services/core/pkg/image/steps"
	"github.com/aetherium/aetherium/services/core/pkg/journal"
	"github.com/aetherium/aetherium/services/core/pkg/stepbuild"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// buildDriver is what a driver must be able to do for builds by steps.
type buildDriver interface {
	vmm.Driver
	vmm.Snapshotter
	vmm.Flattener
}

// buildMachine is the machine of a build. It has no row: should this process
// die, the next start of a worker removes it as an orphan.
type buildMachine struct {
	w        *Worker
	driver   buildDriver
	name     string // of the driver
	id       domain.ID
	journals *journal.Store
	kept     func(stepfile.Layer, string) // told of each snapshot that is made

	epoch   int64
	client  *guest.Client // nil: it does not run
	session *guest.Session
	watched chan struct{} // closed when nobody waits for the machine's end any more
	ran     bool          // commands ran since it was started
}

// open makes the machine; it is started when it is first needed.
func (m *buildMachine) open(ctx context.Context, spec vmm.Spec) error {
	spec.MachineID = string(m.id)
	_, err := m.driver.Create(ctx, spec)
	return err
}

// start makes it run. After each RUN it is started anew: what a command left
// running ends with its step, and is in no layer half done.
func (m *buildMachine) start(ctx context.Context) error {
	if m.client != nil {
		return nil
	}
	if err := m.driver.Start(ctx, string(m.id)); err != nil {
		return err
	}
	ready, cancel := context.WithTimeout(ctx, m.w.config.ReadyTimeout)
	defer cancel()
	client := m.w.client(m.driver, m.id)
	_, err := client.Handshake(ready)
	if err == nil {
		err = client.Configure(ready, guest.Config{DefaultUser: stepfile.Root, DefaultWorkdir: "/"})
	}
	if err != nil {
		client.Close()
		return err
	}
	m.epoch++
	m.client, m.ran, m.watched = client, false, make(chan struct{})
	m.session = guest.Open(guest.SessionConfig{Client: client, Journals: m.journals, VM: m.id, Epoch: m.epoch, Log: m.w.Log})
	go func(session *guest.Session, done chan struct{}) {
		defer close(done)
		if exit, err := m.driver.Wait(ctx, string(m.id)); err == nil {
			why := "its first process ended"
			if exit.OOM {
				why = "the memory limit ended its first process"
			}
			session.Gone(ctx, why)
		}
	}(m.session, m.watched)
	return nil
}

// stop ends what runs in it.
func (m *buildMachine) stop(ctx context.Context) error {
	if m.client == nil {
		return nil
	}
	m.session.Close()
	err := m.driver.Stop(ctx, string(m.id), m.w.config.StopGrace)
	m.client.Close()
	m.client = nil
	if err == nil {
		<-m.watched
	}
	return err
}

// Close implements stepbuild.Machine.
func (m *buildMachine) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if m.client != nil {
		m.session.Close()
		m.client.Close()
	}
	if err := m.driver.Delete(ctx, string(m.id)); err != nil {
		m.w.Log.Error("a build's machine not removed; the next start does", "machine", m.id, "error", err)
	}
}

// Run implements stepbuild.Machine.
func (m *buildMachine) Run(ctx context.Context, a stepfile.Action, out func([]byte)) (stepbuild.Exit, error) {
	return m.execute(ctx, domain.Command{Args: a.Args, Env: a.Env, Cwd: a.Cwd, User: a.User}, func(ev domain.OutputEvent) { out(ev.Data) })
}

// execute runs a command to its end; out is given what it writes.
func (m *buildMachine) execute(ctx context.Context, c domain.Command, out func(domain.OutputEvent)) (stepbuild.Exit, error) {
	var exit stepbuild.Exit
	if err := m.start(ctx); err != nil {
		return exit, err
	}
	m.ran = true
	kills := m.oomKills(ctx)
	id := domain.NewID()
	key := journal.Key{VM: m.id, Epoch: m.epoch, Execution: id}
	defer func() { _ = m.journals.Delete(key) }()
	_, err := m.session.Start(ctx, guest.StartRequest{ID: id, Command: c})
	if err != nil {
		return exit, err
	}
	r, err := m.journals.Read(key, 0, true)
	if err != nil {
		return exit, err
	}
	defer func() { _ = r.Close() }()
	for {
		ev, err := r.Next(ctx)
		if err != nil {
			return exit, err
		}
		if len(ev.Data) > 0 {
			out(ev)
		}
		if ev.End != nil {
			exit.Code, exit.Lost = ev.End.ExitCode, ev.End.LostReason
			exit.OOM = (exit.Code != 0 || exit.Lost != "") && m.oomKills(ctx) > kills
			return exit, nil
		}
	}
}

func (m *buildMachine) oomKills(ctx context.Context) int64 {
	meter, ok := m.driver.(vmm.Meter)
	if !ok {
		return 0
	}
	u, err := meter.Usage(ctx, string(m.id))
	if err != nil {
		return 0
	}
	return u.OOMKills
}

var asRoot = vmm.FileOptions{User: stepfile.Root}

// IsDir implements stepbuild.Machine.
func (m *buildMachine) IsDir(ctx context.Context, name string) (bool, error) {
	if err := m.start(ctx); err != nil {
		return false, err
	}
	// The dot has links followed.
	info, err := m.client.Stat(ctx, path.Join(name)+"/.", asRoot)
	if errors.HasCode(err, errors.NotFound) || errors.HasCode(err, errors.InvalidArgument) {
		return false, nil
	}
	return err == nil && info.Type == "dir", err
}

// MakeDir implements stepbuild.Machine.
func (m *buildMachine) MakeDir(ctx context.Context, name string) error {
	isDir, err := m.IsDir(ctx, name)
	if err != nil || isDir {
		return err
	}
	_, err = m.client.MakeDir(ctx, name, asRoot)
	return err
}

// Unpack implements stepbuild.Machine.
func (m *buildMachine) Unpack(ctx context.Context, dir, owner string, r io.Reader) error {
	if err := m.start(ctx); err != nil {
		return err
	}
	uid, gid, err := m.owner(ctx, owner)
	if err != nil {
		return err
	}
	return m.client.TarUpFor(ctx, dir, r, uid, gid)
}

// owner finds the IDs of "user" or "user:group" in the machine's own tables.
func (m *buildMachine) owner(ctx context.Context, owner string) (uid, gid int, err error) {
	if owner == "" {
		return 0, 0, nil
	}
	user, group, grouped := strings.Cut(owner, ":")
	table, err := m.table(ctx, "/etc/passwd")
	if err != nil {
		return 0, 0, err
	}
	uid, gid, found := 0, 0, false
	for line := range strings.Lines(table) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) >= 4 && (f[0] == user || f[2] == user) {
			u, uerr := strconv.ParseUint(f[2], 10, 16)
			g, gerr := strconv.ParseUint(f[3], 10, 16)
			if uerr == nil && gerr == nil {
				uid, gid, found = int(u), int(g), true
				break
			}
		}
	}
	if n, nerr := strconv.ParseUint(user, 10, 16); !found && nerr == nil {
		uid, gid, found = int(n), int(n), true
	}
	if !found {
		return 0, 0, noOwner("user", user)
	}
	if !grouped {
		return uid, gid, nil
	}
	if n, err := strconv.ParseUint(group, 10, 16); err == nil {
		return uid, int(n), nil
	}
	if table, err = m.table(ctx, "/etc/group"); err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(table) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) >= 3 && f[0] == group {
			if n, err := strconv.ParseUint(f[2], 10, 16); err == nil {
				return uid, int(n), nil
			}
		}
	}
	return 0, 0, noOwner("group", group)
}

func noOwner(what, name string) error {
	return errors.New(errors.InvalidArgument, "there is no %s %q in the machine (%s)", what, name, stepfile.CodeUser).
		WithHint("make it in a RUN step before")
}

// maxTable bounds what is read of a machine's account tables.
const maxTable = 1 << 20

func (m *buildMachine) table(ctx context.Context, name string) (string, error) {
	_, r, err := m.client.Read(ctx, name, asRoot)
	if errors.HasCode(err, errors.NotFound) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer func() { _ = r.Close() }()
	var b bytes.Buffer
	_, err = io.Copy(&b, io.LimitReader(r, maxTable))
	return b.String(), err
}

// Keep implements stepbuild.Machine.
func (m *buildMachine) Keep(ctx context.Context, l, below stepfile.Layer, step string) error {
	if m.ran {
		if err := m.stop(ctx); err != nil {
			return err
		}
		m.ran = false
	}
	if m.client != nil {
		if err := m.client.Quiesce(ctx); err != nil {
			return err
		}
		defer func() {
			if err := m.client.Thaw(context.WithoutCancel(ctx)); err != nil {
				m.w.Log.Warn("a build's machine not thawed", "machine", m.id, "error", err)
			}
		}()
	}
	id := layerPrefix + string(domain.NewID())
	info, err := m.driver.Snapshot(ctx, string(m.id), id, domain.SnapshotDisk)
	if err != nil {
		return err
	}
	m.kept(l, id)
	n := layerNote{Layer: l, Below: below, Driver: m.name, Snapshot: id, Step: step, Bytes: info.Bytes, Added: info.Bytes}
	if b, ok := m.w.layers.get(below); ok {
		n.Added = max(0, n.Bytes-b.Bytes)
	}
	return m.w.layers.put(n)
}
