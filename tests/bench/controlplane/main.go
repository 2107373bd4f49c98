// Command controlplane measures how many VMs the control plane carries: real
// service and worker code over a real PostgreSQL, with links between them as
// between hosts, and the fake driver, whose machines are an agent each and no
// more. All of it shares one process and one host with its database, so the
// figures are of both together. It prints a table and writes JSON.
//
// Left out are what is before the service (HTTP, keys: `make bench` measures
// them) and Redis: who waits for a change is woken within the process.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "controlplane:", err)
		os.Exit(1)
	}
}

// Report is what was measured.
type Report struct {
	Workers int     `json:"workers"`
	Rows    []Row   `json:"rows"`
	Flat    float64 `json:"cost_of_a_create_at_most_vms_by_that_at_few"`
}

// Row is one measurement. Latencies are in milliseconds, from asking for a VM
// until it is told to run.
type Row struct {
	Name    string  `json:"name"`
	VMs     int     `json:"vms"` // that were there meanwhile
	Creates int     `json:"creates"`
	PerSec  float64 `json:"per_second"`
	Median  float64 `json:"median_ms"`
	P95     float64 `json:"p95_ms"`
	P99     float64 `json:"p99_ms"`
	Most    float64 `json:"max_ms"`
	Errors  int     `json:"errors"`
	Example string  `json:"error,omitempty"` // one of them
	Late    int     `json:"begun_late"`      // more than 100 ms after they were due
	Cost    Cost    `json:"cost"`
}

func run(ctx context.Context) (err error) {
	workers := flag.Int("workers", 100, "simulated workers")
	few := flag.Int("few", 1000, "VMs of the first measurement")
	many := flag.Int("vms", 20_000, "VMs of the others")
	rate := flag.Float64("rate", 200, "creates per second to be held")
	hold := flag.Duration("for", 2*time.Minute, "how long they are to be held")
	sweep := flag.Duration("saturate", 20*time.Second, "how long the highest rate is measured")
	rest := flag.Duration("rest", 30*time.Second, "how long it is measured what VMs cost that are there")
	asItComes := flag.Bool("collect", false, "have the process collect its garbage as it comes, and not between the measurements")
	out := flag.String("out", "bench/out/controlplane.json", "where the JSON goes")
	profile := flag.String("cpuprofile", "", "where a profile of the whole goes")
	allocs := flag.String("memprofile", "", "where a profile of all that was allocated goes")
	flag.Parse()
	if *allocs != "" {
		defer func() { err = errors.Join(err, writeAllocs(*allocs)) }()
	}
	if *profile != "" {
		file, err := os.Create(*profile)
		if err != nil {
			return err
		}
		defer file.Close()
		if err := pprof.StartCPUProfile(file); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}

	if !*asItComes {
		if err := collectBetween(); err != nil {
			return err
		}
	}
	dir, err := os.MkdirTemp("", "aetherium-controlplane-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	f, err := newFleet(ctx, dir, *workers)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.close()) }()

	conn, err := pgx.Connect(ctx, f.pg.URL("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(context.Background())

	r := Report{Workers: *workers}
	add := func(row Row, err error) error {
		r.Rows = append(r.Rows, row)
		fmt.Printf("%-42s %6d VMs %7d creates %8.1f/s  median %7.1f  p95 %7.1f  p99 %7.1f  max %8.1f ms  %d errors, %d late\n",
			row.Name, row.VMs, row.Creates, row.PerSec, row.Median, row.P95, row.P99, row.Most, row.Errors, row.Late)
		c := row.Cost
		fmt.Printf("%-42s %.1f s: %d transactions, %.1f MB of log, %.1f s of CPU and %.1f s of the database's; it has %.1f MB, this process had %.1f MB at most\n", "",
			c.Seconds, c.Transactions, float64(c.LogBytes)/1e6, c.CPUSeconds, c.DatabaseCPU, float64(c.Size)/1e6, float64(c.Heap)/1e6)
		if row.Example != "" {
			fmt.Println("    ", row.Example)
		}
		return err
	}
	steps := []func() (Row, error){
		func() (Row, error) { return f.fill(ctx, *few) },
		func() (Row, error) { return f.saturate(ctx, *sweep) },
		func() (Row, error) { return f.rest(ctx, *rest) },
		func() (Row, error) { return f.fill(ctx, *many) },
		func() (Row, error) { return f.rest(ctx, *rest) },
		func() (Row, error) { return f.hold(ctx, *rate, *hold, true) },
		func() (Row, error) { return f.saturate(ctx, *sweep) },
		func() (Row, error) { return f.hold(ctx, *rate, *hold, false) },
	}
	for _, step := range steps {
		runtime.GC()
		if err := add(meter{conn, f.pg.PID()}.measured(ctx, step)); err != nil {
			return err
		}
	}
	r.Flat = r.Rows[1].PerSec / r.Rows[6].PerSec
	fmt.Printf("a create with %d VMs costs %.2f times what it does with %d\n", *many, r.Flat, *few)
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(*out), 0o755); err != nil {
		return err
	}
	return os.WriteFile(*out, append(text, '\n'), 0o644) //nolint:gosec // for everybody
}

// collectBetween has this process collect garbage when it is told to, or has half
// of the host's memory. It holds the machines of all workers, and to look through
// those takes a second of both processors: a process of a fleet has hundredths of that.
func collectBetween() error {
	var host syscall.Sysinfo_t
	if err := syscall.Sysinfo(&host); err != nil {
		return err
	}
	debug.SetMemoryLimit(int64(host.Totalram) * int64(host.Unit) / 2) //nolint:gosec // a size in bytes
	debug.SetGCPercent(-1)
	return nil
}

func writeAllocs(path string) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(pprof.Lookup("allocs").WriteTo(file, 0), file.Close())
}
