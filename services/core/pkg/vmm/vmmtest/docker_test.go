package vmmtest_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/moby/client"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/network"
	"github.com/aetherium/aetherium/services/core/pkg/network/networktest"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/docker"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/docker/dockertest"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/vmmtest"
)

// TestDocker runs the suite on the docker driver with the real agent and an
// engine of its own.
func TestDocker(t *testing.T) {
	rootfs := os.Getenv(rootfsEnv)
	if rootfs == "" {
		t.Skip("no root filesystem is given in " + rootfsEnv)
	}
	engine := dockertest.Start(t)
	agent := vmmtest.Agent(t)
	_, noSudo := os.Lstat(filepath.Join(rootfs, "usr/bin/sudo"))
	n := &dockerNode{engine: engine, agent: agent, rootfs: rootfs, mounts: len(engine.Mounts())}
	n.lowID, n.highID = networktest.IDs(t)
	// One instance: the template becomes an image once.
	dir, err := os.MkdirTemp("/tmp", "vmmtest-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	n.dir, n.instance = dir, fmt.Sprintf("d%d", os.Getpid())
	n.open(t)
	t.Cleanup(func() { n.demolish(t) })
	vmmtest.Run(t, vmmtest.Config{
		Isolated: true, Limits: true, DiskUnlimited: true, Sudo: noSudo == nil,
		New: func(*testing.T) vmmtest.Harness { return n.harness() },
	})
}

// dockerNode is what a worker holds of a host.
type dockerNode struct {
	engine               *dockertest.Engine
	mounts               int // below the engine's directory, without machines
	dir, instance, agent string
	lowID, highID        uint32
	rootfs               string
	net                  *network.Manager
	driver               *docker.Driver
}

func (n *dockerNode) harness() vmmtest.Harness {
	return vmmtest.Harness{
		Driver: n.driver,
		Spec: vmm.Spec{
			RootFS: n.rootfs, BuildID: "build", Network: domain.NetworkNone, Platform: "linux/amd64",
			Resources: domain.Resources{MilliCPU: 1000, MemoryBytes: 256 << 20, DiskBytes: 256 << 20, PIDs: 256},
		},
		Reopen: func(t *testing.T) vmm.Driver {
			if err := errors.Join(n.driver.Close(), n.net.Close()); err != nil {
				t.Fatal(err)
			}
			n.open(t)
			return n.driver
		},
		LeakCheck: n.leakCheck,
	}
}

func (n *dockerNode) open(t *testing.T) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	var err error
	n.net, err = network.Open(ctx, network.Config{
		Instance: n.instance, RuntimeDir: n.dir + "/net", HostDir: n.dir + "/nethost", PoolNAT: -1, PoolNone: -1,
		IDLow: n.lowID, IDHigh: n.highID,
	})
	if err != nil {
		t.Fatal(err)
	}
	n.driver, err = docker.New(ctx, docker.Config{
		Instance: n.instance, RuntimeDir: n.dir + "/run", Socket: n.engine.Socket, AgentPath: n.agent, Network: n.net.For(docker.Name),
	})
	if err != nil {
		t.Fatal(err)
	}
}

// leakCheck looks through the engine and the host for what machines leave.
func (n *dockerNode) leakCheck(t *testing.T) {
	t.Helper()
	c := n.engine.Client()
	list, err := c.ContainerList(t.Context(), client.ContainerListOptions{All: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, left := range list.Items {
		t.Errorf("a container is left: %v", left.Names)
	}
	images, err := c.ImageList(t.Context(), client.ImageListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, left := range images.Items {
		if len(left.RepoTags) != 1 || !strings.HasSuffix(left.RepoTags[0], ":build-build") {
			t.Errorf("an image is left: %v", left.RepoTags)
		}
	}
	if left := n.engine.Groups(); len(left) > 0 {
		t.Errorf("control groups are left: %v", left)
	}
	if left := n.engine.Mounts(); len(left) > n.mounts {
		t.Errorf("mounts are left: %v", left)
	}
	for _, pattern := range []string{"/run/m/*", "/run/p/*", "/run/t-*"} {
		if left, err := filepath.Glob(n.dir + pattern); err != nil || len(left) > 0 {
			t.Errorf("files of machines are left: %v, %v", left, err)
		}
	}
}

// demolish removes the node, and fails where the instance leaves anything in the engine.
func (n *dockerNode) demolish(t *testing.T) {
	ctx := context.WithoutCancel(t.Context())
	states, err := n.driver.List(ctx)
	if err != nil {
		t.Error(err)
	}
	for _, s := range states {
		if err := n.driver.Delete(ctx, s.MachineID); err != nil {
			t.Errorf("deleting %s: %v", s.MachineID, err)
		}
	}
	if err := n.driver.Teardown(ctx); err != nil {
		t.Error(err)
	}
	images, err := n.engine.Client().ImageList(ctx, client.ImageListOptions{All: true})
	if err != nil {
		t.Error(err)
	}
	for _, left := range images.Items {
		t.Errorf("an image is left: %v %v", left.ID, left.RepoTags)
	}
	if err := errors.Join(n.driver.Close(), n.net.Teardown(ctx)); err != nil {
		t.Error(err)
	}
	if left, err := filepath.Glob(n.dir + "/run"); err != nil || len(left) > 0 {
		t.Errorf("the runtime directory is left: %v", err)
	}
	if err := os.RemoveAll(n.dir); err != nil {
		t.Error(err)
	}
}
