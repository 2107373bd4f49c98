package worker

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/guest"
	"github.com/aetherium/aetherium/services/core/pkg/image"
	"github.com/aetherium/aetherium/services/core/pkg/journal"
	"github.com/aetherium/aetherium/services/core/pkg/service"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

const (
	// maxWarmUp bounds how long a template's machine may take until it is ready
	// and its memory is saved.
	maxWarmUp = 15 * time.Minute
	// askReady is the pause between two tries of the ready command, and how long
	// each may take.
	askReady    = 500 * time.Millisecond
	maxAskReady = time.Minute
)

// memoryPrefix begins the IDs of the snapshots that builds' memories are kept as.
const memoryPrefix = "memory-"

func memoryID(build domain.ID) string { return memoryPrefix + string(build) }

// shell is a command that a template's owner wrote as a line of shell.
func shell(line string) domain.Command { return domain.Command{Args: []string{"/bin/sh", "-c", line}} }

// warmUp boots a machine of a build's shape, runs its start command until it is
// ready, and keeps its memory. b is the build as VMs will see it.
func (w *Worker) warmUp(ctx context.Context, b *domain.Build, made image.Result) (*domain.Artifact, error) {
	d, err := w.driver(b.Warm.Driver)
	if err != nil {
		return nil, err
	}
	driver, ok := d.(interface {
		vmm.Driver
		vmm.Snapshotter
	})
	if !ok {
		return nil, errors.New(errors.Unsupported, "the driver %s makes no snapshots", b.Warm.Driver)
	}
	m := &warmMachine{w: w, build: b, driver: driver, name: b.Warm.Driver, network: b.Warm.Network, as: "memory", id: domain.NewID()}
	var info vmm.SnapshotInfo
	err = m.within(ctx, maxWarmUp, func(ctx context.Context) (err error) {
		info, err = m.keep(ctx, made, driver)
		return err
	})
	if err != nil {
		return nil, err
	}
	w.lookAgain(ctx, b.Warm.Driver)
	return &domain.Artifact{
		Kind: domain.ArtifactMemory, Bytes: info.Bytes, Driver: b.Warm.Driver, DriverVersion: cmp.Or(info.MemoryVersion, w.info(b.Warm.Driver).Version),
		Shape: &domain.Shape{Resources: b.Shape, Network: b.Warm.Network},
	}, nil
}

// tryStart boots a machine of a build's shape on the first of some drivers that
// is here, and sees what the build starts get ready there, in the time that its
// VMs have for it. The machine is of no further use.
func (w *Worker) tryStart(ctx context.Context, b *domain.Build, made image.Result, args service.BuildArgs) error {
	m := &warmMachine{w: w, build: b, network: args.Network, as: "try", id: domain.NewID()}
	for _, name := range args.TryOn {
		if d, err := w.driver(name); err == nil {
			m.driver, m.name = d, name
			break
		}
	}
	if m.driver == nil {
		return errors.New(errors.Unsupported, "no driver here can try the start command")
	}
	return m.within(ctx, w.config.ReadyTimeout+w.config.StartUpTimeout, func(ctx context.Context) error {
		if err := m.ready(ctx, made); err != nil {
			return err
		}
		m.say("ready")
		return nil
	})
}

var errWarmTime = errors.Plain("the time for a template to get ready is up")

// warmMachine is the machine in which a build's commands are run before it is
// ready, and whose memory it may keep. It has no row: should this process die,
// the next start of a worker removes it as an orphan.
type warmMachine struct {
	w       *Worker
	build   *domain.Build
	driver  vmm.Driver
	name    string // of the driver
	network domain.NetworkMode
	as      string // before what is said of it in the build's log
	id      domain.ID

	dir      string // of the journals
	journals *journal.Store
	client   *guest.Client
	session  *guest.Session
	logs     sync.WaitGroup
}

func (m *warmMachine) say(format string, args ...any) {
	m.w.builds.say(m.build.ID, m.as+": "+fmt.Sprintf(format, args...))
}

// within does something with the machine, in a time, and removes it.
func (m *warmMachine) within(ctx context.Context, most time.Duration, do func(context.Context) error) error {
	if err := m.w.stepSlots.take(ctx); err != nil {
		return err
	}
	defer m.w.stepSlots.put()
	ctx, cancel := context.WithTimeoutCause(ctx, most, errWarmTime)
	defer cancel()
	defer m.close()
	err := do(ctx)
	if err != nil && errors.Is(context.Cause(ctx), errWarmTime) {
		return errors.Wrap(err, errors.DeadlineExceeded, "the template was not ready in %s: %s", most, errors.Public(err).Message)
	}
	return err
}

