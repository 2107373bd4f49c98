package firecracker

import (
	"context"
	"os"
	"path/filepath"
	"strconv"

	"github.com/aetherium/aetherium/services/core/pkg/guest/bootline"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/firecracker/internal/api"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/firecracker/pager"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/fault"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/microvm"
)

// Restore makes a guest from a saved memory, see [microvm.Engine]. Returns
// NotFound when nothing was saved there, InvalidArgument when it was of a guest
// of another form, Unsupported when by another monitor.
func (e *Engine) Restore(ctx context.Context, g microvm.Guest, from microvm.Memory) (pid int, err error) {
	h, err := e.host(ctx)
	if err != nil {
		return 0, err
	}
	if err := check(g); err != nil {
		return 0, err
	}
	saved, err := readForm(from)
	if err != nil {
		return 0, err
	}
	want, err := formOf(h, g)
	if err != nil {
		return 0, err
	}
	if err := saved.takes(want); err != nil {
		return 0, err
	}
	l := &launch{guest: g, jail: newJail(g, h.binary.path)}
	l.jail.files = append(l.jail.files, jailed{jailState, filepath.Join(from.Dir, stateFile), false})
	load := api.Load{State: jailState, Backend: api.Backend{Type: api.BackendFile, Path: jailMemory}}
	if track := e.tracks(h, g); h.version.atLeast(1, 13) {
		load.TrackDirty = track
	} else {
		load.EnableDiff = track
	}
	if g.Link != nil && g.Link.Tap != saved.Tap {
		load.Networks = []api.Override{{ID: networkID, Tap: g.Link.Tap}}
	}
	if e.cfg.Backend == UFFD {
		load.Backend = api.Backend{Type: api.BackendUffd, Path: jailRun + "/" + uffdSocket}
		return e.restorePaged(ctx, h, l, from, saved, load)
	}
	l.jail.files = append(l.jail.files, jailed{jailMemory, filepath.Join(from.Dir, memoryFile), false})
	l.args = h.jailerArgs(g, true)
	return e.load(ctx, l, from, saved, load)
}

// restorePaged starts a page server, which starts the monitor.
func (e *Engine) restorePaged(ctx context.Context, h *host, l *launch, from microvm.Memory, saved form, load api.Load) (int, error) {
	program, err := find(e.cfg.Pager)
	if err != nil {
		return 0, err
	}
	memory, err := os.Open(filepath.Join(from.Dir, memoryFile))
	if err != nil {
		return 0, fault.Of(err, "the saved memory cannot be read")
	}
	defer memory.Close()
	touched, err := pager.OpenTouched(filepath.Join(from.Dir, touchedFile), saved.Memory)
	if err != nil {
		return 0, fault.Of(err, "the saved memory cannot be read")
	}
	defer touched.Close()
	// The jail's directories have to be there for the socket.
	if err := l.jail.makeDirs(l.guest.UID); err != nil {
		return 0, fault.Of(err, "cannot make a monitor's root")
	}
	l.jail.made = true
	listener, err := listenUffd(l.guest)
	if err != nil {
		return 0, fault.Of(err, "cannot start a page server")
	}
	defer listener.Close()
	l.files = []*os.File{listener, memory, touched}
	l.newPIDs = true
	l.args = append([]string{
		program, "--uid", strconv.FormatUint(uint64(l.guest.UID), 10), "--root", filepath.Join(l.jail.root, jailVoid), "--",
	}, h.jailerArgs(l.guest, false)...)
	return e.load(ctx, l, from, saved, load)
}

// load starts the monitor and has it take the memory.
func (e *Engine) load(ctx context.Context, l *launch, from microvm.Memory, saved form, load api.Load) (int, error) {
	c, pid, err := e.start(ctx, l)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	as := run{Port: (saved.Run.Port + 1) % bootline.AgentPorts, Disk: e.cfg.Disk, Network: e.cfg.Network}
	if err = unsettle(l.guest); err == nil {
		err = as.write(l.guest)
	}
	if err == nil {
		err = c.LoadSnapshot(ctx, load)
	}
	if err == nil {
		err = limit(ctx, c, l.guest, saved.Run, as)
	}
	if err == nil && (load.TrackDirty || load.EnableDiff) {
		err = writeBase(l.guest, base{from.Dir, saved.ID})
	}
	if err != nil {
		return 0, e.abandon(l.guest, pid, err)
	}
	return pid, nil
}

// limit bounds the devices of a restored guest as those of one that is booted:
// they have the limits that it was saved with.
func limit(ctx context.Context, c *api.Client, g microvm.Guest, had, has run) error {
	if has.Disk != had.Disk {
		for i := range g.Drives {
			if err := c.LimitDrive(ctx, driveID(i), whole(has.Disk)); err != nil {
				return err
			}
		}
	}
	if has.Network != had.Network && g.Link != nil {
		return c.LimitNetwork(ctx, networkID, whole(has.Network))
	}
	return nil
}
