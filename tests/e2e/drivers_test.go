package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/docker/dockertest"
)

// A server has several drivers, and a VM the one that it asks for, whatever
// happens to the server.
func TestDriversBesideEachOther(t *testing.T) {
	t.Parallel()
	engine := dockertest.Start(t)
	s := own(t, "AETHERIUM_DOCKER_SOCKET="+engine.Socket, "AETHERIUM_DRIVERS=oci,docker")
	c, err := s.Client()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for ctx, tried := limited(t), false; !tried; time.Sleep(50 * time.Millisecond) { // nobody is told
		drivers, err := c.Drivers(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range drivers {
			tried = tried || d.Name == "docker" && d.Usable && d.Isolation == "container-root"
		}
	}
	vm, err := c.CreateVM(limited(t), api.CreateVM{Driver: "docker", Name: "contained"})
	if err != nil || vm.Driver != "docker" || vm.Isolation != "container-root" {
		t.Fatalf("%+v, %v", vm, err)
	}
	other, err := c.CreateVM(limited(t), api.CreateVM{Name: "other"})
	if err != nil || other.Driver != "oci" {
		t.Fatalf("%+v, %v", other, err)
	}
	says := func(vm, script, want string) {
		t.Helper()
		got, err := c.Execute(limited(t), vm, api.Execute{Command: api.Command{Args: []string{"sh", "-c", script}}})
		if err != nil || strings.TrimSpace(got.Stdout) != want {
			t.Errorf("%q: %+v, %v; want %q", script, got, err, want)
		}
	}
	says(vm.ID, "echo kept > kept; hostname", vm.Hostname)
	// The worker's own link is in the container.
	says(vm.ID, `python3 -c "
import socket
server = [l.split()[1] for l in open('/etc/resolv.conf') if l.startswith('nameserver')][0]
socket.create_connection((server, 53), 10)
print('answers')"`, "answers")

	// Each driver leaves the other's machines alone when the server comes back.
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(limited(t)); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{vm.ID, other.ID} {
		if after, err := c.VM(limited(t), id); err != nil || after.State != "running" {
			t.Errorf("%+v, %v", after, err)
		}
	}
	says(vm.ID, "cat kept", "kept")
	says(other.ID, "echo on", "on")
	forks, err := c.ForkVM(limited(t), vm.ID, api.ForkVM{})
	if err != nil || len(forks) != 1 || forks[0].Driver != "docker" {
		t.Fatalf("%+v, %v", forks, err)
	}
	says(forks[0].ID, "cat kept; hostname", "kept\n"+forks[0].Hostname)

	// The doctor's trial of the engine is not in the server's way.
	if out, err := s.Standalone(limited(t), "doctor"); err != nil || !strings.Contains(out, "container-root") {
		t.Errorf("%s, %v", out, err)
	}
	says(vm.ID, "cat kept", "kept")

	// An engine that is away at the server's start: its VM is where it was.
	if err := s.Stop(limited(t)); err != nil {
		t.Fatal(err)
	}
	engine.Stop()
	if err := s.Start(limited(t)); err != nil {
		t.Fatal(err)
	}
	if after, err := c.VM(limited(t), vm.ID); err != nil || after.State != "running" {
		t.Errorf("without its engine: %+v, %v", after, err)
	}
	if _, err := c.CreateVM(limited(t), api.CreateVM{Driver: "docker"}); err == nil || !strings.Contains(err.Error(), "cannot be used here") {
		t.Errorf("a VM without an engine: %v", err)
	}
	if err := s.Stop(limited(t)); err != nil {
		t.Fatal(err)
	}
	engine.Run()
	if err := s.Start(limited(t)); err != nil {
		t.Fatal(err)
	}
	// Its container ended with the engine; its disk is kept.
	if after, err := c.VM(limited(t), vm.ID); err != nil || after.State == "failed" {
		t.Errorf("%+v, %v", after, err)
	}
	if after, err := c.StartVM(limited(t), vm.ID); err != nil {
		t.Fatalf("%+v, %v", after, err)
	}
	says(vm.ID, "cat kept", "kept")
}

// A level of isolation that no driver of the server gives is refused with the reason.
func TestIsolationIsRefusedWithAReason(t *testing.T) {
	t.Parallel()
	s := own(t, "AETHERIUM_DRIVERS=oci")
	ctx := limited(t)
	c, err := s.Client()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, args := range [][]string{{"--isolation", "microvm"}, {"--driver", "auto", "--isolation", "microvm"}, {"--driver", "oci", "--isolation", "microvm"}} {
		out, err := s.CLI(ctx, append([]string{"vm", "create"}, args...)...)
		if err == nil || !strings.Contains(err.Error(), "isolates by") || !strings.Contains(err.Error(), "hint: ") {
			t.Errorf("%v: %s, %v", args, out, err)
		}
	}
	out, err := s.CLI(ctx, "vm", "create", "--driver", "auto", "--isolation", "container", "-q")
	if err != nil {
		t.Fatal(err)
	}
	vm, err := c.VM(ctx, strings.TrimSpace(out))
	if err != nil || vm.Driver != "oci" || vm.Isolation != "container" {
		t.Errorf("%+v, %v", vm, err)
	}
	if _, err := c.DeleteVM(ctx, vm.ID); err != nil {
		t.Error(fmt.Errorf("%s: %w", vm.ID, err))
	}
}

// A host where Docker is all there is: warm machines, claims and forks are as
// with any other driver.
func TestDockerAlone(t *testing.T) {
	t.Parallel()
	engine := dockertest.Start(t)
	s := own(t, "AETHERIUM_DOCKER_SOCKET="+engine.Socket, "AETHERIUM_DRIVERS=docker", "AETHERIUM_VM_DRIVER=docker", "AETHERIUM_POOL_SIZE=1")
	ctx := limited(t)
	c, err := s.Client()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for i := range 3 { // the first is made, later ones may be claimed
		vm, err := c.CreateVM(ctx, api.CreateVM{Hostname: fmt.Sprintf("host%d", i)})
		if err != nil || vm.Driver != "docker" || vm.Isolation != "container-root" {
			t.Fatalf("%+v, %v", vm, err)
		}
		got, err := c.Execute(ctx, vm.ID, api.Execute{Command: api.Command{Args: []string{"sh", "-c", "cat /proc/sys/kernel/hostname; grep -c host" + fmt.Sprint(i) + " /etc/hosts"}}})
		if want := fmt.Sprintf("host%d\n1\n", i); err != nil || got.Stdout != want {
			t.Errorf("%+v, %v; want %q", got, err, want)
		}
		if _, err := c.DeleteVM(ctx, vm.ID); err != nil {
			t.Error(err)
		}
	}
	if _, err := c.CreateVM(ctx, api.CreateVM{Driver: "auto", MinIsolation: "container"}); err == nil || !strings.Contains(err.Error(), "no driver here isolates by container") {
		t.Errorf("more isolation than there is: %v", err)
	}
}
