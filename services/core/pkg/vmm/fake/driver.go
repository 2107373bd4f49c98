package fake

import (
	"context"
	"io"
	"net"
	"path/filepath"
	"regexp"
	"sync"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/guest"
	"github.com/aetherium/aetherium/services/core/pkg/guest/mux"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// Name is the driver's name.
const Name = "fake"

// Driver is one worker's view of a node.
type Driver struct {
	node *Node

	mu     sync.Mutex
	closed bool
	hosts  map[*machine]*hostEnd
}

// hostEnd is the host's end of the multiplexer for one run of a machine.
type hostEnd struct {
	run *run
	mux *mux.Mux
}

var (
	_ vmm.Driver           = (*Driver)(nil)
	_ vmm.Pauser           = (*Driver)(nil)
	_ vmm.Snapshotter      = (*Driver)(nil)
	_ vmm.MemoryCarrier    = (*Driver)(nil)
	_ vmm.Meter            = (*Driver)(nil)
	_ vmm.Renamer          = (*Driver)(nil)
	_ vmm.Tracer           = (*Driver)(nil)
	_ vmm.EgressController = (*Driver)(nil)
	_ vmm.Closer           = (*Driver)(nil)
)

// New makes a driver over what is on the node. Any earlier driver of the node
// can no longer open streams, as if its process had been killed.
func New(n *Node) *Driver {
	d := &Driver{node: n, hosts: make(map[*machine]*hostEnd)}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.driver = d
	for _, m := range n.machines {
		m.stream.cut()
	}
	return d
}

// Info says what the driver can do.
func (d *Driver) Info(context.Context) domain.DriverInfo {
	can := []string{"snapshot:" + string(domain.SnapshotDisk), "fork", "carry", "meter", "rename", "egress"}
	d.node.mu.Lock()
	defer d.node.mu.Unlock()
	if d.node.dir != "" { // else there is nothing that could stand still
		can = append(can, "pause:"+string(domain.PauseFreeze))
		if d.node.memory {
			can = append(can, "pause:"+string(domain.PauseMemory), "snapshot:"+string(domain.SnapshotMemory), "fork:memory", "carry:memory")
		}
	}
	return domain.DriverInfo{Name: Name, Version: d.node.version, Isolation: domain.IsolationContainer, Usable: true, Capabilities: can}
}

var idForm = regexp.MustCompile(`^[a-z0-9-]{1,64}$`)

// Create makes a machine's directory.
func (d *Driver) Create(ctx context.Context, spec vmm.Spec) (vmm.Handle, error) {
	if !idForm.MatchString(spec.MachineID) || spec.DiskFrom != "" && !idForm.MatchString(spec.DiskFrom) {
		return nil, errors.New(errors.InvalidArgument, "the machine's ID is malformed")
	}
	if spec.Memory {
		if _, err := d.node.recall(spec.DiskFrom); err != nil {
			return nil, err
		}
	}
	d.node.mu.Lock()
	m := d.node.machines[spec.MachineID]
	if m != nil {
		d.node.mu.Unlock()
		return handleOf(spec.MachineID), nil
	}
	m = &machine{
		spec: spec, dir: d.node.dirOf(spec.MachineID), made: time.Now().UTC(),
		stream: newStream(), deleted: make(chan struct{}), status: vmm.StatusBroken,
	}
	d.node.machines[spec.MachineID] = m
	d.node.mu.Unlock()
	if err := d.node.stumble(ctx, OpCreate, m.deleted); err != nil {
		return nil, errors.Join(err, d.node.remove(spec.MachineID))
	}
	from := ""
	if spec.DiskFrom != "" {
		from = filepath.Join(d.node.snapshots(), spec.DiskFrom)
	}
	if err := m.prepare(from); err != nil {
		return nil, errors.Join(errors.Wrap(err, errors.Internal, "the machine's directory cannot be made"), d.node.remove(spec.MachineID))
	}
	m.mu.Lock()
	m.status = vmm.StatusCreated
	m.mu.Unlock()
	return handleOf(spec.MachineID), nil
}

func (d *Driver) machine(id string) (*machine, error) {
	if m := d.node.find(id); m != nil {
		return m, nil
	}
	return nil, errors.New(errors.NotFound, "no such machine")
}

// Start runs the machine's agent, and what ran at the memory snapshot that the
// machine is made from.
func (d *Driver) Start(ctx context.Context, id string) error {
	m, err := d.machine(id)
	if err != nil {
		return err
	}
	if err := d.node.stumble(ctx, OpStart, m.deleted); err != nil {
		return err
	}
	m.starting.Lock()
	defer m.starting.Unlock()
	var mem memory
	if m.forked() {
		if mem, err = d.node.recall(m.spec.DiskFrom); err != nil {
			return err
		}
	}
	began := time.Now()
	r, err := d.boot(m)
	if err != nil {
		return err
	}
	phases := []vmm.Phase{{Name: "boot", Took: time.Since(began)}}
	if err := d.goOn(ctx, m, r, mem); err != nil {
		m.end(r, 0, vmm.Exit{Known: true})
		d.drop(m)
		return err
	}
	if len(mem) > 0 {
		phases = append(phases, vmm.Phase{Name: "restore", Took: time.Since(began) - phases[0].Took})
	}
	m.runs(r, phases)
	return nil
}

// boot runs the machine's agent unless it runs.
func (d *Driver) boot(m *machine) (*run, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	select {
	case <-m.deleted:
		return nil, errors.New(errors.NotFound, "no such machine")
	default:
	}
	if m.run == nil {
		d.node.startEgress(m.spec.MachineID)
		m.boot(d.node.nextHandler())
	}
	return m.run, nil
}

// Stop ends the machine's processes and its agent.
func (d *Driver) Stop(ctx context.Context, id string, grace time.Duration) error {
	m := d.node.find(id)
	if m == nil {
		return nil
	}
	if err := d.node.stumble(ctx, OpStop, m.deleted); err != nil {
		return err
	}
	m.stay()
	if r, _ := m.current(); r != nil {
		m.end(r, grace, vmm.Exit{Known: true})
		d.drop(m)
	}
	d.node.endEgress(id)
	return nil
}

// Delete removes the machine.
func (d *Driver) Delete(ctx context.Context, id string) error {
	m := d.node.find(id)
	if m == nil {
		return nil
	}
	if err := d.node.stumble(ctx, OpDelete, nil); err != nil {
		return err
	}
	err := d.node.remove(id)
	d.node.endEgress(id)
	d.drop(m)
	return err
}

// List tells the node's machines.
func (d *Driver) List(context.Context) ([]vmm.State, error) {
	d.node.mu.Lock()
	defer d.node.mu.Unlock()
	out := make([]vmm.State, 0, len(d.node.machines))
	for _, m := range d.node.machines {
		out = append(out, m.state())
	}
	return out, nil
}

// Wait blocks until the machine has ended.
func (d *Driver) Wait(ctx context.Context, id string) (vmm.Exit, error) {
	m, err := d.machine(id)
	if err != nil {
		return vmm.Exit{}, err
	}
	if r, _ := m.current(); r != nil {
		select {
		case <-r.ended:
		case <-ctx.Done():
			return vmm.Exit{}, ctx.Err()
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.exit, nil
}

// Dial connects to the agent over the multiplexed stream, or directly to one of a
// machine without files, and to other ports
// by way of the agent.
func (d *Driver) Dial(ctx context.Context, id string, port uint32) (net.Conn, error) {
	m, err := d.machine(id)
	if err != nil {
		return nil, err
	}
	if err := d.node.stumble(ctx, OpDial, m.deleted); err != nil {
		return nil, err
	}
	r, _ := m.current()
	if r == nil || m.asleep() {
		return nil, errors.New(errors.Conflict, "the machine does not run")
	}
	agent := d.toAgent(m, r)
	if port == vmm.AgentPort {
		return agent(ctx)
	}
	if port == 0 || port > 1<<16-1 {
		return nil, errors.New(errors.InvalidArgument, "a port is between 1 and 65535")
	}
	c := guest.New(agent, guest.Options{})
	return c.DialPort(ctx, uint16(port))
}

// toAgent connects to a run's agent.
func (d *Driver) toAgent(m *machine, r *run) guest.Dial {
	return func(ctx context.Context) (net.Conn, error) { return d.dialAgent(ctx, m, r) }
}

// dialAgent gives up when the machine ends.
func (d *Driver) dialAgent(ctx context.Context, m *machine, r *run) (net.Conn, error) {
	if r.direct != nil {
		conn, err := r.direct.Dial(ctx)
		if errors.Is(err, net.ErrClosed) {
			err = errors.New(errors.Conflict, "the machine has ended")
		}
		return conn, err
	}
	host, err := d.mux(m, r)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	done := make(chan struct{})
	defer close(done)
	go func() {
		select {
		case <-r.ended:
			cancel(errors.New(errors.Conflict, "the machine has ended"))
		case <-done:
		}
	}()
	conn, err := host.Dial(ctx)
	if err != nil && context.Cause(ctx) != nil {
		return nil, context.Cause(ctx)
	}
	return conn, err
}

// mux gives the host's end for a run.
func (d *Driver) mux(m *machine, r *run) (*mux.Mux, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, errors.New(errors.Unavailable, "the driver is closed")
	}
	h := d.hosts[m]
	if h != nil && h.run != r { // of a run that was killed
		_ = h.mux.Close()
		h = nil
	}
	if h == nil {
		h = &hostEnd{run: r, mux: mux.New(mux.Host, d.opener(m), mux.Options{})}
		d.hosts[m] = h
	}
	return h.mux, nil
}

// opener opens a machine's stream as long as this is the node's driver.
func (d *Driver) opener(m *machine) mux.Open {
	return func(ctx context.Context) (io.ReadWriteCloser, error) {
		d.node.mu.Lock()
		current := d.node.driver == d
		d.node.mu.Unlock()
		if !current {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return m.stream.openHost(), nil
	}
}

func (d *Driver) drop(m *machine) {
	d.mu.Lock()
	h := d.hosts[m]
	delete(d.hosts, m)
	d.mu.Unlock()
	if h != nil {
		_ = h.mux.Close()
	}
}

// Close lets go of the streams. The machines go on.
func (d *Driver) Close() error {
	d.mu.Lock()
	hosts := d.hosts
	d.hosts, d.closed = nil, true
	d.mu.Unlock()
	for _, h := range hosts {
		_ = h.mux.Close()
	}
	return nil
}
