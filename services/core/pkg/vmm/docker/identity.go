package docker

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/guest/etc"
	"github.com/aetherium/aetherium/services/core/pkg/network"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/fault"
)

// etcNames are the files in a machine's /etc that say who it is. They are
// mounted from the host: Docker would mount its own, which know nothing of the
// machine's link and grow without bound. What is written last tells that all are.
var etcNames = []string{"resolv.conf", "hosts", "hostname"}

// furnish gives a machine its network and its files; what an earlier call left is found.
func (d *Driver) furnish(ctx context.Context, id string, mode domain.NetworkMode, hostname string) (network.Attachment, error) {
	var att network.Attachment
	if mode == domain.NetworkNAT {
		var err error
		if att, err = d.cfg.Network.Acquire(ctx, id, mode, hostname); err != nil {
			return att, err
		}
	}
	return att, d.writeEtc(id, hostname, att.Address, att.DNS)
}

// writeEtc writes the files in place: they may be mounted.
func (d *Driver) writeEtc(id, hostname string, own netip.Prefix, servers []netip.Addr) error {
	dir := d.cfg.paths(id).dir
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return fault.Of(err, "cannot make the machine's files")
	}
	files := etc.Files(hostname, own.Addr(), servers)
	for _, name := range etcNames {
		path, content := filepath.Join(dir, name), files[name]
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return fault.Of(err, "cannot make the machine's files")
		}
		if err := os.Chmod(path, 0o644); err != nil { // whatever the umask
			return fault.Of(err, "cannot make the machine's files")
		}
	}
	return nil
}

// hostname is what a machine is called: by its last SetHostname, else as it was made.
func (d *Driver) hostname(id, made string) (string, error) {
	raw, err := os.ReadFile(filepath.Join(d.cfg.paths(id).dir, "hostname"))
	if errors.Is(err, os.ErrNotExist) {
		return made, nil // a reboot took it
	}
	if err != nil {
		return "", fault.Of(err, "cannot read the machine's files")
	}
	if name := strings.TrimSpace(string(raw)); hostnameForm.MatchString(name) {
		return name, nil
	}
	return made, nil
}