// ready boots the machine and sees what the build starts get ready.
func (m *warmMachine) ready(ctx context.Context, made image.Result) error {
	m.say("booting a machine on %s", m.name)
	if err := m.boot(ctx, made); err != nil {
		return err
	}
	start, err := m.start(ctx)
	if err != nil {
		return err
	}
	return m.await(ctx, start)
}

// keep has the machine's memory kept once it is ready.
func (m *warmMachine) keep(ctx context.Context, made image.Result, driver vmm.Snapshotter) (info vmm.SnapshotInfo, err error) {
	id := memoryID(m.build.ID)
	if err := driver.DeleteSnapshot(ctx, id); err != nil { // half of one, from before a crash
		return info, err
	}
	if err := m.ready(ctx, made); err != nil {
		return info, err
	}
	m.letGo()
	if err := m.client.Quiesce(ctx); err != nil {
		return info, err
	}
	info, err = driver.Snapshot(ctx, string(m.id), id, domain.SnapshotMemory)
	if err == nil {
		m.say("ready: %d bytes", info.Bytes)
	}
	return info, err
}

func (m *warmMachine) boot(ctx context.Context, made image.Result) error {
	b := m.build
	m.dir = filepath.Join(m.w.buildWorkDir(), string(m.id))
	if err := os.MkdirAll(m.dir, 0o700); err != nil {
		return errors.Wrap(err, errors.Internal, "the template cannot be warmed up")
	}
	var err error
	if m.journals, err = journal.OpenStore(m.dir, journal.Options{}); err != nil {
		return err
	}
	_, err = m.driver.Create(ctx, vmm.Spec{
		MachineID: string(m.id), RootFS: made.RootFS, BuildID: string(b.ID), Resources: b.Shape, Network: m.network,
		Hostname: pooledHostname, Platform: b.Platform,
	})
	if err == nil {
		err = m.driver.Start(ctx, string(m.id))
	}
	if err != nil {
		return err
	}
	ready, cancel := context.WithTimeout(ctx, m.w.config.ReadyTimeout)
	defer cancel()
	m.client = m.w.client(m.driver, m.id)
	if _, err := m.client.Handshake(ready); err != nil {
		return err
	}
	if err := m.client.Configure(ready, configOf(b)); err != nil {
		return err
	}
	m.session = guest.Open(guest.SessionConfig{Client: m.client, Journals: m.journals, VM: m.id, Epoch: 1, Log: m.w.Log})
	return nil
}

func (m *warmMachine) key(id domain.ID) journal.Key {
	return journal.Key{VM: m.id, Epoch: 1, Execution: id}
}

// start runs the start command. What it writes is in the build's log, as long
// as the machine is here. Empty: there is none.
func (m *warmMachine) start(ctx context.Context) (domain.ID, error) {
	if m.build.Warm.Start == "" {
		return "", nil
	}
	id := domain.NewID()
	if _, err := m.session.Start(ctx, guest.StartRequest{ID: id, Command: shell(m.build.Warm.Start)}); err != nil {
		return "", err
	}
	m.say("started: %s", m.build.Warm.Start)
	r, err := m.journals.Read(m.key(id), 0, true)
	if err != nil {
		return "", err
	}
	m.logs.Go(func() {
		defer func() { _ = r.Close() }()
		m.log(ctx, r)
	})
	return id, nil
}

// log copies output into the build's log, line by line.
func (m *warmMachine) log(ctx context.Context, r *journal.Reader) {
	var rest []byte
	for {
		ev, err := r.Next(ctx)
		if err != nil {
			return
		}
		rest = append(rest, ev.Data...)
		for {
			line, after, ok := bytes.Cut(rest, []byte{'\n'})
			if !ok && len(rest) < maxLogLine && ev.End == nil {
				break
			}
			if len(line) > 0 {
				m.w.builds.say(m.build.ID, "start: "+printable(line))
			}
			rest = after
			if len(rest) == 0 {
				break
			}
		}
		if ev.End != nil {
			return
		}
	}
}

