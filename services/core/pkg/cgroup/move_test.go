package cgroup

import (
	"crypto/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestOwnGroup(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, group := range []string{"pids/a/b", "unified/a/b", "v2/x.slice"} {
		if err := os.MkdirAll(filepath.Join(dir, group), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, group, "cgroup.procs"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	v1 := &Host{mounts: map[string]string{"pids": dir + "/pids", "memory": dir + "/memory", "unified": dir + "/unified"}}
	v2 := &Host{unified: true, mounts: map[string]string{"": dir + "/v2"}}
	for _, tc := range []struct {
		host         *Host
		groups, want string
	}{
		{v1, "9:memory:/elsewhere\n8:name=systemd:/a\n4:pids:/a/b\n0::/a/b\n", "pids/a/b"},
		{v1, "0::/a/b\n", ""},
		{v2, "0::/x.slice\n", "v2/x.slice"},
		{v2, "0::/not/visible/here\n", ""},
		{v2, "", ""},
		{v2, "rubbish\n:\n", ""},
	} {
		want := ""
		if tc.want != "" {
			want = filepath.Join(dir, tc.want, "cgroup.procs")
		}
		if got := tc.host.ownProcs(tc.groups); got != want {
			t.Errorf("%q: got %q, want %q", tc.groups, got, want)
		}
	}
}

// A process that expects moves stays where it is.
func TestExpectMovesMovesNothing(t *testing.T) {
	t.Parallel()
	h, err := Detect()
	if err != nil {
		t.Skip(err)
	}
	before, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 && h.own == "" {
		t.Error("this process's group was not found")
	}
	h.ExpectMoves()
	if after, err := os.ReadFile("/proc/self/cgroup"); err != nil || string(after) != string(before) {
		t.Errorf("was in %q, is in %q, %v", before, after, err)
	}
}

// What favors moves leaves everybody in their groups, and is gone with whoever
// asked for it.
func TestFavorMoves(t *testing.T) {
	t.Parallel()
	name := "aetherium-favor-" + rand.Text()[:8]
	groups := func() (own string, favored bool) {
		t.Helper()
		raw, err := os.ReadFile("/proc/self/cgroup")
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(raw)) {
			_, rest, _ := strings.Cut(line, ":") // numbers of hierarchies are given anew
			switch {
			case rest == "name="+name+":/\n":
				favored = true
			case !strings.HasPrefix(rest, "name=aetherium:"): // of servers that run now
				own += rest
			}
		}
		return own, favored
	}
	if h, err := Detect(); err != nil || h.unified {
		if held, err := h.FavorMoves(); err == nil {
			t.Errorf("a hierarchy of version 1 is made where there is none: %v", held.Close())
		}
		t.Skip("for hosts with control groups of version 1")
	}
	before, _ := groups()
	held, err := favorMoves(name)
	if err != nil {
		t.Skip(err)
	}
	if during, favored := groups(); during != before || !favored {
		t.Errorf("favored %v, in %q, was in %q", favored, during, before)
	}
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(mounts), name) {
		t.Errorf("it is mounted, or %v", err)
	}
	if err := held.Close(); err != nil {
		t.Error(err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		after, favored := groups()
		if !favored && after == before {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("favored %v, in %q, was in %q", favored, after, before)
		}
	}
}
