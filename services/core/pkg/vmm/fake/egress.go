package fake

import (
	"context"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// egress is what the node was told of a machine.
type egress struct {
	said    domain.Egress
	started domain.Egress // what was said when it started last
	log     []domain.EgressEntry
}

// SetEgress notes what a machine may reach; its processes reach what the host does.
func (d *Driver) SetEgress(ctx context.Context, id string, e domain.Egress) error {
	if err := d.node.stumble(ctx, OpEgress, nil); err != nil {
		return err
	}
	d.node.mu.Lock()
	defer d.node.mu.Unlock()
	d.node.egressOf(id).said = e
	return nil
}

// EgressLog gives what [Node.LogEgress] has noted. It does not wait.
func (d *Driver) EgressLog(_ context.Context, id string, q vmm.EgressLogQuery) ([]domain.EgressEntry, error) {
	d.node.mu.Lock()
	defer d.node.mu.Unlock()
	var out []domain.EgressEntry
	for _, e := range d.node.egressOf(id).log {
		if e.Seq > q.After && len(out) < q.Limit {
			out = append(out, e)
		}
	}
	return out, nil
}

// ForgetEgressLog drops a machine's log.
func (d *Driver) ForgetEgressLog(_ context.Context, id string) error {
	d.node.mu.Lock()
	defer d.node.mu.Unlock()
	delete(d.node.egress, id)
	return nil
}

// egressOf is called with mu held.
func (n *Node) egressOf(id string) *egress {
	e := n.egress[id]
	if e == nil {
		e = &egress{}
		n.egress[id] = e
	}
	return e
}

// startEgress is called as a machine starts, endEgress as it ends: what was
// said counts for one run.
func (n *Node) startEgress(id string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	e := n.egressOf(id)
	e.started = e.said
}

func (n *Node) endEgress(id string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.egressOf(id).said = domain.Egress{}
}

// Egress is what a machine may reach now, and what it could when it started.
func (n *Node) Egress(id string) (now, started domain.Egress) {
	n.mu.Lock()
	defer n.mu.Unlock()
	e := n.egressOf(id)
	return e.said, e.started
}

// LogEgress adds an entry to a machine's log.
func (n *Node) LogEgress(id string, entry domain.EgressEntry) {
	n.mu.Lock()
	defer n.mu.Unlock()
	e := n.egressOf(id)
	entry.Seq = int64(len(e.log)) + 1
	e.log = append(e.log, entry)
}
