package netd

import (
	"net/netip"
	"testing"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/network/egress"
	"github.com/aetherium/aetherium/services/core/pkg/network/netd/egresslog"
)

func newMachines(t *testing.T) (*machines, string) {
	t.Helper()
	dir := t.TempDir()
	logs, err := egresslog.Open(dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	return &machines{logs: logs, by: map[netip.Addr]*machine{}}, dir
}

func logged(t *testing.T, dir, id string) []domain.EgressEntry {
	t.Helper()
	entries, err := egresslog.Read(dir, id, 0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	return entries
}

// The ends of a machine's connections come after the word that it is gone.
func TestAMachineThatIsGoneIsNotedToItsEnd(t *testing.T) {
	t.Parallel()
	table, dir := newMachines(t)
	old, now := netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.3")
	for _, a := range []netip.Addr{old, now} { // it has a new address before the old one is taken back
		if err := table.set(egress.Machine{Address: a, ID: "vm"}); err != nil {
			t.Fatal(err)
		}
	}
	defer func() { _ = table.logs.Close() }()
	gone, _ := table.find(old)
	table.remove(old)
	gone.Note(domain.EgressEntry{Verdict: domain.EgressEnd, Addr: "192.0.2.1", Sent: 1})
	table.settle()
	there, _ := table.find(now)
	there.Note(domain.EgressEntry{Verdict: domain.EgressAllow, Addr: "192.0.2.2"})
	if got := logged(t, dir, "vm"); len(got) != 2 {
		t.Errorf("%+v", got)
	}
	// The address is another machine's now; the first one's log goes on.
	if err := table.set(egress.Machine{Address: old, ID: "other"}); err != nil {
		t.Fatal(err)
	}
	table.settle()
	there.Note(domain.EgressEntry{Verdict: domain.EgressAllow, Addr: "192.0.2.3"})
	if got := logged(t, dir, "vm"); len(got) != 3 {
		t.Errorf("%+v", got)
	}
}

// When the kernel had more to tell than could be read, nobody knows whose it was.
func TestLostFlowsAreAGapInEveryLog(t *testing.T) {
	t.Parallel()
	table, dir := newMachines(t)
	for id, a := range map[string]string{"a": "10.0.0.2", "b": "10.0.0.3"} {
		if err := table.set(egress.Machine{Address: netip.MustParseAddr(a), ID: id}); err != nil {
			t.Fatal(err)
		}
	}
	for range 1000 { // a flood fills nobody's log
		table.lost()
	}
	if err := table.logs.Close(); err != nil { // and nothing was only counted
		t.Fatal(err)
	}
	for _, id := range []string{"a", "b"} {
		if got := logged(t, dir, id); len(got) != 1 || got[0].Verdict != domain.EgressGap || got[0].Via != "kernel" {
			t.Errorf("%s: %+v", id, got)
		}
	}
}

// A dot inside a label is none between labels.
func TestEscapedNamesAreComparedByLabels(t *testing.T) {
	t.Parallel()
	only := egress.New(domain.EgressPolicy{Allow: []string{"*.allowed.test"}, Deny: []string{"*"}}, nil)
	but := egress.New(domain.EgressPolicy{Deny: []string{"*.refused.test"}}, nil)
	for _, tc := range []struct {
		name    string
		only    bool
		exclude bool
	}{
		{`x.allowed.test`, true, true},
		{`x\.allowed.test`, false, true},
		{`x\046allowed.test`, false, true},
		{`x\032y.allowed.test`, true, true},
		{`x\032y.refused.test`, false, false},
		{`x\.y.refused.test`, false, false},
		{`x\`, false, true},
	} {
		if got := only.Name(labels(tc.name)).Allow; got != tc.only {
			t.Errorf("%s where one domain is allowed: %t", tc.name, got)
		}
		if got := but.Name(labels(tc.name)).Allow; got != tc.exclude {
			t.Errorf("%s where one domain is refused: %t", tc.name, got)
		}
	}
}
