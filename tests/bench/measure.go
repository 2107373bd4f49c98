package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

// Sample is a distribution in the unit of its result. Of a rate, P95 is what 95 %
// of the rounds reach.
type Sample struct {
	Median float64 `json:"median"`
	P95    float64 `json:"p95"`
	N      int     `json:"n"`
}

// Result is one row of the table. Ratio is a peer's median by ours: how many
// times faster we are, for units where less is better; where more is, it is
// ours by the peer's. Goal is the least ratio that there is to be.
type Result struct {
	Name  string             `json:"name"`
	Unit  string             `json:"unit"`
	More  bool               `json:"more_is_better,omitempty"`
	Ours  Sample             `json:"ours"`
	Peers map[string]Sample  `json:"peers"`
	Ratio map[string]float64 `json:"ratio"`
	Goal  map[string]float64 `json:"goal,omitempty"`
}

// contender does the measured thing once and says how long it took.
type contender struct {
	name string
	once func(context.Context) (time.Duration, error)
}

// rest is before every measurement: what the contender before left to be done
// after its answer (daemons that clean up, rows that are written) is its own.
const rest = 50 * time.Millisecond

// race measures contenders in turns. The first is ours.
func race(ctx context.Context, name string, rounds int, cs []contender) (Result, error) {
	took, err := turns(ctx, name, rounds, cs)
	if err != nil {
		return Result{}, err
	}
	r := newResult(name, "ms", sample(took[0]))
	for i, c := range cs[1:] {
		r.against(c.name, sample(took[i+1]))
	}
	return r, nil
}

// turns measures contenders in turns, so that whatever else the machine does
// meets all of them alike.
func turns(ctx context.Context, name string, rounds int, cs []contender) ([][]time.Duration, error) {
	took := make([][]time.Duration, len(cs))
	for round := range rounds + 1 {
		for i, c := range cs {
			select {
			case <-time.After(rest):
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			d, err := c.once(ctx)
			if err != nil {
				return nil, fmt.Errorf("%s: %s: %w", name, c.name, err)
			}
			if round > 0 { // the first round warms caches
				took[i] = append(took[i], d)
			}
		}
	}
	return took, nil
}

func newResult(name, unit string, ours Sample) Result {
	return Result{Name: name, Unit: unit, Ours: ours, Peers: map[string]Sample{}, Ratio: map[string]float64{}}
}

func (r *Result) against(name string, s Sample) {
	r.Peers[name] = s
	switch {
	case r.More && s.Median > 0:
		r.Ratio[name] = round2(r.Ours.Median / s.Median)
	case !r.More && r.Ours.Median > 0:
		r.Ratio[name] = round2(s.Median / r.Ours.Median)
	}
}

// goal is against with a ratio that is to be reached.
func (r *Result) goal(name string, s Sample, least float64) {
	r.against(name, s)
	if r.Goal == nil {
		r.Goal = map[string]float64{}
	}
	r.Goal[name] = round2(least)
}

// sample is a distribution in milliseconds.
func sample(ds []time.Duration) Sample {
	ms := make([]float64, len(ds))
	for i, d := range ds {
		ms[i] = float64(d.Microseconds()) / 1000
	}
	return distribution(ms)
}

// rate is a distribution of how often a second something is done that takes so long.
func rate(each []time.Duration) Sample {
	each = slices.Sorted(slices.Values(each))
	at := func(q float64) float64 { return round2(1 / each[rank(q, len(each))].Seconds()) }
	return Sample{Median: at(0.5), P95: at(0.95), N: len(each)}
}

func distribution(values []float64) Sample {
	slices.Sort(values)
	at := func(q float64) float64 { return round2(values[rank(q, len(values))]) }
	return Sample{Median: at(0.5), P95: at(0.95), N: len(values)}
}

// rank is the place of a quantile among n sorted values.
func rank(q float64, n int) int { return int(q*float64(n-1) + 0.5) }

func round2(f float64) float64 { return float64(int64(f*100+0.5)) / 100 }

func printTable(w io.Writer, results []Result) {
	for _, r := range results {
		fmt.Fprintf(w, "\n%s (%s, median / p95)\n", r.Name, r.Unit)
		fmt.Fprintf(w, "  %-34s %9.2f / %9.2f\n", "aetherium", r.Ours.Median, r.Ours.P95)
		var names []string
		for n := range r.Peers {
			names = append(names, n)
		}
		slices.Sort(names)
		for _, n := range names {
			p := r.Peers[n]
			fmt.Fprintf(w, "  %-34s %9.2f / %9.2f   %6.2fx%s\n", n, p.Median, p.P95, r.Ratio[n], r.verdict(n))
		}
	}
}

// verdict says whether a goal is reached.
func (r *Result) verdict(peer string) string {
	least, ok := r.Goal[peer]
	switch {
	case !ok:
		return ""
	case r.Ours.Median <= 0 || r.Ratio[peer] >= least: // not even slower
		return fmt.Sprintf("   reaches %.2fx", least)
	}
	return fmt.Sprintf("   MISSES %.2fx", least)
}

// writeJSON writes the results as a list, whole or not at all.
func writeJSON(path string, results []Result) error {
	text, err := json.MarshalIndent(results, "", "  ")
	if err != nil {
		return err
	}
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, append(text, '\n'), 0o644); err != nil { //nolint:gosec // a report, for everybody
		return err
	}
	return os.Rename(tmp, path)
}

// firstLine is the beginning of a command's complaint.
func firstLine(s string) string {
	s, _, _ = strings.Cut(strings.TrimSpace(s), "\n")
	return s
}
