package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/api"
)

// echo creates a VM over the HTTP API and runs echo in it; it returns when the
// output has arrived.
func (s *site) echo(ctx context.Context, req api.CreateVM) (vm string, err error) {
	req.Template = "base"
	made, err := s.c.CreateVM(ctx, req)
	if err != nil {
		return "", err
	}
	res, err := s.c.Execute(ctx, made.ID, api.Execute{Command: api.Command{Args: []string{"echo", "hi"}}})
	if err == nil && res.Stdout != "hi\n" {
		err = fmt.Errorf("echo wrote %q", res.Stdout)
	}
	return made.ID, err
}

// ours is echo, timed to its output; the VM is removed outside the measure.
func (s *site) ours(network string) contender {
	return contender{"aetherium", func(ctx context.Context) (time.Duration, error) {
		start := time.Now()
		vm, err := s.echo(ctx, api.CreateVM{Network: network})
		took := time.Since(start)
		if vm != "" {
			_, derr := s.c.DeleteVM(ctx, vm)
			err = errors.Join(err, derr)
		}
		// What the server does behind a creation is not the next round's.
		return took, errors.Join(err, pause(ctx))
	}}
}

// pause lets a server finish what it does after an answer.
func pause(ctx context.Context) error {
	select {
	case <-time.After(150 * time.Millisecond):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// dockerRun is `docker run --rm`, to the first byte of output and, by another
// name, to its end.
func (b *bench) dockerRun(args ...string) []contender {
	if b.docker == nil {
		return nil
	}
	args = b.docker.args(append(append([]string{"run", "--rm"}, args...), dockerImage, "echo", "hi")...)
	return []contender{
		{"docker run --rm, first byte", func(ctx context.Context) (time.Duration, error) { return firstOutput(ctx, "docker", args...) }},
		{"docker run --rm", func(ctx context.Context) (time.Duration, error) { return whole(ctx, "docker", args...) }},
	}
}

// others are the peers that make a container of a directory.
func (b *bench) others(ctx context.Context) ([]contender, error) {
	var cs []contender
	if have(b.log, "podman") {
		root := filepath.Join(b.dir, "podman")
		cs = append(cs, contender{"podman run --rm, first byte", func(ctx context.Context) (time.Duration, error) {
			return firstOutput(ctx, "podman", "--root", root, "--runroot", filepath.Join(b.run, "podman"), "--cgroup-manager=cgroupfs", "--events-backend=none",
				"--runtime", "runc", "run", "--rm", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024",
				"--network", "none", "--rootfs", b.rootfs+":O", "echo", "hi")
		}})
	}
	if have(b.log, "runc") {
		c, err := b.runc(ctx)
		if err != nil {
			return nil, err
		}
		cs = append(cs, c)
	}
	if have(b.log, "bwrap") {
		cs = append(cs, contender{"bwrap, first byte", func(ctx context.Context) (time.Duration, error) {
			return firstOutput(ctx, "bwrap", "--ro-bind", b.rootfs, "/", "--proc", "/proc", "--dev", "/dev", "--unshare-all", "echo", "hi")
		}})
	}
	return cs, nil
}

// runc is the bare OCI runtime on a prepared bundle, to its end.
func (b *bench) runc(ctx context.Context) (contender, error) {
	bundle := filepath.Join(b.dir, "bundle")
	if _, err := os.Stat(bundle); err != nil {
		if err := runcBundle(ctx, bundle, b.rootfs); err != nil {
			return contender{}, err
		}
	}
	n := 0
	return contender{"runc run", func(ctx context.Context) (time.Duration, error) {
		n++
		return whole(ctx, "runc", "--root", filepath.Join(b.run, "runc"), "run", "--bundle", bundle, fmt.Sprintf("aetherium-bench-%d-%d", os.Getpid(), n))
	}}, nil
}

func (b *bench) createWarm(ctx context.Context, name string) ([]Result, error) {
	others, err := b.others(ctx)
	if err != nil {
		return nil, err
	}
	return b.race(ctx, name, b.rounds, b.warm.ours("none"), append(b.dockerRun("--network", "none"), others...))
}

func (b *bench) createCold(ctx context.Context, name string) ([]Result, error) {
	others, err := b.others(ctx)
	if err != nil {
		return nil, err
	}
	return b.race(ctx, name, b.rounds, b.cold.ours("none"), append(b.dockerRun("--network", "none"), others...))
}

func (b *bench) createNAT(ctx context.Context, name string) ([]Result, error) {
	return b.race(ctx, name, b.rounds, b.warm.ours("nat"), b.dockerRun())
}

func (b *bench) createNATCold(ctx context.Context, name string) ([]Result, error) {
	return b.race(ctx, name, b.rounds, b.cold.ours("nat"), b.dockerRun())
}

// whole is a machine for one command, until the machine is gone.
func (b *bench) whole(ctx context.Context, name string) ([]Result, error) {
	ours := contender{"aetherium", func(ctx context.Context) (time.Duration, error) {
		start := time.Now()
		vm, err := b.warm.echo(ctx, api.CreateVM{Network: "none"})
		if err == nil {
			_, err = b.warm.c.DeleteVM(ctx, vm)
		}
		return time.Since(start), errors.Join(err, pause(ctx))
	}}
	cs := b.dockerRun("--network", "none")
	if len(cs) > 0 {
		cs = cs[1:]
	}
	if have(b.log, "runc") {
		c, err := b.runc(ctx)
		if err != nil {
			return nil, err
		}
		cs = append(cs, c)
	}
	return b.race(ctx, name, b.rounds, ours, cs)
}

// race measures us against the peers that run here.
func (b *bench) race(ctx context.Context, name string, rounds int, ours contender, peers []contender) ([]Result, error) {
	cs := []contender{ours}
	for _, c := range peers {
		if works(ctx, b.log, c) {
			cs = append(cs, c)
		}
	}
	r, err := race(ctx, name, rounds, cs)
	return []Result{r}, err
}

// burstSize is how many are asked for at once.
const burstSize = 100

// burst asks for many VMs at once, and for as many containers.
func (b *bench) burst(ctx context.Context, name string) ([]Result, error) {
	each, total := newResult(name, "ms", Sample{}), newResult("100 at once, until the last one's output", "ms", Sample{})
	ours, all, err := atOnce(ctx, burstSize, func(ctx context.Context) (func() error, error) {
		// A quarter of the default's memory, so that the host may promise it to all.
		vm, err := b.warm.echo(ctx, api.CreateVM{Network: "none", Resources: &api.Resources{MemoryBytes: 256 << 20}})
		return func() error { _, err := b.warm.c.DeleteVM(ctx, vm); return err }, err
	})
	if err != nil {
		return nil, err
	}
	each.Ours, total.Ours = sample(ours), sample([]time.Duration{all})
	if b.docker == nil {
		return []Result{each, total}, nil
	}
	args := b.docker.args("run", "--rm", "--network", "none", dockerImage, "echo", "hi")
	theirs, all, err := atOnce(ctx, burstSize, func(ctx context.Context) (func() error, error) {
		_, err := whole(ctx, "docker", args...)
		return func() error { return nil }, err
	})
	if err != nil {
		fmt.Fprintf(b.log, "docker run does not bear %d at once: %v\n", burstSize, err)
		return []Result{each, total}, nil
	}
	each.against("docker run --rm", sample(theirs))
	total.against("docker run --rm", sample([]time.Duration{all}))
	return []Result{each, total}, nil
}

// atOnce does something n times at the same time; what each left to undo is
// done afterwards.
func atOnce(ctx context.Context, n int, do func(context.Context) (undo func() error, err error)) (each []time.Duration, total time.Duration, err error) {
	each = make([]time.Duration, n)
	undos, errs := make([]func() error, n), make([]error, n)
	var all sync.WaitGroup
	start := time.Now()
	for i := range n {
		all.Go(func() {
			undos[i], errs[i] = do(ctx)
			each[i] = time.Since(start)
		})
	}
	all.Wait()
	total = time.Since(start)
	for i := range n {
		if errs[i] == nil {
			errs[i] = undos[i]()
		}
	}
	return each, total, errors.Join(errs...)
}
