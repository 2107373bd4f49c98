package network_test

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/network"
)

func TestAcquireIsIdempotentAndReleaseToo(t *testing.T) {
	if !isolated(t) {
		return
	}
	newLab(t)
	ctx := context.Background()
	m := open(t, config(t, "one"))
	low, high := ids()
	for _, mode := range []domain.NetworkMode{domain.NetworkNone, domain.NetworkNAT} {
		id := "machine-" + string(mode)
		first := acquire(t, m, id, mode)
		again := acquire(t, m, id, mode)
		if fmt.Sprint(first) != fmt.Sprint(again) {
			t.Errorf("%s: acquired twice, got\n%+v and\n%+v", mode, first, again)
		}
		if first.IDCount != network.IDCount || first.IDBase < low || first.IDBase >= high || first.IDBase%network.IDCount != 0 {
			t.Errorf("%s: IDs %d+%d", mode, first.IDBase, first.IDCount)
		}
		found, ok, err := m.Lookup(ctx, id)
		if err != nil || !ok || fmt.Sprint(found) != fmt.Sprint(first) {
			t.Errorf("%s: looked up %+v %v %v", mode, found, ok, err)
		}
		other := domain.NetworkNAT
		if mode == other {
			other = domain.NetworkNone
		}
		if _, err := m.Acquire(ctx, id, other, ""); !errors.HasCode(err, errors.Conflict) {
			t.Errorf("%s: acquired with another mode: %v", mode, err)
		}
	}
	if got, _ := m.List(ctx); fmt.Sprint(got) != "[machine-nat machine-none]" {
		t.Errorf("list: %v", got)
	}
	for range 2 {
		for _, id := range []string{"machine-nat", "machine-none", "never-was"} {
			if err := m.Release(ctx, id); err != nil {
				t.Errorf("release %s: %v", id, err)
			}
			if _, ok, err := m.Lookup(ctx, id); ok || err != nil {
				t.Errorf("%s is still there: %v", id, err)
			}
		}
	}
	if got, _ := m.List(ctx); len(got) != 0 {
		t.Errorf("list after release: %v", got)
	}
}

func TestBadInputIsRefused(t *testing.T) {
	if !isolated(t) {
		return
	}
	newLab(t)
	cfg := config(t, "one")
	m := open(t, cfg)
	for _, tc := range []struct{ machine, mode, hostname string }{
		{"", "none", ""}, {"../up", "none", ""}, {"a/b", "none", ""}, {".", "none", ""},
		{"ok", "", ""}, {"ok", "bridge", ""}, {"ok", "none", "-x"}, {"ok", "none", "a\nb"}, {string(make([]byte, 99)), "none", ""},
	} {
		if _, err := m.Acquire(context.Background(), tc.machine, domain.NetworkMode(tc.mode), tc.hostname); !errors.HasCode(err, errors.InvalidArgument) {
			t.Errorf("%+v: %v", tc, err)
		}
	}
	for name, change := range map[string]func(*network.Config){
		"instance":    func(c *network.Config) { c.Instance = "a_b" },
		"runtime_dir": func(c *network.Config) { c.RuntimeDir = "relative" },
		"subnets":     func(c *network.Config) { c.Subnets = []netip.Prefix{netip.MustParsePrefix("fd00::/64")} },
		"mtu":         func(c *network.Config) { c.MTU = 100 },
		"pool":        func(c *network.Config) { c.PoolNAT = 100000 },
		"ids":         func(c *network.Config) { c.IDLow = 1000 },
		"cidrs":       func(c *network.Config) { c.AllowCIDRs = []netip.Prefix{netip.MustParsePrefix("::/0")} },
	} {
		bad := cfg
		change(&bad)
		_, err := network.Open(context.Background(), bad)
		var coded *errors.Error
		if !errors.As(err, &coded) || coded.Code != errors.InvalidArgument || coded.Field != name {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := network.Open(context.Background(), cfg); !errors.HasCode(err, errors.Conflict) {
		t.Errorf("a second manager for one directory: %v", err)
	}
	elsewhere := cfg
	elsewhere.RuntimeDir += "-elsewhere"
	if _, err := network.Open(context.Background(), elsewhere); !errors.HasCode(err, errors.Conflict) {
		t.Errorf("a second instance of one name: %v", err)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	if err := m.Close(); err != nil {
		t.Error("closed twice:", err)
	}
	if _, err := m.Acquire(context.Background(), "late", domain.NetworkNone, ""); !errors.HasCode(err, errors.Unavailable) {
		t.Errorf("acquired after close: %v", err)
	}
}

func TestWithoutNetdOnlyNoneWorks(t *testing.T) {
	if !isolated(t) {
		return
	}
	newLab(t)
	cfg := config(t, "one")
	cfg.NetdPath += "-missing"
	m := open(t, cfg)
	acquire(t, m, "plain", domain.NetworkNone)
	_, err := m.Acquire(context.Background(), "natted", domain.NetworkNAT, "")
	if !errors.HasCode(err, errors.Unsupported) || errors.Public(err).Hint == "" {
		t.Errorf("nat without netd: %v", err)
	}
}

func TestManyAtOnceAreUnique(t *testing.T) {
	if !isolated(t) {
		return
	}
	newLab(t)
	m := open(t, config(t, "one"))
	const n = 100
	var wg sync.WaitGroup
	got := make([]network.Attachment, n)
	errs := make([]error, n)
	for i := range n {
		wg.Go(func() {
			// Two callers for each machine.
			got[i], errs[i] = m.Acquire(context.Background(), fmt.Sprintf("m%d", i/2), domain.NetworkNAT, "")
		})
	}
	wg.Wait()
	seen := map[string]int{}
	for i := range n {
		if errs[i] != nil {
			t.Fatal(errs[i])
		}
		a := got[i]
		if i%2 == 1 {
			if fmt.Sprint(a) != fmt.Sprint(got[i-1]) {
				t.Errorf("machine m%d has two networks", i/2)
			}
			continue
		}
		for _, key := range []string{a.Address.String(), fmt.Sprint(a.IDBase), a.NetNS, a.HostInterface, a.MAC.String()} {
			if j, dup := seen[key]; dup {
				t.Errorf("machines %d and %d share %s", j, i, key)
			}
			seen[key] = i
		}
	}
	for i := 0; i < n; i += 2 {
		wg.Go(func() { errs[i] = m.Release(context.Background(), fmt.Sprintf("m%d", i/2)) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			t.Error(err)
		}
	}
}

func TestNamespacesBelongTogether(t *testing.T) {
	if !isolated(t) {
		return
	}
	newLab(t)
	m := open(t, config(t, "one"))
	a := acquire(t, m, "m", domain.NetworkNAT)
	var user, owner unix.Stat_t
	if err := unix.Stat(a.UserNS, &user); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(a.NetNS, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	ufd, err := unix.IoctlRetInt(fd, unix.NS_GET_USERNS)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(ufd) }()
	if err := unix.Fstat(ufd, &owner); err != nil {
		t.Fatal(err)
	}
	if owner.Ino != user.Ino {
		t.Errorf("the network namespace belongs to user namespace %d, not %d", owner.Ino, user.Ino)
	}
	// What the kernel counts for an owner it counts for each pair alone.
	pin, err := unix.Open(a.UserNS, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(pin) }()
	if uid, err := unix.IoctlGetUint32(pin, unix.NS_GET_OWNER_UID); err != nil || uid != a.IDBase {
		t.Errorf("the user namespace's owner is %d, not %d, %v", uid, a.IDBase, err)
	}
}
