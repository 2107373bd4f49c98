package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/client"
	"github.com/aetherium/aetherium/tests/internal/server"
)

// fleetPart begins the names of benchmarks of an installation of many processes.
const fleetPart = "fleet, "

// How long clients do a thing over and over for one measurement.
const (
	fleetCreating = 2 * time.Second
	fleetAsking   = time.Second
)

// fleetClients are how many do it at the same time.
func fleetClients() []int { return []int{1, 8} }

// fleet is the product twice, with the same settings: a gateway and a worker that
// share PostgreSQL and Redis, and one process with everything in itself.
type fleet struct {
	lacking  string // why it cannot be had here
	backing  *server.Backing
	worker   *server.Server
	gateway  *site
	embedded *site
}

// withFleet does something with the installations, where they can be had, and
// with Docker where there is one.
func (b *bench) withFleet(ctx context.Context, do func(*fleet) ([]Result, error)) ([]Result, error) {
	if b.fleet == nil {
		b.fleet = &fleet{}
		var err error
		if b.fleet.backing, err = server.StartBacking(ctx); err != nil {
			b.fleet.lacking = err.Error()
		} else if err := b.fleet.start(ctx, b); err != nil {
			b.fleet.lacking = err.Error()
			return nil, err
		}
		b.haveDocker(ctx)
	}
	if b.fleet.lacking != "" {
		fmt.Fprintf(b.log, "left out: %s\n", b.fleet.lacking)
		return nil, nil
	}
	return do(b.fleet)
}

// start brings up both, on the rootfs that the others have.
func (f *fleet) start(ctx context.Context, b *bench) (err error) {
	// A key's requests are not limited: it is the server that is measured.
	both := []string{"AETHERIUM_DRIVERS=oci", "AETHERIUM_BASE_SKIP=true", "AETHERIUM_LIMITS_KEY_RATE=0", "AETHERIUM_LIMITS_KEY_BURST=0", smallDisks}
	if f.embedded, err = b.serve(ctx, "embedded", both...); err != nil {
		return err
	}
	set := server.NewFleet(filepath.Join(b.dir, "fleet"), slices.Concat(f.backing.Settings(f.backing.DatabaseAddress(), f.backing.QueueAddress()), both)...)
	g, err := set.Gateway("gateway")
	if err != nil {
		return err
	}
	if err := g.Run(ctx); err != nil {
		return err
	}
	f.gateway = &site{Server: g}
	if f.gateway.c, err = g.Client(); err != nil {
		return err
	}
	if f.worker, err = set.Worker(ctx, "worker", g); err != nil {
		return err
	}
	if err := f.worker.Run(ctx); err != nil {
		return err
	}
	for _, s := range []*site{f.gateway, f.embedded} {
		if _, err := s.CLI(ctx, "template", "build", "base", "--dir", b.rootfs); err != nil {
			return err
		}
	}
	return nil
}

func (f *fleet) stop(ctx context.Context) error {
	var err error
	if f.embedded != nil {
		err = f.embedded.Down(ctx, "--purge")
	}
	if f.worker != nil {
		err = errors.Join(err, f.worker.End(ctx), f.worker.Remove(ctx))
	}
	if f.gateway != nil {
		err = errors.Join(err, f.gateway.End(ctx))
	}
	if f.backing != nil {
		err = errors.Join(err, f.backing.Stop())
	}
	return err
}

// way is one side of a comparison of rates.
type way struct {
	name  string
	once  func(context.Context) error
	least float64                     // how many times faster than it we are to be; 0: no matter
	after func(context.Context) error // what is done when the clock stands; nil: nothing
}

// fleetCreates measures how many machines a second are made and run something.
// Ours are removed when the clock stands.
func (b *bench) fleetCreates(ctx context.Context, name string) ([]Result, error) {
	return b.withFleet(ctx, func(f *fleet) ([]Result, error) {
		making := func(name string, s *site, least float64) way {
			var mu sync.Mutex
			var made []string
			return way{name, func(ctx context.Context) error {
				// Little is promised to each, for there are to be many.
				vm, err := s.echo(ctx, api.CreateVM{Network: "none", Resources: &api.Resources{MemoryBytes: 64 << 20, DiskBytes: 64 << 20}})
				mu.Lock()
				defer mu.Unlock()
				if vm != "" {
					made = append(made, vm)
				}
				return err
			}, least, func(ctx context.Context) error {
				err := s.remove(context.WithoutCancel(ctx), made)
				made = nil
				return err
			}}
		}
		return b.rates(ctx, name, fleetCreating, append([]way{making("aetherium", f.gateway, 0), making("embedded", f.embedded, 0.7)}, b.dockerWays(8)...))
	})
}

