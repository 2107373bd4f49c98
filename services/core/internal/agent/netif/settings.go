package netif

import (
	"os"
	"path/filepath"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

const (
	sysctl = "/proc/sys"
	ipv6   = "net/ipv6/conf"
)

// Settings makes the machine what programs expect of one of their own: low
// ports and ping without root. IPv6 is off on every interface but the
// loopback, those to come too; a root user in there can turn it on again. They
// are those of machines that share their host's kernel. Returns Internal.
func Settings() error {
	settings := [][2]string{
		{"net/ipv4/ping_group_range", "0 2147483647"},
		{"net/ipv4/ip_unprivileged_port_start", "0"},
	}
	devices, err := os.ReadDir(filepath.Join(sysctl, ipv6))
	if err != nil && !errors.Is(err, os.ErrNotExist) { // a kernel without IPv6
		return errors.Wrap(err, errors.Internal, "the kernel's settings cannot be read")
	}
	for _, d := range devices {
		if d.Name() != "all" && d.Name() != "lo" {
			settings = append(settings, [2]string{filepath.Join(ipv6, d.Name(), "disable_ipv6"), "1"})
		}
	}
	for _, s := range settings {
		if err := set(s[0], s[1]); err != nil {
			return err
		}
	}
	return nil
}

// set writes a sysctl; a kernel that has none of the name needs none.
func set(name, value string) error {
	// Not os.WriteFile: /proc must never get a new file, and one write is one value.
	f, err := os.OpenFile(filepath.Join(sysctl, name), os.O_WRONLY, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err == nil {
		_, err = f.WriteString(value)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return errors.Wrap(err, errors.Internal, "the kernel setting %s cannot be set", name)
	}
	return nil
}
