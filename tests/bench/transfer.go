package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/core/pkg/client"
)

const (
	gigabyte       = 1 << 30
	transferRounds = 3
)

// transfers measures moving a gigabyte, and how much the server's memory grew
// while ours was moved.
func (b *bench) transfers(ctx context.Context, name string, ours func(ctx context.Context, vm string) error, theirs func(ctx context.Context, box string) error, peer string) (results []Result, err error) {
	timed := func(do func() error) (time.Duration, error) {
		start := time.Now()
		err := do()
		return time.Since(start), err
	}
	pid, err := b.warm.PID()
	if err != nil {
		return nil, err
	}
	err = b.warm.with(ctx, func(vm string) error {
		before, err := resident(pid)
		if err != nil {
			return err
		}
		var most int64
		cs := []contender{{"aetherium", func(ctx context.Context) (time.Duration, error) {
			stop := make(chan struct{})
			peak := watchResident(pid, stop)
			took, err := timed(func() error { return ours(ctx, vm) })
			close(stop)
			most = max(most, <-peak)
			return took, err
		}}}
		if b.docker != nil {
			box, remove, err := b.docker.container(ctx)
			if err != nil {
				return err
			}
			defer remove()
			cs = append(cs, contender{peer, func(ctx context.Context) (time.Duration, error) {
				return timed(func() error { return theirs(ctx, box) })
			}})
		}
		r, err := race(ctx, name, transferRounds, cs)
		grew := newResult(name+", growth of the server's memory", "MB", distribution([]float64{float64(max(0, most-before)) / 1e6}))
		results = []Result{r, grew}
		return err
	})
	return results, err
}

// stream is a command that writes a gigabyte to its reader.
func (b *bench) stream(ctx context.Context, name string) ([]Result, error) {
	command := []string{"head", "-c", fmt.Sprint(gigabyte), "/dev/zero"}
	ours := func(ctx context.Context, vm string) error {
		s, err := b.warm.c.Start(ctx, vm, api.StartExecution{Command: api.Command{Args: command}}, client.StreamOptions{})
		if err != nil {
			return err
		}
		defer s.Close()
		var n int
		for {
			ev, err := s.Next(ctx)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return err
			}
			if ev.Gap != nil {
				return fmt.Errorf("output was lost: %+v", *ev.Gap)
			}
			n += len(ev.Data)
		}
		if n != gigabyte {
			return fmt.Errorf("%d bytes came", n)
		}
		return nil
	}
	theirs := func(ctx context.Context, box string) error {
		return pipeTo(ctx, io.Discard, gigabyte, "docker", b.docker.args(append([]string{"exec", box}, command...)...)...)
	}
	return b.transfers(ctx, name, ours, theirs, "docker exec")
}

// pipeTo runs a command and wants so many bytes of output.
func pipeTo(ctx context.Context, w io.Writer, want int64, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	n, err := io.Copy(w, out)
	if err = errors.Join(err, cmd.Wait()); err == nil && n != want {
		err = fmt.Errorf("%d bytes came", n)
	}
	return err
}

// file makes a gigabyte on the host, once.
func (b *bench) file() (string, error) {
	path := filepath.Join(b.dir, "gigabyte")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	f, err := os.Create(path)
	if err != nil {
		return "", err
	}
	block := make([]byte, 1<<20)
	for i := range block {
		block[i] = byte(i * 7)
	}
	for range gigabyte >> 20 {
		if _, err := f.Write(block); err != nil {
			return "", errors.Join(err, f.Close())
		}
	}
	return path, f.Close()
}

func (b *bench) upload(ctx context.Context, name string) ([]Result, error) {
	path, err := b.file()
	if err != nil {
		return nil, err
	}
	ours := func(ctx context.Context, vm string) error {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		_, err = b.warm.c.WriteFile(ctx, client.File{VM: vm, Path: "/home/user/in"}, f, gigabyte, 0o644)
		return err
	}
	theirs := func(ctx context.Context, box string) error {
		_, err := whole(ctx, "docker", b.docker.args("cp", path, box+":/in")...)
		return err
	}
	return b.transfers(ctx, name, ours, theirs, "docker cp")
}

func (b *bench) download(ctx context.Context, name string) ([]Result, error) {
	path, err := b.file()
	if err != nil {
		return nil, err
	}
	to := filepath.Join(b.dir, "out")
	ready := map[string]bool{}
	ours := func(ctx context.Context, vm string) error {
		if !ready[vm] { // the first round, which is not measured
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			_, err = b.warm.c.WriteFile(ctx, client.File{VM: vm, Path: "/home/user/in"}, f, gigabyte, 0o644)
			if err = errors.Join(err, f.Close()); err != nil {
				return err
			}
			ready[vm] = true
		}
		f, err := os.Create(to)
		if err != nil {
			return err
		}
		n, err := b.warm.c.ReadFile(ctx, client.File{VM: vm, Path: "/home/user/in"}, f)
		if err = errors.Join(err, f.Close()); err == nil && n != gigabyte {
			err = fmt.Errorf("%d bytes came", n)
		}
		return err
	}
	theirs := func(ctx context.Context, box string) error {
		if !ready[box] {
			if _, err := whole(ctx, "docker", b.docker.args("cp", path, box+":/in")...); err != nil {
				return err
			}
			ready[box] = true
		}
		_, err := whole(ctx, "docker", b.docker.args("cp", box+":/in", to)...)
		return err
	}
	return b.transfers(ctx, name, ours, theirs, "docker cp")
}
