package fake

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"connectrpc.com/connect"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/guest"
	guestv1 "github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/aetherium/guest/v1"
	"github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/aetherium/guest/v1/guestv1connect"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// memoryTimeout bounds talking to an agent about what runs in its machine.
const memoryTimeout = 30 * time.Second

// memory is what a snapshot keeps of what ran: the executions, not their
// pages. A machine that is made from it begins them anew under the same IDs.
type memory []guest.Remembered

// remember asks the agent what runs.
func (d *Driver) remember(ctx context.Context, m *machine, r *run) (memory, error) {
	ctx, cancel := context.WithTimeout(ctx, memoryTimeout)
	defer cancel()
	c := guest.New(d.toAgent(m, r), guest.Options{})
	defer c.Close()
	all, err := c.Remembered(ctx)
	kept := make(memory, 0, len(all))
	for _, x := range all {
		if !x.Ended {
			kept = append(kept, x)
		}
	}
	return kept, err
}

func (n *Node) memories() string { return filepath.Join(n.dir, "memories") }

func (n *Node) memoryFile(snapshot string) string { return filepath.Join(n.memories(), snapshot) }

// keep stores memory beside a snapshot's files.
func (n *Node) keep(snapshot string, mem memory) error {
	b, err := json.Marshal(mem)
	if err == nil {
		err = os.MkdirAll(n.memories(), 0o700)
	}
	if err == nil {
		err = os.WriteFile(n.memoryFile(snapshot), b, 0o600)
	}
	if err != nil {
		return errors.Wrap(err, errors.Internal, "the memory cannot be kept")
	}
	return nil
}

// recall reads a snapshot's memory.
func (n *Node) recall(snapshot string) (mem memory, err error) {
	b, err := os.ReadFile(n.memoryFile(snapshot))
	if err == nil {
		err = json.Unmarshal(b, &mem)
	}
	if err != nil {
		return nil, errors.Wrap(err, errors.NotFound, "there is no memory in the snapshot")
	}
	return mem, nil
}

// goOn begins what ran at a snapshot, each up to where its output had been
// acknowledged.
func (d *Driver) goOn(ctx context.Context, m *machine, r *run, mem memory) error {
	if len(mem) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, memoryTimeout)
	defer cancel()
	dial := d.toAgent(m, r)
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	t := &http.Transport{Protocols: &p, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) }}
	defer t.CloseIdleConnections()
	c := guestv1connect.NewExecutionServiceClient(&http.Client{Transport: t}, "http://agent")
	for _, x := range mem {
		if err := begin(ctx, c, m, x); err != nil {
			return errors.Wrap(err, errors.GuestFault, "what ran at the snapshot does not run again")
		}
	}
	return nil
}

func begin(ctx context.Context, c guestv1connect.ExecutionServiceClient, m *machine, x guest.Remembered) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := &guestv1.Command{
		Args: x.Command.Args, Env: x.Command.Env, User: x.Command.User, Cwd: x.Command.Cwd,
		Stdin: x.Command.Stdin, TimeoutMs: x.Command.Timeout.Milliseconds(),
	}
	if p := x.Command.PTY; p != nil {
		cmd.Pty = &guestv1.TerminalSize{Cols: uint32(p.Cols), Rows: uint32(p.Rows)}
	}
	str := c.Attach(ctx)
	err := str.Send(&guestv1.AttachRequest{Request: &guestv1.AttachRequest_Start_{Start: &guestv1.AttachRequest_Start{
		ExecutionId: string(x.ID), Command: cmd,
	}}})
	for begun := false; err == nil; {
		var msg *guestv1.AttachResponse
		if msg, err = str.Receive(); err != nil {
			break
		}
		var at int64
		switch r := msg.GetResponse().(type) {
		case *guestv1.AttachResponse_Started_:
			begun = true
		case *guestv1.AttachResponse_Output_:
			at = r.Output.GetOffset() + int64(len(r.Output.GetData()))
		case *guestv1.AttachResponse_End:
			at = x.Acked
		}
		if begun && at >= x.Acked {
			return acknowledge(str, x.Acked)
		}
		if at > 0 {
			err = acknowledge(str, min(at, x.Acked))
		}
	}
	return err
}

func acknowledge(str *connect.BidiStreamForClient[guestv1.AttachRequest, guestv1.AttachResponse], offset int64) error {
	if offset == 0 {
		return nil
	}
	return str.Send(&guestv1.AttachRequest{Request: &guestv1.AttachRequest_Ack_{Ack: &guestv1.AttachRequest_Ack{Offset: offset}}})
}

// sleep is Pause in mode memory: the machine's processes stand still, and to
// whoever looks from outside there are none.
func (d *Driver) sleep(ctx context.Context, m *machine) error {
	r, status := m.current()
	switch {
	case r == nil && m.asleep():
		return nil
	case r == nil:
		return errors.New(errors.Conflict, "the machine does not run")
	case status == vmm.StatusPaused && m.asleep():
		return nil
	case status == vmm.StatusPaused:
		return errors.New(errors.Conflict, "the machine is frozen").WithHint("resume it first")
	}
	if err := d.node.stumble(ctx, OpPause, m.deleted); err != nil {
		return err
	}
	mem, err := d.remember(ctx, m, r)
	if err != nil {
		return err
	}
	if err := m.pause(true); err != nil {
		return err
	}
	version := d.node.Version()
	m.mu.Lock()
	m.slept, m.savedBy = &mem, version
	m.mu.Unlock()
	d.drop(m) // as with a monitor that ends, connections break
	return nil
}

// snapshotMemory is what Snapshot keeps of what runs.
func (d *Driver) snapshotMemory(ctx context.Context, m *machine) (memory, error) {
	m.mu.Lock()
	r, slept, arrived, status := m.run, m.slept, m.arrived, m.status
	m.mu.Unlock()
	switch {
	case arrived != nil:
		return *arrived, nil
	case r == nil:
		return nil, errors.New(errors.Conflict, "the machine does not run").WithHint("a snapshot of its disk alone can be made")
	case slept != nil:
		return *slept, nil
	case status == vmm.StatusPaused:
		return nil, errors.New(errors.Conflict, "the machine is frozen").WithHint("resume it first")
	}
	return d.remember(ctx, m, r)
}

// SetVersion makes the driver another version of itself: memory of an earlier
// one is not restored.
func (n *Node) SetVersion(v string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.version = v
}

// Version is the driver's.
func (n *Node) Version() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.version
}

// KeepMemory makes the driver one that can keep memory, too.
func (n *Node) KeepMemory() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.memory = true
}

func (n *Node) keepsMemory() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.memory
}
