package oci

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/guest/etc"
	"github.com/aetherium/aetherium/services/core/pkg/network"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/record"
	"golang.org/x/sys/unix"
)

// etcFiles is what a machine's /etc says of itself.
func etcFiles(hostname string, att network.Attachment) map[string]string {
	return etc.Files(hostname, att.Address.Addr(), att.DNS)
}

// identity is what was last written into a machine's /etc, kept on its volume
// beside the layers. A fork finds its origin's and sees that it is not its own.
type identity struct {
	MachineID string       `json:"machine_id"`
	Hostname  string       `json:"hostname"`
	Address   netip.Prefix `json:"address"`
	DNS       []netip.Addr `json:"dns"`
}

func (i identity) equal(o identity) bool {
	return i.MachineID == o.MachineID && i.Hostname == o.Hostname && i.Address == o.Address && slices.Equal(i.DNS, o.DNS)
}

const identityFile = "identity"

func (d *Driver) identityPath(id string) string {
	return filepath.Join(d.cfg.Volumes.Path(d.cfg.paths(id).volume), identityFile)
}

// hostname is what the machine is called: by its last SetHostname, else by its spec.
func (d *Driver) hostname(r *machineRecord) string {
	var last identity
	if err := record.Read(d.identityPath(r.MachineID), &last); err == nil && last.MachineID == r.MachineID {
		return last.Hostname
	}
	return r.Spec.Hostname
}

// writeIdentity writes the files into the upper layer of a machine that does
// not run, if what they say has changed since; so a guest's own changes to them
// stay. A volume that is full, or an /etc that the guest made unusable, is the
// guest's trouble and keeps no machine from starting.
func (d *Driver) writeIdentity(r *machineRecord, hostname string, att network.Attachment) {
	now := identity{MachineID: r.MachineID, Hostname: hostname, Address: att.Address, DNS: att.DNS}
	var last identity
	if err := record.Read(d.identityPath(r.MachineID), &last); err == nil && last.equal(now) {
		return
	}
	upper := filepath.Join(d.cfg.Volumes.Path(d.cfg.paths(r.MachineID).volume), upperDir)
	owner := int(d.layers.ownerOnDisk(att))
	dir, err := openUpperEtc(upper, r.Spec.RootFS, owner)
	if err == nil {
		defer dir.Close()
		err = etc.Write(dir, etcFiles(hostname, att), func(f *os.File) error { return f.Chown(owner, owner) })
	}
	if err == nil {
		err = record.Write(d.identityPath(r.MachineID), now)
	}
	if err != nil {
		d.log.Warn("cannot write the machine's /etc", "machine", r.MachineID, "error", err)
	}
}

// openUpperEtc opens the upper layer's etc directory, made like the template's
// if it is not there.
func openUpperEtc(upper, rootFS string, owner int) (*os.File, error) {
	top, err := os.Open(upper)
	if err != nil {
		return nil, err
	}
	defer top.Close()
	dir, err := openBelow(top, "etc")
	if !errors.Is(err, unix.ENOENT) {
		return dir, err
	}
	mode := os.FileMode(0o755)
	if info, err := os.Stat(filepath.Join(rootFS, "etc")); err == nil {
		mode = info.Mode().Perm()
	}
	if err := unix.Mkdirat(int(top.Fd()), "etc", 0o700); err != nil {
		return nil, err
	}
	if dir, err = openBelow(top, "etc"); err != nil {
		return nil, err
	}
	if err := errors.Join(dir.Chown(owner, owner), dir.Chmod(mode)); err != nil {
		dir.Close()
		return nil, err
	}
	return dir, nil
}

// openBelow opens a directory that a guest controls what leads to: no link is
// followed and no mount crossed (openat2(2)).
func openBelow(dir *os.File, name string) (*os.File, error) {
	fd, err := unix.Openat2(int(dir.Fd()), name, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}
