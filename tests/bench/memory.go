package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/api"
)

// resident is the memory that a process has, in bytes (VmRSS of proc_pid_status(5)).
func resident(pid int) (int64, error) {
	return statusField(fmt.Sprintf("/proc/%d/status", pid), "VmRSS:")
}

// statusField reads a line "Name: N kB".
func statusField(path, field string) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if text, ok := strings.CutPrefix(lines.Text(), field); ok {
			kb, err := strconv.ParseInt(strings.Fields(text)[0], 10, 64)
			return kb << 10, err
		}
	}
	return 0, fmt.Errorf("%s has no %s", path, field)
}

// watchResident yields the most memory that a process had until stop is closed.
func watchResident(pid int, stop <-chan struct{}) <-chan int64 {
	peak := make(chan int64, 1)
	go func() {
		var most int64
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			if now, err := resident(pid); err == nil {
				most = max(most, now)
			}
			select {
			case <-tick.C:
			case <-stop:
				peak <- most
				return
			}
		}
	}()
	return peak
}

// pss adds up the proportional share of memory of all processes that which
// names by their directory in /proc (proc_pid_smaps_rollup(5)).
func pss(which func(dir string) bool) int64 {
	var sum int64
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		if !which(dir) {
			continue
		}
		if n, err := statusField(dir+"/smaps_rollup", "Pss:"); err == nil {
			sum += n
		}
	}
	return sum
}

func fileHas(path string, texts ...string) bool {
	raw, err := os.ReadFile(path)
	if err != nil {
		return false
	}
	for _, t := range texts {
		if strings.Contains(string(raw), t) {
			return true
		}
	}
	return false
}

// idle is how many idle machines the memory of one is taken from.
const idle = 60

// memory compares what one more idle machine costs the host: all processes,
// the server's growth among them.
func (b *bench) memory(ctx context.Context, name string) ([]Result, error) {
	mine := func(dir string) bool {
		return fileHas(dir+"/environ", "AETHERIUM_DATA_DIR="+b.cold.DataDir+"\x00") && !fileHas(dir+"/cmdline", "aetherium-bench") ||
			fileHas(dir+"/cmdline", b.cold.RuntimeDir) || fileHas(dir+"/cgroup", "aetherium-"+b.cold.Instance())
	}
	ours, err := grown(ctx, mine, func(ctx context.Context) (func() error, error) {
		vm, err := b.cold.c.CreateVM(ctx, api.CreateVM{Template: "base", Network: "none"})
		return func() error { _, err := b.cold.c.DeleteVM(context.WithoutCancel(ctx), vm.ID); return err }, err
	})
	if err != nil {
		return nil, err
	}
	r := newResult(name, "MB", ours)
	if b.docker != nil {
		theirs, err := grown(ctx, b.docker.owns, func(ctx context.Context) (func() error, error) {
			_, remove, err := b.docker.container(ctx)
			return func() error { remove(); return nil }, err
		})
		if err != nil {
			return nil, err
		}
		r.against("docker", theirs)
	}
	return []Result{r}, nil
}

// settle waits until what was made is idle.
func settle(ctx context.Context) error {
	select {
	case <-time.After(5 * time.Second):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// grown makes idle machines and says how much memory each added.
func grown(ctx context.Context, which func(string) bool, add func(context.Context) (func() error, error)) (s Sample, err error) {
	first, err := add(ctx) // what is loaded once is not what one more costs
	if err != nil {
		return s, err
	}
	undo := []func() error{first}
	defer func() {
		for _, u := range undo {
			err = errors.Join(err, u())
		}
	}()
	if err := settle(ctx); err != nil {
		return s, err
	}
	before := pss(which)
	for range idle {
		u, err := add(ctx)
		if err != nil {
			return s, err
		}
		undo = append(undo, u)
	}
	if err := settle(ctx); err != nil {
		return s, err
	}
	return distribution([]float64{float64(pss(which)-before) / idle / 1e6}), nil
}
