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

// Sample is a distribution in the unit of its result.
type Sample struct {
	Median float64 `json:"median"`
	P95    float64 `json:"p95"`
	N      int     `json:"n"`
}

// Result is one row of the table. Ratio is a peer's median by ours: how many
// times faster we are, for units where less is better.
type Result struct {
	Name  string             `json:"name"`
	Unit  string             `json:"unit"`
	Ours  Sample             `json:"ours"`
	Peers map[string]Sample  `json:"peers"`
	Ratio map[string]float64 `json:"ratio"`
}

// contender does the measured thing once and says how long it took.
type contender struct {
	name string
	once func(context.Context) (time.Duration, error)
}

// race measures contenders in turns, so that whatever else the machine does
// meets all of them alike. The first is ours.
func race(ctx context.Context, log io.Writer, name string, rounds int, cs []contender) (Result, error) {
	took := make([][]time.Duration, len(cs))
	for round := range rounds + 1 {
		for i, c := range cs {
			d, err := c.once(ctx)
			if err != nil {
				return Result{}, fmt.Errorf("%s: %s: %w", name, c.name, err)
			}
			if round > 0 { // the first round warms caches
				took[i] = append(took[i], d)
			}
		}
	}
	fmt.Fprintf(log, "%s: %d rounds\n", name, rounds)
	r := Result{Name: name, Unit: "ms", Ours: sample(took[0]), Peers: map[string]Sample{}, Ratio: map[string]float64{}}
	for i, c := range cs[1:] {
		s := sample(took[i+1])
		r.Peers[c.name] = s
		r.Ratio[c.name] = round2(s.Median / r.Ours.Median)
	}
	return r, nil
}

func sample(ds []time.Duration) Sample {
	slices.Sort(ds)
	at := func(q float64) float64 {
		i := int(q*float64(len(ds)-1) + 0.5)
		return round2(float64(ds[i].Microseconds()) / 1000)
	}
	return Sample{Median: at(0.5), P95: at(0.95), N: len(ds)}
}

func round2(f float64) float64 { return float64(int64(f*100+0.5)) / 100 }

func printTable(w io.Writer, results []Result) {
	for _, r := range results {
		fmt.Fprintf(w, "\n%s (%s, median / p95)\n", r.Name, r.Unit)
		fmt.Fprintf(w, "  %-28s %9.2f / %9.2f\n", "aetherium", r.Ours.Median, r.Ours.P95)
		var names []string
		for n := range r.Peers {
			names = append(names, n)
		}
		slices.Sort(names)
		for _, n := range names {
			p := r.Peers[n]
			fmt.Fprintf(w, "  %-28s %9.2f / %9.2f   %6.2fx\n", n, p.Median, p.P95, r.Ratio[n])
		}
	}
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