// fleetAdded measures how much longer one create takes by a gateway and a worker
// than in one process, from the pool, until the VM runs and with its first output.
func (b *bench) fleetAdded(ctx context.Context, name string) ([]Result, error) {
	return b.withFleet(ctx, func(f *fleet) (results []Result, err error) {
		req := api.CreateVM{Template: "base", Network: "none"}
		made := func(s *site, to string, begin func(context.Context) (string, error)) contender {
			return contender{to, func(ctx context.Context) (time.Duration, error) {
				start := time.Now()
				vm, err := begin(ctx)
				took := time.Since(start)
				if vm != "" {
					_, derr := s.c.DeleteVM(context.WithoutCancel(ctx), vm)
					err = errors.Join(err, derr)
				}
				return took, errors.Join(err, pause(ctx)) // the pool's next one is made meanwhile
			}}
		}
		for _, part := range []struct {
			name  string
			begin func(s *site) func(context.Context) (string, error)
		}{
			{"until it runs", func(s *site) func(context.Context) (string, error) {
				return func(ctx context.Context) (string, error) {
					vm, err := s.c.CreateVM(ctx, req)
					return vm.ID, err
				}
			}},
			{"with its first output", func(s *site) func(context.Context) (string, error) {
				return func(ctx context.Context) (string, error) { return s.echo(ctx, req) }
			}},
		} {
			took, err := turns(ctx, name, b.rounds, []contender{
				made(f.gateway, "aetherium", part.begin(f.gateway)), made(f.embedded, "embedded", part.begin(f.embedded)),
			})
			if err != nil {
				return results, err
			}
			whole := newResult(name+", "+part.name, "ms", sample(took[0]))
			whole.against("embedded", sample(took[1]))
			more := make([]float64, b.rounds)
			for i := range more {
				more[i] = float64((took[0][i] - took[1][i]).Microseconds()) / 1000
			}
			added := newResult(name+", "+part.name+", than embedded", "ms", distribution(more))
			added.goal("5 ms", sample([]time.Duration{5 * time.Millisecond}), 1)
			results = append(results, whole, added)
		}
		return results, nil
	})
}

// fleetLives measures the same with the removal.
func (b *bench) fleetLives(ctx context.Context, name string) ([]Result, error) {
	return b.withFleet(ctx, func(f *fleet) ([]Result, error) {
		whole := func(s *site) func(context.Context) error {
			return func(ctx context.Context) error {
				vm, err := s.echo(ctx, api.CreateVM{Network: "none"})
				if vm != "" {
					_, derr := s.c.DeleteVM(ctx, vm)
					err = errors.Join(err, derr)
				}
				return err
			}
		}
		ways := []way{{name: "aetherium", once: whole(f.gateway)}, {name: "embedded", once: whole(f.embedded)}}
		return b.rates(ctx, name, fleetCreating, append(ways, b.dockerWays(0)...))
	})
}

// dockerWays is `docker run --rm` to its end, if it is there.
func (b *bench) dockerWays(least float64) []way {
	cs := b.dockerRun("--network", "none")
	if len(cs) == 0 {
		return nil
	}
	run := cs[len(cs)-1]
	return []way{{name: run.name, once: func(ctx context.Context) error { _, err := run.once(ctx); return err }, least: least}}
}

// fleetGet measures how often a second a machine is looked up, and how often the
// same client has the answer of a server that does nothing for it.
func (b *bench) fleetGet(ctx context.Context, name string) ([]Result, error) {
	return b.withRunning(ctx, func(f *fleet, vm, other string) (results []Result, err error) {
		ways := []way{
			{name: "aetherium", once: func(ctx context.Context) error { return f.gateway.get(ctx, vm) }},
			{name: "embedded", once: func(ctx context.Context) error { return f.embedded.get(ctx, other) }},
		}
		fixed, stop, err := openAnswer(ctx, f.gateway, vm)
		if err != nil {
			return nil, err
		}
		defer stop()
		ways = append(ways, way{name: "the same answer, ready", once: func(ctx context.Context) error { return fixed.get(ctx, vm) }})
		err = b.withDockerAPI(ctx, func(a *dockerAPI, box string) error {
			if a != nil {
				ways = append(ways, way{name: "Docker API, inspect", once: func(ctx context.Context) error { return a.inspect(ctx, box) }, least: 5})
			}
			results, err = b.rates(ctx, name, fleetAsking, ways)
			return err
		})
		return results, err
	})
}

