package docker

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/moby/moby/client"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/internal/fault"
)

// infoTimeout bounds the trial that Info makes: far more than a busy and slow
// host takes, for one that is slow can be used all the same.
const infoTimeout = time.Minute

type infoCache struct {
	mu   sync.Mutex
	info *domain.DriverInfo
}

// Info says what the driver can do here. The first call makes a machine with
// nothing but the agent in it, talks to the agent and deletes it again; a host
// that could do so is not asked again. See [vmm.Driver].
func (d *Driver) Info(ctx context.Context) domain.DriverInfo {
	d.info.mu.Lock()
	defer d.info.mu.Unlock()
	if d.info.info != nil {
		return *d.info.info
	}
	info := domain.DriverInfo{
		Name: Name, Isolation: domain.IsolationContainerRoot,
		Capabilities: []string{
			"pause:" + string(domain.PauseFreeze), "snapshot:" + string(domain.SnapshotDisk),
			"fork", "meter", "resize", "rename", "egress",
		},
	}
	if err := d.try(ctx, &info); err != nil {
		info.Reason = errors.Public(err).Message
		if info.Reason == "" || errors.HasCode(err, errors.Internal) {
			info.Reason = err.Error()
		}
		return info
	}
	info.Usable = true
	d.info.info = &info
	return info
}

// try asks the engine what it is, and has it make a machine.
func (d *Driver) try(ctx context.Context, info *domain.DriverInfo) error {
	ctx, cancel := context.WithTimeout(ctx, infoTimeout)
	defer cancel()
	r, err := d.engine.Info(ctx, client.InfoOptions{})
	if err != nil {
		return said(err, "the Docker engine does not say what it is")
	}
	engine := r.Info
	info.Version = fmt.Sprintf("%s (%s, %s)", engine.ServerVersion, engine.DefaultRuntime, engine.Driver)
	if remapped(engine.SecurityOptions) {
		info.Isolation = domain.IsolationContainer
	}
	if engine.OSType != "linux" {
		return errors.New(errors.Unsupported, "the Docker engine makes no Linux containers")
	}
	if err := d.trial(ctx); err != nil {
		return err
	}
	if d.noQuota.Load() {
		info.Version = fmt.Sprintf("%s (%s, %s without disk limits)", engine.ServerVersion, engine.DefaultRuntime, engine.Driver)
	}
	return nil
}

// remapped reports that root in a container is not root on the host.
func remapped(options []string) bool {
	return slices.ContainsFunc(options, func(o string) bool {
		return slices.Contains(strings.Split(o, ","), "name=userns") || slices.Contains(strings.Split(o, ","), "name=rootless")
	})
}

// trial does what every machine needs, once.
func (d *Driver) trial(ctx context.Context) (err error) {
	// Named after the process: one that dies here is found as a machine that nobody knows.
	id := fmt.Sprintf("trial-docker-%d", os.Getpid())
	root := filepath.Join(d.cfg.RuntimeDir, "t-"+id)
	if err := os.MkdirAll(root, 0o755); err != nil {
		return fault.Of(err, "cannot make a root filesystem for the trial")
	}
	defer func() {
		// The image goes with the machine, for its files are gone.
		undoing, cancel := wholly(ctx)
		defer cancel()
		err = errors.Join(err, os.RemoveAll(root), d.Delete(undoing, id))
	}()
	if _, err := d.Create(ctx, vmm.Spec{
		MachineID: id, BuildID: id, RootFS: root, Network: domain.NetworkNone, Hostname: "trial",
		Resources: domain.Resources{MilliCPU: 1000, MemoryBytes: 128 << 20, DiskBytes: 16 << 20, PIDs: 64},
	}); err != nil {
		return err
	}
	if err := d.Start(ctx, id); err != nil {
		return err
	}
	c, err := d.running(ctx, id)
	if err != nil {
		return endedAtOnce(err)
	}
	ns, err := d.namespace(ctx, id, c, "net") // an engine elsewhere has processes that are none of this host's
	if err != nil {
		return err
	}
	_ = ns.Close()
	conn, err := d.Dial(ctx, id, vmm.AgentPort)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	return askHealth(ctx, conn)
}

// askHealth sends a request on a connection and is content with any answer in HTTP.
func askHealth(ctx context.Context, conn net.Conn) error {
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://machine/health", nil)
	if err != nil {
		return err
	}
	if err := req.Write(conn); err != nil {
		return errors.Wrap(err, errors.GuestFault, "the guest agent does not answer")
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), req)
	if err != nil {
		return errors.Wrap(err, errors.GuestFault, "the guest agent does not answer")
	}
	return resp.Body.Close()
}
