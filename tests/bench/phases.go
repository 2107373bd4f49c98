package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"
)

// phases are those of starts. They tell where time goes, and are no results.
type phases struct {
	names []string
	took  map[string][]time.Duration
}

// note adds those of a VM that was just made and asked for its first output.
func (p *phases) note(ctx context.Context, s *site, vm string, all time.Duration) error {
	traced, err := s.c.VMTrace(ctx, vm)
	if err != nil {
		return err
	}
	for _, phase := range traced.Phases {
		p.add(phase.Name, time.Duration(phase.TookUS)*time.Microsecond)
	}
	p.add("all, with the first output", all)
	return nil
}

func (p *phases) add(name string, took time.Duration) {
	if p.took == nil {
		p.took = map[string][]time.Duration{}
	}
	if !slices.Contains(p.names, name) {
		p.names = append(p.names, name)
	}
	p.took[name] = append(p.took[name], took)
}

// tell writes the medians.
func (p *phases) tell(w io.Writer, of string) {
	fmt.Fprintf(w, "phases, %s (ms, median):", of)
	for _, name := range p.names {
		fmt.Fprintf(w, " %s %.1f,", name, sample(p.took[name]).Median)
	}
	fmt.Fprintln(w)
}