const maxLogLine = 4 << 10

// await tries the ready command until it succeeds.
func (m *warmMachine) await(ctx context.Context, start domain.ID) error {
	line := m.build.Warm.Ready
	if line == "" {
		return nil
	}
	m.say("waiting for: %s", line)
	last := ""
	for {
		if err := m.failed(start); err != nil {
			return err
		}
		end, out, err := m.try(ctx, line)
		if err != nil {
			return err
		}
		if well(end) {
			return m.failed(start) // in a try that took its time
		}
		if text := fmt.Sprintf("not yet (exit code %d): %s", end.ExitCode, out); text != last {
			m.say("%s", text)
			last = text
		}
		select {
		case <-time.After(askReady):
		case <-ctx.Done():
			return errors.New(errors.DeadlineExceeded, "the ready command did not succeed; last: %s", last)
		}
	}
}

// failed says so when the start command has ended otherwise than well. One
// that ended well may have left something running.
func (m *warmMachine) failed(start domain.ID) error {
	if start == "" {
		return nil
	}
	j, err := m.journals.Lookup(m.key(start))
	if err != nil {
		return err
	}
	defer j.Close()
	end, ended := j.Ended()
	if !ended || end.ExitCode == 0 && end.LostReason == "" {
		return nil
	}
	return errors.New(errors.InvalidArgument, "the start command ended with exit code %d before the template was ready", end.ExitCode).
		WithField("start").WithHint("the build's log has what it wrote")
}

// try runs the ready command once.
func (m *warmMachine) try(ctx context.Context, line string) (domain.ExecutionEnd, string, error) {
	id, c := domain.NewID(), shell(line)
	c.Timeout = maxAskReady
	if _, err := m.session.Start(ctx, guest.StartRequest{ID: id, Command: c}); err != nil {
		return domain.ExecutionEnd{}, "", err
	}
	defer func() { _ = m.journals.Delete(m.key(id)) }()
	end, err := m.session.Wait(ctx, id)
	if err != nil {
		return end, "", err
	}
	tail, err := m.journals.Tail(m.key(id), 200)
	return end, strings.TrimSpace(printable(tail)), err
}

// letGo ends the session: what runs goes on.
func (m *warmMachine) letGo() {
	if m.session != nil {
		m.session.Close()
		m.session = nil
	}
}

// close removes the machine.
func (m *warmMachine) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	m.letGo()
	if m.client != nil {
		m.client.Close()
	}
	if m.journals != nil {
		_ = m.journals.Close() // which ends its readers
	}
	m.logs.Wait()
	if err := m.driver.Delete(ctx, string(m.id)); err != nil {
		m.w.Log.Error("a template's machine not removed; the next start does", "machine", m.id, "error", err)
	}
	_ = os.RemoveAll(m.dir)
}

// fromBuildMemory has a machine of a shape go on from its build's memory.
// Returns Unsupported when there is none that fits.
func (w *Worker) fromBuildMemory(ctx context.Context, driver string, shape domain.Shape, spec *vmm.Spec) error {
	b, err := w.buildOf(ctx, domain.ID(spec.BuildID))
	if err != nil {
		return err
	}
	w.lookAgain(ctx, driver)
	if err := service.FitsMemory(b, w.info(driver), shape); err != nil {
		return err
	}
	spec.DiskFrom, spec.Memory = memoryID(b.ID), true
	return nil
}

// dropMemory removes a build's memory.
func (w *Worker) dropMemory(ctx context.Context, b *domain.Build) error {
	m := b.Memory()
	if m == nil {
		return nil
	}
	d, err := w.driver(m.Driver)
	if err != nil {
		return err
	}
	sn, ok := d.(vmm.Snapshotter)
	if !ok {
		return nil
	}
	return sn.DeleteSnapshot(ctx, memoryID(b.ID))
}

// keepsMemory reports whether a driver's snapshot is the memory of a build that
// has one.
func (w *Worker) keepsMemory(ctx context.Context, driver, snapshot string) (bool, error) {
	b, err := w.loadBuild(ctx, domain.ID(strings.TrimPrefix(snapshot, memoryPrefix)))
	switch {
	case errors.HasCode(err, errors.NotFound):
		return false, nil
	case err != nil:
		return false, err
	}
	m := b.Memory()
	return m != nil && m.Driver == driver && b.State == domain.BuildReady, nil
}
