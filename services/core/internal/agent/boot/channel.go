package boot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/services/core/pkg/guest/bootline"
	"github.com/aetherium/aetherium/services/core/pkg/guest/mux"
)

// Listen yields the host's connections.
func (m *Machine) Listen(log *slog.Logger) (net.Listener, error) {
	if m.Line.Channel == bootline.ChannelVsock {
		return vsock.ListenContextID(unix.VMADDR_CID_ANY, bootline.AgentPort, nil)
	}
	if _, err := findPort(m.Line.Channel); err != nil {
		return nil, err
	}
	host := mux.New(mux.Guest, func(context.Context) (io.ReadWriteCloser, error) { return openPort(m.Line.Channel) }, mux.Options{Log: log})
	return host.Listener(), nil
}

// openPort opens a virtio serial port. While the host is away it can be opened,
// and reads from it end at once.
func openPort(name string) (io.ReadWriteCloser, error) {
	path, err := findPort(name)
	if err != nil {
		return nil, err
	}
	return os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
}

func findPort(name string) (string, error) {
	ports, err := filepath.Glob("/sys/class/virtio-ports/*/name")
	if err != nil {
		return "", err
	}
	for _, p := range ports {
		if got, err := os.ReadFile(p); err == nil && strings.TrimSpace(string(got)) == name {
			return "/dev/" + filepath.Base(filepath.Dir(p)), nil
		}
	}
	return "", errors.Join(fmt.Errorf("there is no serial port %q", name), os.ErrNotExist)
}
