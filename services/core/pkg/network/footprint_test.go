package network_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/network"
)

// footprint is everything on the host that an instance could leave.
func footprint(t testing.TB) string {
	t.Helper()
	var out strings.Builder
	var names []string
	for _, l := range links(t) {
		names = append(names, l.Attrs().Name)
	}
	sort.Strings(names)
	fmt.Fprintln(&out, "links:", names)
	neigh, err := netlink.NeighList(0, netlink.FAMILY_ALL)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range neigh {
		if n.State&netlink.NUD_PERMANENT != 0 {
			fmt.Fprintln(&out, "neighbour:", n)
		}
	}
	rules, err := exec.Command("nft", "list", "ruleset").CombinedOutput()
	if err != nil {
		t.Fatalf("nft: %v: %s", err, rules)
	}
	fmt.Fprintf(&out, "rules:\n%s\n", regexp.MustCompile(`packets \d+ bytes \d+`).ReplaceAll(rules, nil))
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(mounts) {
		if bytes.Contains(line, []byte(" nsfs ")) && bytes.Contains(line, []byte(labDir)) {
			fmt.Fprintf(&out, "mount: %s", line)
		}
	}
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		if raw, err := os.ReadFile("/proc/" + e.Name() + "/cmdline"); err == nil && len(raw) > 0 && e.Name() != "self" && e.Name() != "thread-self" {
			fmt.Fprintln(&out, "process:", strings.ReplaceAll(string(raw), "\x00", " "))
		}
	}
	for _, s := range []string{"net/ipv4/ip_forward"} {
		raw, _ := os.ReadFile("/proc/sys/" + s)
		fmt.Fprintf(&out, "%s: %s", s, raw)
	}
	return out.String()
}

// sameFootprint checks that what is on the host is what was there.
func sameFootprint(t testing.TB, before string) {
	t.Helper()
	now := footprint(t)
	for line := range strings.Lines(now) {
		if !strings.Contains(before, line) {
			t.Errorf("left behind: %s", line)
		}
	}
	for line := range strings.Lines(before) {
		if !strings.Contains(now, line) {
			t.Errorf("gone: %s", line)
		}
	}
}

// stateLeft lists the files in a directory tree, without the netd link.
func stateLeft(t testing.TB, cfg network.Config) []string {
	t.Helper()
	var out []string
	for _, root := range []string{cfg.RuntimeDir, filepath.Join(cfg.HostDir, "leases")} {
		_ = filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				out = append(out, path)
			}
			return nil
		})
	}
	return out
}

// workerEnv says what the worker process does.
const workerEnv = "AETHERIUM_NETWORK_TEST_WORKER"

// worker is a process that has a manager and is there to be killed. It writes
// a line of JSON for each machine it acquired.
func worker(what string) {
	ctx := context.Background()
	m, err := network.Open(ctx, configFor("one"))
	if err != nil {
		fmt.Fprintln(os.Stderr, "worker:", err)
		os.Exit(1)
	}
	say := json.NewEncoder(os.Stdout)
	for i := 0; what == "churn" || i == 0; i++ {
		for _, mode := range []domain.NetworkMode{domain.NetworkNAT, domain.NetworkNone} {
			a, err := m.Acquire(ctx, fmt.Sprintf("%s-%d", mode, i%7), mode, "")
			if err == nil && what == "churn" && mode == domain.NetworkNAT {
				_, err = m.Tap(ctx, fmt.Sprintf("%s-%d", mode, i%7), uint32(i%3))
			}
			if err == nil && what == "churn" && i%3 == 0 {
				err = m.Release(ctx, fmt.Sprintf("%s-%d", mode, i%7))
			}
			if err != nil {
				fmt.Fprintln(os.Stderr, "worker:", err)
				os.Exit(1)
			}
			_ = say.Encode(a)
		}
	}
	select {}
}

// startWorker runs worker and gives its output.
func startWorker(t testing.TB, what string) (*exec.Cmd, *json.Decoder) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), workerEnv+"="+what)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, json.NewDecoder(out)
}
