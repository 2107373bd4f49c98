// Command bench measures Aetherium and its peers side by side, in one run and
// on the same root filesystem: Docker, Podman, runc and bubblewrap. It prints a
// table and writes bench/out/latest.json. It needs root, for the peers as well.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/core/pkg/client"
	"github.com/aetherium/aetherium/tests/internal/server"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type bench struct {
	log    io.Writer
	rounds int
	dir    string
	rootfs string
	srv    *server.Server
	c      *client.Client
	docker *docker
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	rounds := flags.Int("rounds", 21, "measured rounds of each benchmark")
	out := flags.String("out", "bench/out/latest.json", "where the JSON goes")
	data := flags.String("data", "", "data directory to use and keep; default: a new one that is removed")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *rounds < 3 || *rounds > 1000 {
		return fmt.Errorf("%d rounds are out of range", *rounds)
	}
	dir, err := os.MkdirTemp("", "aetherium-bench-")
	if err != nil {
		return err
	}
	defer func() {
		// Podman leaves its storage mounted.
		_ = syscall.Unmount(filepath.Join(dir, "podman", "overlay"), syscall.MNT_DETACH)
		err = errors.Join(err, os.RemoveAll(dir))
	}()
	b := &bench{log: stderr, rounds: *rounds, dir: dir}
	dataDir, keep := *data, true
	if dataDir == "" {
		dataDir, keep = filepath.Join(dir, "data"), false
	}
	if b.srv, err = server.New(dataDir, "AETHERIUM_LOG_LEVEL=warn"); err != nil {
		return err
	}
	defer func() {
		down := []string{}
		if !keep {
			down = append(down, "--purge")
		}
		err = errors.Join(err, b.srv.Down(context.WithoutCancel(ctx), down...))
	}()
	if err := b.start(ctx); err != nil {
		return err
	}
	if b.docker != nil {
		defer b.docker.stop()
	}
	var results []Result
	for _, f := range []func(context.Context) (Result, error){b.create, b.createNAT, b.exec} {
		r, err := f(ctx)
		if err != nil {
			return err
		}
		results = append(results, r)
	}
	printTable(stdout, results)
	return writeJSON(*out, results)
}

// start brings up the server with its base template and the peers on the same tree.
func (b *bench) start(ctx context.Context) error {
	fmt.Fprintln(b.log, "starting the server (the base template is made the first time)")
	if err := b.srv.Start(ctx); err != nil {
		return err
	}
	var err error
	if b.c, err = b.srv.Client(); err != nil {
		return err
	}
	tmpl, err := b.c.Template(ctx, "base")
	if err != nil {
		return err
	}
	b.rootfs = filepath.Join(b.srv.DataDir, "images", tmpl.Tags["latest"], "rootfs")
	if _, err := os.Stat(b.rootfs); err != nil {
		return err
	}
	fmt.Fprintln(b.log, "starting dockerd and importing the same root filesystem")
	dir := filepath.Join(b.dir, "docker")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	if b.docker, err = startDocker(ctx, dir, b.rootfs); err != nil {
		b.docker = nil
		fmt.Fprintf(b.log, "docker is left out: %v\n", err)
	}
	return nil
}

// ours creates a VM over the HTTP API and says how long it took until the
// first byte of echo's output; the VM is removed afterwards, outside the measure.
func (b *bench) ours(network string) contender {
	return contender{"aetherium", func(ctx context.Context) (time.Duration, error) {
		start := time.Now()
		vm, err := b.c.CreateVM(ctx, api.CreateVM{Template: "base", Network: network})
		if err != nil {
			return 0, err
		}
		took, err := b.firstByte(ctx, vm.ID, start)
		_, derr := b.c.DeleteVM(ctx, vm.ID)
		return took, errors.Join(err, derr)
	}}
}

func (b *bench) firstByte(ctx context.Context, vm string, start time.Time) (time.Duration, error) {
	s, err := b.c.Start(ctx, vm, api.StartExecution{Command: api.Command{Args: []string{"echo", "hi"}}}, client.StreamOptions{})
	if err != nil {
		return 0, err
	}
	defer s.Close()
	var took time.Duration
	for {
		ev, err := s.Next(ctx)
		if errors.Is(err, io.EOF) {
			if took == 0 {
				return 0, errors.New("no output")
			}
			return took, nil
		}
		if err != nil {
			return 0, err
		}
		if len(ev.Data) > 0 && took == 0 {
			took = time.Since(start)
		}
	}
}

