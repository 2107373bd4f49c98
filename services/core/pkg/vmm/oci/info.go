package oci

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
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
		Name: Name, Version: d.runtime.version, Isolation: d.runtime.isolation(),
		Capabilities: []string{
			"pause:" + string(domain.PauseFreeze), "snapshot:" + string(domain.SnapshotDisk),
			"fork", "flatten", "carry", "meter", "resize", "rename", "egress",
		},
	}
	// A directory that several machines write to needs an owner on disk that is
	// the same in all of them.
	if d.layers.mapping() == IDMapMount && d.runtime.kind != "runsc" {
		info.Capabilities = append(info.Capabilities, "volumes")
	}
	if err := d.trial(ctx); err != nil {
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

// trial does what every machine needs, once.
func (d *Driver) trial(ctx context.Context) (err error) {
	if !d.runtime.passFD {
		return errors.New(errors.Unsupported, "this runsc cannot hand the agent its listening socket (it has no --pass-fd)")
	}
	ctx, cancel := context.WithTimeout(ctx, infoTimeout)
	defer cancel()
	// Named after the process: one that dies here is found as a machine that nobody knows.
	id := fmt.Sprintf("trial-%d", os.Getpid())
	root := filepath.Join(d.cfg.StateDir, id)
	if err := os.MkdirAll(root, 0o755); err != nil {
		return fail(err, "cannot make a root filesystem for the trial")
	}
	defer func() {
		err = errors.Join(err, d.Delete(context.WithoutCancel(ctx), id), os.RemoveAll(root))
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
	conn, err := d.Dial(ctx, id, vmm.AgentPort)
	if err != nil {
		return err
	}
	defer conn.Close()
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
