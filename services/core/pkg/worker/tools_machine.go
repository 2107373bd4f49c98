package worker

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/image"
	"github.com/aetherium/aetherium/services/core/pkg/journal"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/tools"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// toolMachine is the machine that a tool is installed in: one as builds by
// steps have.
type toolMachine struct {
	machine *buildMachine
	release []func()
}

// bootToolMachine makes a machine with mise in it.
func (w *Worker) bootToolMachine(ctx context.Context, mise string) (_ tools.Machine, err error) {
	cfg := w.config.Tools
	d, err := w.driver(cfg.Driver)
	if err != nil {
		return nil, err
	}
	driver, ok := d.(buildDriver)
	if !ok {
		return nil, errors.New(errors.Unsupported, "the driver %s cannot install tools", cfg.Driver)
	}
	m := &toolMachine{}
	defer func() {
		if err != nil {
			m.Close()
		}
	}()
	files, err := w.toolBase(ctx, cfg.Template, m)
	if err != nil {
		return nil, err
	}
	id := domain.NewID()
	dir := filepath.Join(w.buildWorkDir(), string(id))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, errors.Wrap(err, errors.Internal, "the installation cannot be begun")
	}
	m.release = append(m.release, func() { _ = os.RemoveAll(dir) })
	journals, err := journal.OpenStore(filepath.Join(dir, "output"), journal.Options{})
	if err != nil {
		return nil, err
	}
	m.release = append(m.release, func() { _ = journals.Close() })
	m.machine = &buildMachine{w: w, driver: driver, name: cfg.Driver, id: id, journals: journals}
	return m, m.machine.open(ctx, vmm.Spec{
		RootFS: files.RootFS, BuildID: files.ID, Resources: cfg.Machine, Network: domain.NetworkNAT,
		Hostname: "tools", Platform: w.config.Platform,
		Mounts: []vmm.HostMount{{Source: mise, Target: tools.MachineMise, ReadOnly: true}},
	})
}

// toolBase finds the build that tools are installed on, and keeps it.
func (w *Worker) toolBase(ctx context.Context, name string, m *toolMachine) (image.Result, error) {
	var build domain.ID
	err := w.Store.View(ctx, func(tx storage.Tx) error {
		// The operator's own or a public one: what other projects name so has no
		// say in what everybody's tools are.
		p, err := tx.Projects().First(ctx)
		if err != nil {
			return err
		}
		t, err := tx.Templates().ByName(ctx, p.ID, name)
		if err == nil {
			build = t.Tags[domain.DefaultTag]
		}
		return err
	})
	if err == nil && build == "" {
		err = errors.New(errors.Unavailable, "the template %s, which tools are installed on, has no build yet", name)
	}
	if errors.HasCode(err, errors.NotFound) {
		err = errors.Wrap(err, errors.Unavailable, "there is no template %s to install tools on", name).WithHint("see tools.template")
	}
	if err != nil {
		return image.Result{}, err
	}
	w.builds.hold(build, 1)
	m.release = append(m.release, func() { w.builds.hold(build, -1) })
	return w.rootFS(ctx, build)
}

// Run implements tools.Machine.
func (m *toolMachine) Run(ctx context.Context, c tools.Command, line func(string)) (tools.Exit, error) {
	var out bytes.Buffer
	write, end := tools.Lines(line)
	exit, err := m.machine.execute(ctx, domain.Command{Args: c.Args, Env: c.Env, Cwd: c.Cwd, User: "root"}, func(ev domain.OutputEvent) {
		if ev.Stream == domain.Stdout {
			if room := tools.MaxStdout - out.Len(); room > 0 {
				out.Write(ev.Data[:min(len(ev.Data), room)])
			}
			return
		}
		write(ev.Data)
	})
	end()
	return tools.Exit{Code: exit.Code, Lost: exit.Lost, OOM: exit.OOM, Stdout: out.Bytes()}, err
}

// WriteFile implements tools.Machine.
func (m *toolMachine) WriteFile(ctx context.Context, path string, content []byte) error {
	if err := m.machine.start(ctx); err != nil {
		return err
	}
	_, err := m.machine.client.Write(ctx, path, bytes.NewReader(content), asRoot)
	return err
}

// Tar implements tools.Machine.
func (m *toolMachine) Tar(ctx context.Context, dir string) (io.ReadCloser, error) {
	if err := m.machine.start(ctx); err != nil {
		return nil, err
	}
	return m.machine.client.TarDown(ctx, dir, asRoot)
}

// Close implements tools.Machine.
func (m *toolMachine) Close() {
	if m.machine != nil {
		m.machine.Close()
	}
	for i := len(m.release) - 1; i >= 0; i-- {
		m.release[i]()
	}
	m.release = nil
}
