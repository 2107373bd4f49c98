package network

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/network/internal/nspair"
	"github.com/aetherium/aetherium/services/core/pkg/network/internal/statefile"
)

// recordVersion is the version of the record's form. A record of another
// version belongs to another release and is not touched.
const recordVersion = 1

type pairState string

// A pair goes forward only. Each state is on disk before what it announces is done.
const (
	stateMaking   pairState = "making"   // half made after a crash: removed
	stateReady    pairState = "ready"    // in the pool
	stateClaimed  pairState = "claimed"  // a machine's
	stateRemoving pairState = "removing" // its kernel objects go
	stateDraining pairState = "draining" // they are gone; its IDs wait for the last process
)

// record is what is on disk about a pair.
type record struct {
	Version   int                `json:"version"`
	ID        string             `json:"id"`
	State     pairState          `json:"state"`
	Mode      domain.NetworkMode `json:"mode"`
	IDBase    uint32             `json:"id_base"`
	Namespace nspair.Identity    `json:"namespaces"`
	Address   netip.Prefix       `json:"address,omitzero"`
	MAC       string             `json:"mac,omitempty"`
	Interface string             `json:"interface,omitempty"` // the host's end
	MTU       int                `json:"mtu,omitempty"`
	Elsewhere bool               `json:"elsewhere,omitempty"` // the machine's end is in a namespace that another made
	Machine   string             `json:"machine,omitempty"`
	Owner     string             `json:"owner,omitempty"` // see Share
	Hostname  string             `json:"hostname,omitempty"`
	CreatedAt time.Time          `json:"created_at"`
	ClaimedAt time.Time          `json:"claimed_at,omitzero"`

	Policy  domain.EgressPolicy `json:"policy,omitzero"`
	Proxied bool                `json:"proxied,omitempty"` // by its policy or for its secrets, which are not written
}

func (r record) idRange() nspair.Range { return nspair.Range{Base: r.IDBase, Count: IDCount} }

// usable reports whether namespaces and links of the pair should exist.
func (r record) usable() bool { return r.State == stateReady || r.State == stateClaimed }

func (r record) mac() net.HardwareAddr {
	mac, err := net.ParseMAC(r.MAC)
	if err != nil {
		return nil
	}
	return mac
}

// The files of an instance in its runtime directory.
func (m *Manager) path(name ...string) string {
	return filepath.Join(append([]string{m.cfg.RuntimeDir}, name...)...)
}

func (m *Manager) pairDir(id string) string { return m.path("pairs", id) }

func (m *Manager) save(r record) error {
	return statefile.Write(filepath.Join(m.pairDir(r.ID), "record.json"), r)
}

// loadRecords reads every pair that is on disk. A directory without a record
// is the very first moment of a pair: it holds nothing and goes.
func (m *Manager) loadRecords() ([]record, error) {
	entries, err := os.ReadDir(m.path("pairs"))
	if err != nil {
		return nil, errors.Wrap(err, errors.Unavailable, "cannot read the runtime directory")
	}
	var out []record
	for _, e := range entries {
		var r record
		err := statefile.Read(m.path("pairs", e.Name(), "record.json"), &r)
		switch {
		case errors.HasCode(err, errors.NotFound):
			if err := m.eraseRecord(e.Name()); err != nil {
				return nil, err
			}
			continue
		case err != nil:
			return nil, err
		case r.Version != recordVersion || r.ID != e.Name():
			return nil, errors.New(errors.Conflict, "the network state of pair %s was written by another version", e.Name()).
				WithHint("run the version that made it once more and tear the instance down with it")
		}
		out = append(out, r)
	}
	return out, nil
}

// eraseRecord removes a pair's directory. The pins are gone before; it never
// removes recursively, so that a pin that is still mounted stops it.
func (m *Manager) eraseRecord(id string) error {
	for _, name := range []string{".record.json.new", "record.json", ""} {
		if err := os.Remove(filepath.Join(m.pairDir(id), name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return errors.Wrap(err, errors.Unavailable, "cannot remove a pair's state")
		}
	}
	return nil
}
