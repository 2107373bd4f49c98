package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/api"
)

// with gives do a VM and removes it afterwards.
func (s *site) with(ctx context.Context, do func(vm string) error) error {
	vm, err := s.c.CreateVM(ctx, api.CreateVM{Template: "base", Network: "none"})
	if err != nil {
		return err
	}
	err = do(vm.ID)
	_, derr := s.c.DeleteVM(context.WithoutCancel(ctx), vm.ID)
	return errors.Join(err, derr)
}

// execTrue runs `true` in a VM over the HTTP API.
func (s *site) execTrue(ctx context.Context, vm string) (time.Duration, error) {
	start := time.Now()
	res, err := s.c.Execute(ctx, vm, api.Execute{Command: api.Command{Args: []string{"true"}}})
	took := time.Since(start)
	if err == nil && (res.Execution.ExitCode == nil || *res.Execution.ExitCode != 0) {
		err = fmt.Errorf("true failed: %+v", res)
	}
	return took, err
}

// container starts an idle container and returns its name and what ends it.
func (d *docker) container(ctx context.Context) (name string, remove func(), err error) {
	id, err := exec.CommandContext(ctx, "docker", d.args("run", "-d", "--network", "none", dockerImage, "sleep", "infinity")...).Output()
	if err != nil {
		return "", nil, fmt.Errorf("docker run -d: %w", err)
	}
	name = firstLine(string(id))
	return name, func() {
		_ = exec.CommandContext(context.WithoutCancel(ctx), "docker", d.args("rm", "-f", name)...).Run()
	}, nil
}

// exec compares running `true` in something that runs already.
func (b *bench) exec(ctx context.Context, name string) (results []Result, err error) {
	err = b.warm.with(ctx, func(vm string) error {
		cs := []contender{
			{"aetherium", func(ctx context.Context) (time.Duration, error) { return b.warm.execTrue(ctx, vm) }},
			{"fork+exec from Go", func(ctx context.Context) (time.Duration, error) { return whole(ctx, "true") }},
		}
		if b.docker != nil {
			box, remove, err := b.docker.container(ctx)
			if err != nil {
				return err
			}
			defer remove()
			cs = append(cs, contender{"docker exec", func(ctx context.Context) (time.Duration, error) {
				return whole(ctx, "docker", b.docker.args("exec", box, "true")...)
			}})
		}
		r, err := race(ctx, name, b.rounds*5, cs)
		results = []Result{r}
		return err
	})
	return results, err
}