// fleetExec measures how many commands a second are run in one machine.
func (b *bench) fleetExec(ctx context.Context, name string) ([]Result, error) {
	return b.withRunning(ctx, func(f *fleet, vm, other string) (results []Result, err error) {
		ours := func(s *site, vm string) func(context.Context) error {
			return func(ctx context.Context) error { _, err := s.execTrue(ctx, vm); return err }
		}
		ways := []way{{name: "aetherium", once: ours(f.gateway, vm)}, {name: "embedded", once: ours(f.embedded, other)}}
		err = b.withDockerAPI(ctx, func(a *dockerAPI, box string) error {
			if a != nil {
				ways = append(ways, way{name: "Docker API, exec", once: func(ctx context.Context) error { return a.execTrue(ctx, box) }, least: 15})
			}
			results, err = b.rates(ctx, name, fleetAsking, ways)
			return err
		})
		return results, err
	})
}

// withRunning gives do a VM of each installation, that run.
func (b *bench) withRunning(ctx context.Context, do func(f *fleet, vm, embedded string) ([]Result, error)) ([]Result, error) {
	return b.withFleet(ctx, func(f *fleet) (results []Result, err error) {
		err = f.gateway.with(ctx, func(vm string) error {
			return f.embedded.with(ctx, func(other string) error {
				results, err = do(f, vm, other)
				return err
			})
		})
		return results, err
	})
}

// withDockerAPI gives do the engine's API and a container that runs, or nil.
func (b *bench) withDockerAPI(ctx context.Context, do func(a *dockerAPI, box string) error) error {
	if b.docker == nil {
		return do(nil, "")
	}
	box, remove, err := b.docker.container(ctx)
	if err != nil {
		return err
	}
	defer remove()
	a := b.docker.api()
	defer a.c.CloseIdleConnections()
	return do(a, box)
}

// openAnswer starts a server that answers everything as s does when a VM is
// looked up: the least that HTTP and the client take.
func openAnswer(ctx context.Context, s *site, vm string) (_ *site, stop func(), err error) {
	got, err := s.c.VM(ctx, vm)
	if err != nil {
		return nil, nil, err
	}
	text, err := json.Marshal(got)
	if err != nil {
		return nil, nil, err
	}
	lines, stop, err := play(ctx, roleAnswer, string(text))
	if err != nil {
		return nil, nil, err
	}
	lines.Scan()
	c, err := client.New(client.Options{URL: lines.Text(), Key: s.Key})
	if err != nil {
		stop()
		return nil, nil, err
	}
	return &site{c: c}, stop, nil
}

// serveAnswer says the same all the time, and where.
func serveAnswer(answer string, out io.Writer) error {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, answer)
	}))
	defer s.Close()
	fmt.Fprintln(out, s.URL)
	_, err := io.Copy(io.Discard, os.Stdin) // until it is closed
	return err
}

// get looks a VM up that runs.
func (s *site) get(ctx context.Context, vm string) error {
	got, err := s.c.VM(ctx, vm)
	if err == nil && got.State != string(domain.Running) {
		err = fmt.Errorf("the VM is %s", got.State)
	}
	return err
}

// rates measures how often a second a thing is done, by few clients and by many.
// The first way is ours.
func (b *bench) rates(ctx context.Context, name string, window time.Duration, ways []way) ([]Result, error) {
	var results []Result
	for _, clients := range fleetClients() {
		name := fmt.Sprintf("%s, %d at a time", name, clients)
		var cs []contender
		for _, w := range ways {
			cs = append(cs, contender{w.name, func(ctx context.Context) (time.Duration, error) {
				each, err := throughput(ctx, clients, window, w.once)
				if w.after != nil {
					err = errors.Join(err, w.after(ctx))
				}
				return each, errors.Join(err, pause(ctx))
			}})
		}
		took, err := turns(ctx, name, b.rounds, cs)
		if err != nil {
			return results, err
		}
		r := newResult(name, "per second", rate(took[0]))
		r.More = true
		for i, w := range ways[1:] {
			if w.least > 0 {
				r.goal(w.name, rate(took[i+1]), w.least)
			} else {
				r.against(w.name, rate(took[i+1]))
			}
		}
		results = append(results, r)
	}
	return results, nil
}

// throughput has clients do a thing over and over for a while, and says how long
// all of them took for each time that it was done. What has begun is done.
func throughput(ctx context.Context, clients int, window time.Duration, once func(context.Context) error) (time.Duration, error) {
	var done atomic.Int64
	var all sync.WaitGroup
	errs := make([]error, clients)
	start := time.Now()
	for i := range clients {
		all.Go(func() {
			for errs[i] == nil && time.Since(start) < window {
				errs[i] = once(ctx)
				done.Add(1)
			}
		})
	}
	all.Wait()
	took := time.Since(start)
	return took / time.Duration(done.Load()), errors.Join(errs...)
}
