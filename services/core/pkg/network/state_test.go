package network_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/network"
)

func TestAWipedHostRegisterIsWrittenAgain(t *testing.T) {
	if !isolated(t) {
		return
	}
	newLab(t)
	cfg := config(t, "one")
	m := open(t, cfg)
	want := acquire(t, m, "a", domain.NetworkNAT)
	lease := filepath.Join(cfg.HostDir, "leases", "one.json")
	before, err := os.ReadFile(lease)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(cfg.HostDir); err != nil {
		t.Fatal(err)
	}
	m = open(t, cfg)
	if got, ok, err := m.Lookup(context.Background(), "a"); err != nil || !ok || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%+v %v %v", got, ok, err)
	}
	if after, err := os.ReadFile(lease); err != nil || string(after) != string(before) {
		t.Errorf("the lease is %s (%v), was %s", after, err, before)
	}

	// Unless another instance has taken the same meanwhile.
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	other := strings.ReplaceAll(string(before), `"instance":"one"`, `"instance":"two"`)
	if err := os.Remove(lease); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(cfg.HostDir, "leases", "two.json"), []byte(other), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := network.Open(context.Background(), cfg); !errors.HasCode(err, errors.Conflict) {
		t.Errorf("opened on what another instance holds: %v", err)
	}
}

func TestStateOfAnEarlierBootIsForgotten(t *testing.T) {
	if !isolated(t) {
		return
	}
	newLab(t)
	cfg := config(t, "one")
	m := open(t, cfg)
	a := acquire(t, m, "a", domain.NetworkNone)
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	rewrite := func(path string) {
		t.Helper()
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
		if err != nil {
			t.Fatal(err)
		}
		changed := strings.ReplaceAll(string(raw), strings.TrimSpace(string(boot)), "00000000-0000-0000-0000-000000000000")
		if changed == string(raw) {
			t.Fatalf("%s names no boot: %s", path, raw)
		}
		if err := os.WriteFile(path, []byte(changed), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// A reboot unmounts the pins. What stays is files.
	for _, pin := range []string{a.UserNS, a.NetNS} {
		if err := unix.Unmount(pin, 0); err != nil {
			t.Fatal(err)
		}
	}
	lease := filepath.Join(cfg.HostDir, "leases", "one.json")
	rewrite(lease)
	rewrite(filepath.Join(cfg.RuntimeDir, "instance.json"))
	raw, err := os.ReadFile(lease)
	if err != nil {
		t.Fatal(err)
	}
	gone := strings.ReplaceAll(string(raw), `"instance":"one"`, `"instance":"gone"`)
	if err := os.WriteFile(filepath.Join(cfg.HostDir, "leases", "gone.json"), []byte(gone), 0o600); err != nil {
		t.Fatal(err)
	}
	m = open(t, cfg)
	if list, err := m.List(context.Background()); err != nil || len(list) != 0 {
		t.Errorf("machines of an earlier boot: %v %v", list, err)
	}
	if _, err := os.Stat(filepath.Join(cfg.HostDir, "leases", "gone.json")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the lease of an earlier boot is still there: %v", err)
	}
	acquire(t, m, "a", domain.NetworkNone)
	if err := m.Teardown(context.Background()); err != nil {
		t.Error(err)
	}
}

func TestATakenAwayNamespaceIsNotHandedOut(t *testing.T) {
	if !isolated(t) {
		return
	}
	newLab(t)
	cfg := config(t, "one")
	m := open(t, cfg)
	a := acquire(t, m, "a", domain.NetworkNone)
	if err := unix.Unmount(a.NetNS, 0); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := m.Lookup(context.Background(), "a"); ok || err != nil {
		t.Errorf("looked up: %v %v", ok, err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	m = open(t, cfg)
	if list, _ := m.List(context.Background()); len(list) != 0 {
		t.Errorf("after the next start: %v", list)
	}
}

func TestAnotherVersionsStateIsNotTouched(t *testing.T) {
	if !isolated(t) {
		return
	}
	newLab(t)
	cfg := config(t, "one")
	m := open(t, cfg)
	a := acquire(t, m, "a", domain.NetworkNone)
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(filepath.Dir(a.NetNS), "record.json")
	var rec map[string]any
	raw, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(raw, &rec)
	}
	if err != nil {
		t.Fatal(err)
	}
	rec["version"] = 99
	if raw, err = json.Marshal(rec); err == nil {
		err = os.WriteFile(path, raw, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := network.Open(context.Background(), cfg); !errors.HasCode(err, errors.Conflict) {
		t.Errorf("opened: %v", err)
	}
}

func TestReleaseForgetsConnections(t *testing.T) {
	if !isolated(t) {
		return
	}
	l := newLab(t)
	m := open(t, config(t, "one"))
	a := acquire(t, m, "a", domain.NetworkNAT)
	l.must(l.datagram(a.NetNS, publicIP, "hello", true))
	flows := func() (n int) {
		t.Helper()
		all, err := netlink.ConntrackTableList(netlink.ConntrackTable, netlink.FAMILY_V4)
		l.must(err)
		for _, f := range all {
			if f.Forward.SrcIP.Equal(a.Address.Addr().AsSlice()) {
				n++
			}
		}
		return n
	}
	if flows() == 0 {
		t.Fatal("no connection is tracked while the machine lives")
	}
	l.must(m.Release(context.Background(), "a"))
	if n := flows(); n != 0 {
		t.Errorf("%d connections are still known", n)
	}
}