// create compares cold creations without network.
func (b *bench) create(ctx context.Context) (Result, error) {
	cs := []contender{b.ours("none")}
	add := func(c contender) {
		if works(ctx, b.log, c) {
			cs = append(cs, c)
		}
	}
	if b.docker != nil {
		add(contender{"docker run --rm", func(ctx context.Context) (time.Duration, error) {
			return firstOutput(ctx, "docker", b.docker.args("run", "--rm", "--network", "none", dockerImage, "echo", "hi")...)
		}})
	}
	if have(b.log, "podman") {
		root := filepath.Join(b.dir, "podman")
		add(contender{"podman run --rm", func(ctx context.Context) (time.Duration, error) {
			return firstOutput(ctx, "podman", "--root", root, "--runroot", root+"-run", "--cgroup-manager=cgroupfs", "--events-backend=none",
				"--runtime", "runc", "run", "--rm", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024",
				"--network", "none", "--rootfs", b.rootfs+":O", "echo", "hi")
		}})
	}
	if have(b.log, "runc") {
		bundle := filepath.Join(b.dir, "bundle")
		if err := runcBundle(ctx, bundle, b.rootfs); err != nil {
			return Result{}, err
		}
		n := 0
		add(contender{"runc run", func(ctx context.Context) (time.Duration, error) {
			n++
			return firstOutput(ctx, "runc", "--root", filepath.Join(b.dir, "runc"), "run", "--bundle", bundle, fmt.Sprintf("aetherium-bench-%d-%d", os.Getpid(), n))
		}})
	}
	if have(b.log, "bwrap") {
		add(contender{"bwrap", func(ctx context.Context) (time.Duration, error) {
			return firstOutput(ctx, "bwrap", "--ro-bind", b.rootfs, "/", "--proc", "/proc", "--dev", "/dev", "--unshare-all", "echo", "hi")
		}})
	}
	return race(ctx, b.log, "create to first output, no network, cold", b.rounds, cs)
}

// createNAT compares cold creations with a network of their own.
func (b *bench) createNAT(ctx context.Context) (Result, error) {
	cs := []contender{b.ours("nat")}
	if b.docker != nil {
		c := contender{"docker run --rm", func(ctx context.Context) (time.Duration, error) {
			return firstOutput(ctx, "docker", b.docker.args("run", "--rm", dockerImage, "echo", "hi")...)
		}}
		if works(ctx, b.log, c) {
			cs = append(cs, c)
		}
	}
	return race(ctx, b.log, "create to first output, with network, cold", b.rounds, cs)
}

// exec compares running `true` in something that runs already.
func (b *bench) exec(ctx context.Context) (r Result, err error) {
	vm, err := b.c.CreateVM(ctx, api.CreateVM{Template: "base", Network: "none"})
	if err != nil {
		return r, err
	}
	defer func() {
		_, derr := b.c.DeleteVM(context.WithoutCancel(ctx), vm.ID)
		err = errors.Join(err, derr)
	}()
	cs := []contender{{"aetherium", func(ctx context.Context) (time.Duration, error) {
		start := time.Now()
		res, err := b.c.Execute(ctx, vm.ID, api.Execute{Command: api.Command{Args: []string{"true"}}})
		took := time.Since(start)
		if err == nil && (res.Execution.ExitCode == nil || *res.Execution.ExitCode != 0) {
			err = fmt.Errorf("true failed: %+v", res)
		}
		return took, err
	}}, {"fork+exec from Go", func(ctx context.Context) (time.Duration, error) { return whole(ctx, "true") }}}
	if b.docker != nil {
		id, err := exec.CommandContext(ctx, "docker", b.docker.args("run", "-d", "--network", "none", dockerImage, "sleep", "infinity")...).Output()
		if err != nil {
			return r, err
		}
		name := firstLine(string(id))
		defer func() {
			_ = exec.CommandContext(context.WithoutCancel(ctx), "docker", b.docker.args("rm", "-f", name)...).Run()
		}()
		cs = append(cs, contender{"docker exec", func(ctx context.Context) (time.Duration, error) {
			return whole(ctx, "docker", b.docker.args("exec", name, "true")...)
		}})
	}
	return race(ctx, b.log, "exec true in a running VM", b.rounds*3, cs)
}
