// Command bench measures Aetherium and its peers side by side, in one run and
// on the same root filesystem: Docker, Podman, runc and bubblewrap; machines
// with kernels of their own against bare QEMU and their own cold boots; E2B's SDK
// against Docker's client; and processes that share PostgreSQL and Redis against
// one with everything in itself. It prints a table and writes bench/out/latest.json.
// It needs root, for the peers as well.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/aetherium/aetherium/services/core/pkg/client"
	"github.com/aetherium/aetherium/tests/internal/server"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	played, err := role(os.Args[1:], os.Stdout)
	if !played {
		err = run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type bench struct {
	log    io.Writer
	rounds int
	dir    string
	run    string // the peers' runtime files
	rootfs string
	warm   *site // with the pool that is there by default
	cold   *site // without one
	docker *docker
	micro  *microVMs // nil until they are needed
	fleet  *fleet    // likewise
}

// site is one of our servers with a client.
type site struct {
	*server.Server
	c *client.Client
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	rounds := flags.Int("rounds", 21, "measured rounds of each benchmark")
	out := flags.String("out", "bench/out/latest.json", "where the JSON goes")
	only := flags.String("only", "", "run only the benchmarks whose names contain this")
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
	b := &bench{log: stderr, rounds: *rounds, dir: dir, run: filepath.Join(dir, "run")}
	defer func() {
		// Podman leaves its storage mounted.
		_ = syscall.Unmount(filepath.Join(dir, "podman", "overlay"), syscall.MNT_DETACH)
		_ = syscall.Unmount(b.run, syscall.MNT_DETACH)
		err = errors.Join(err, os.RemoveAll(dir))
	}()
	// Everybody's runtime files are in memory, as /run usually is.
	if err := errors.Join(os.Mkdir(b.run, 0o711), syscall.Mount("bench", b.run, "tmpfs", 0, "size=256m")); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.stop(context.WithoutCancel(ctx))) }()
	chosen := slices.DeleteFunc(b.all(), func(m benchmark) bool { return !strings.Contains(m.name, *only) })
	if len(chosen) == 0 {
		return fmt.Errorf("no benchmark has %q in its name", *only)
	}
	if err := b.start(ctx, slices.ContainsFunc(chosen, func(m benchmark) bool { return !apart(m.name) })); err != nil {
		return err
	}
	var results []Result
	for _, m := range chosen {
		fmt.Fprintln(b.log, m.name)
		r, merr := m.do(ctx, m.name)
		if merr != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", m.name, merr)) // the others are worth having
			continue
		}
		results = append(results, r...)
	}
	printTable(stdout, results)
	return errors.Join(err, writeJSON(*out, results))
}

// benchmark yields one result or a few that are measured together.
type benchmark struct {
	name string
	do   func(ctx context.Context, name string) ([]Result, error)
}

func (b *bench) all() []benchmark {
	return []benchmark{
		{"create to first output, from the pool", b.createWarm},
		{"create to first output, cold", b.createCold},
		{"create to first output, with network, from the pool", b.createNAT},
		{"create to first output, with network, cold", b.createNATCold},
		{"create, run, remove", b.whole},
		{"exec true in a running VM", b.exec},
		{"100 at once, create to first output", b.burst},
		{"1 GB of output", b.stream},
		{"a file of 1 GB in", b.upload},
		{"a file of 1 GB out", b.download},
		{"memory of an idle VM", b.memory},
		{"cost with many VMs", b.scale},
		{sdkPart + "create and echo", b.sdk},
		{proxyPart + "a preview's URL", b.proxy},
		{fleetPart + "what a create takes more", b.fleetAdded},
		{fleetPart + "GET of a VM", b.fleetGet},
		{fleetPart + "exec true", b.fleetExec},
		{fleetPart + "create and echo", b.fleetCreates},
		{fleetPart + "create, echo, remove", b.fleetLives},
		{microVMPart + "claims", b.microVMClaims},
		{microVMPart + "starts", b.microVMStarts},
		{microVMPart + "forks", b.microVMForks},
	}
}

// microVMPart begins the names of benchmarks of machines with kernels of their own.
const microVMPart = "microvm "

// apart reports whether a benchmark needs nothing of the others.
func apart(name string) bool {
	return strings.HasPrefix(name, microVMPart) || strings.HasPrefix(name, proxyPart) || strings.HasPrefix(name, fleetPart)
}

// start brings up our servers on one base template, and with peers Docker on the
// same tree. Without, a root filesystem will do.
func (b *bench) start(ctx context.Context, peers bool) (err error) {
	if b.rootfs = os.Getenv(rootfsEnv); b.rootfs != "" && !peers {
		return nil
	}
	fmt.Fprintln(b.log, "starting the servers (the base template is made once)")
	if b.warm, err = b.serve(ctx, "warm"); err != nil {
		return err
	}
	tmpl, err := b.warm.c.Template(ctx, "base")
	if err != nil {
		return err
	}
	b.rootfs = filepath.Join(b.warm.DataDir, "images", tmpl.Tags["latest"], "rootfs")
	if _, err := os.Stat(b.rootfs); err != nil {
		return err
	}
	if !peers {
		return nil
	}
	if b.cold, err = b.serve(ctx, "cold", "AETHERIUM_POOL_SIZE=0", "AETHERIUM_BASE_SKIP=true"); err != nil {
		return err
	}
	if _, err := b.cold.CLI(ctx, "template", "build", "base", "--dir", b.rootfs); err != nil {
		return err
	}
	b.haveDocker(ctx)
	return nil
}

// haveDocker starts Docker on the same tree, or says why it is left out.
func (b *bench) haveDocker(ctx context.Context) {
	if b.docker != nil {
		return
	}
	fmt.Fprintln(b.log, "starting dockerd and importing the same root filesystem")
	dir := filepath.Join(b.dir, "docker")
	err := os.MkdirAll(dir, 0o700)
	if err == nil {
		b.docker, err = startDocker(ctx, dir, filepath.Join(b.run, "docker"), b.rootfs)
	}
	if err != nil {
		b.docker = nil
		fmt.Fprintf(b.log, "docker is left out: %v\n", err)
	}
}

// smallDisks has hundreds of VMs have room on any host.
const smallDisks = "AETHERIUM_VM_DISK=4GiB"

func (b *bench) serve(ctx context.Context, name string, settings ...string) (*site, error) {
	s, err := b.prepare(name, settings...)
	if err != nil {
		return nil, err
	}
	return s, s.begin(ctx)
}

// prepare makes a server that does not run yet.
func (b *bench) prepare(name string, settings ...string) (*site, error) {
	srv, err := server.New(filepath.Join(b.dir, name), append(slices.Clone(settings), smallDisks)...)
	if err != nil {
		return nil, err
	}
	return &site{Server: srv}, nil
}

func (s *site) begin(ctx context.Context) error {
	err := s.Start(ctx)
	if err == nil {
		s.c, err = s.Client()
	}
	return err
}

func (b *bench) stop(ctx context.Context) error {
	var err error
	if b.docker != nil {
		b.docker.stop()
	}
	sites := []*site{b.warm, b.cold}
	if b.micro != nil {
		sites = append(sites, b.micro.cold, b.micro.kept, b.micro.pool)
	}
	if b.fleet != nil {
		err = b.fleet.stop(ctx)
	}
	for _, s := range sites {
		if s != nil {
			err = errors.Join(err, s.Down(ctx, "--purge"))
		}
	}
	return err
}
