package docker_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/client"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/network"
	"github.com/aetherium/aetherium/services/core/pkg/network/networktest"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/docker"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/docker/dockertest"
)

// workerEnv has the test binary be a worker that is there to be killed: it
// holds the site that it works on.
const workerEnv = "AETHERIUM_DOCKER_TEST_WORKER"

// site is where a node of the crash test is.
type site struct {
	Dir, Instance, Socket, Agent, RootFS string
	LowID, HighID                        uint32
}

func (s site) open(ctx context.Context) (*docker.Driver, *network.Manager, error) {
	net, err := network.Open(ctx, network.Config{
		Instance: s.Instance, RuntimeDir: s.Dir + "/net", HostDir: s.Dir + "/host", PoolNAT: -1, PoolNone: -1,
		IDLow: s.LowID, IDHigh: s.HighID,
	})
	if err != nil {
		return nil, nil, err
	}
	d, err := docker.New(ctx, docker.Config{
		Instance: s.Instance, RuntimeDir: s.Dir + "/run", Socket: s.Socket, AgentPath: s.Agent, Network: net.For(docker.Name),
	})
	return d, net, err
}

func (s site) spec(id string) vmm.Spec {
	return vmm.Spec{
		MachineID: id, RootFS: s.RootFS, BuildID: "template", Network: domain.NetworkNone, Hostname: id,
		Resources: domain.Resources{MilliCPU: 1000, MemoryBytes: 128 << 20, PIDs: 64},
	}
}

// churn makes and unmakes machines until it is killed, and says each step.
func churn() error {
	ctx := context.Background()
	var s site
	if err := json.Unmarshal([]byte(os.Getenv(workerEnv)), &s); err != nil {
		return err
	}
	d, _, err := s.open(ctx)
	if err != nil {
		return err
	}
	for i := 0; ; i++ {
		id := fmt.Sprintf("churn-%d-%d", os.Getpid(), i) // never one that may be on its way out
		for step, do := range []func() error{
			func() error { _, err := d.Create(ctx, s.spec(id)); return err },
			func() error { return d.Start(ctx, id) },
			func() error { _, err := d.Snapshot(ctx, id, "snap-"+id, domain.SnapshotDisk); return err },
			func() error { return d.Pause(ctx, id, domain.PauseFreeze) },
			func() error { return d.DeleteSnapshot(ctx, "snap-"+id) },
			func() error { return d.Delete(ctx, id) },
		} {
			fmt.Println(id, step)
			if err := do(); err != nil {
				return fmt.Errorf("step %d of %s: %w", step, id, err)
			}
		}
	}
}

func TestAKillAtAnyMomentLeavesWhatCanBeFound(t *testing.T) {
	engine := dockertest.Start(t)
	ctx := context.WithoutCancel(t.Context())
	dir, err := os.MkdirTemp("/tmp", "docker-")
	must(t, err)
	must(t, os.Chmod(dir, 0o711))
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	s := site{Dir: dir, Instance: fmt.Sprintf("k%d", os.Getpid()), Socket: engine.Socket, Agent: filepath.Join(dir, "fc-agent"), RootFS: template(t)}
	s.LowID, s.HighID = networktest.IDs(t)
	build := exec.CommandContext(t.Context(), "go", "build", "-o", s.Agent, "../../../cmd/fc-agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the agent: %v\n%s", err, out)
	}
	raw, err := json.Marshal(s)
	must(t, err)
	for round := range 14 {
		worker := exec.CommandContext(t.Context(), "/proc/self/exe")
		worker.Env, worker.Stderr = append(os.Environ(), workerEnv+"="+string(raw)), os.Stderr
		said, err := worker.StdoutPipe()
		must(t, err)
		must(t, worker.Start())
		lines := bufio.NewScanner(said)
		for range round + 1 { // at another step each time, and another moment of it
			if !lines.Scan() {
				t.Fatalf("the worker ended by itself: %v", worker.Wait())
			}
		}
		time.Sleep(time.Duration(round%5) * 7 * time.Millisecond)
		must(t, worker.Process.Kill())
		_ = worker.Wait()
	}
	// The next one finds everything, and can remove all of it.
	d, net, err := s.open(ctx)
	must(t, err)
	states, err := d.List(ctx)
	must(t, err)
	for _, state := range states {
		must(t, d.Delete(ctx, state.MachineID))
	}
	snapshots, err := d.ListSnapshots(ctx)
	must(t, err)
	for _, id := range snapshots {
		must(t, d.DeleteSnapshot(ctx, id))
	}
	if left, err := d.List(ctx); err != nil || len(left) > 0 {
		t.Errorf("left: %+v, %v", left, err)
	}
	must(t, d.Teardown(ctx))
	must(t, errors.Join(d.Close(), net.Teardown(ctx)))
	c := engine.Client()
	containers, err := c.ContainerList(ctx, client.ContainerListOptions{All: true})
	must(t, err)
	images, err := c.ImageList(ctx, client.ImageListOptions{All: true})
	must(t, err)
	if len(containers.Items) > 0 || len(images.Items) > 0 {
		t.Errorf("the engine has %+v and %+v", containers.Items, images.Items)
	}
	files, err := filepath.Glob(dir + "/*")
	must(t, err)
	if files = slices.DeleteFunc(files, func(f string) bool { return strings.HasSuffix(f, "/fc-agent") || strings.HasSuffix(f, "/host") }); len(files) > 0 {
		t.Errorf("left: %v", files)
	}
	if groups := engine.Groups(); len(groups) > 0 {
		t.Errorf("left: %v", groups)
	}
}
