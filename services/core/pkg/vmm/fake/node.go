package fake

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"sync"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// Node is the host that the machines are on. It is safe for concurrent use.
type Node struct {
	dir string

	mu       sync.Mutex
	machines map[string]*machine
	driver   *Driver // the newest
	faults   map[Op][]fault
	handlers []http.Handler
	egress   map[string]*egress // by machine
	memory   bool               // can be kept
	version  string             // of the driver
}

// Op names a call of the driver to make an error in.
type Op string

// The calls that can be made to fail.
const (
	OpCreate   Op = "create"
	OpStart    Op = "start"
	OpStop     Op = "stop"
	OpDelete   Op = "delete"
	OpDial     Op = "dial"
	OpPause    Op = "pause" // in mode memory
	OpResume   Op = "resume"
	OpSnapshot Op = "snapshot"
	OpRename   Op = "rename"
	OpEgress   Op = "egress"
	OpPack     Op = "pack"
	OpUnpack   Op = "unpack"
)

type fault struct {
	err     error
	release <-chan struct{} // wait for it first; nil: do not wait
	reached chan struct{}   // closed when the call waits
}

// NewNode makes a node that keeps its machines in dir. Empty: they have no files,
// nothing can be run in them, and each is reached by connections of their own and
// not by a stream: a node can have very many.
func NewNode(dir string) *Node {
	return &Node{dir: dir, machines: make(map[string]*machine), faults: make(map[Op][]fault), egress: make(map[string]*egress), version: "1"}
}

// FailNext makes the next call of op fail with err.
func (n *Node) FailNext(op Op, err error) { n.add(op, fault{err: err}) }

// HangNext makes the next call of op wait until release is called, the call's
// context ends, or the machine is deleted. It goes on then.
func (n *Node) HangNext(op Op) (release func()) {
	_, release = n.StopNext(op)
	return release
}

// StopNext is HangNext that tells when the call waits.
func (n *Node) StopNext(op Op) (reached <-chan struct{}, release func()) { return n.FailLater(op, nil) }

// FailLater is StopNext for a call that fails with err when it is released.
func (n *Node) FailLater(op Op, err error) (reached <-chan struct{}, release func()) {
	let, there := make(chan struct{}), make(chan struct{})
	n.add(op, fault{release: let, reached: there, err: err})
	return there, sync.OnceFunc(func() { close(let) })
}

func (n *Node) add(op Op, f fault) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.faults[op] = append(n.faults[op], f)
}

// stumble is called at the beginning of each call.
func (n *Node) stumble(ctx context.Context, op Op, deleted <-chan struct{}) error {
	n.mu.Lock()
	var f fault
	if list := n.faults[op]; len(list) > 0 {
		f, n.faults[op] = list[0], list[1:]
	}
	n.mu.Unlock()
	if f.release != nil {
		close(f.reached)
		select {
		case <-f.release:
		case <-deleted:
			return errors.New(errors.Canceled, "the machine was deleted")
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return f.err
}

// LieNext makes the next machine that starts answer by h in place of its
// agent: an agent that lies, hangs or breaks the protocol.
func (n *Node) LieNext(h http.Handler) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.handlers = append(n.handlers, h)
}

func (n *Node) nextHandler() http.Handler {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.handlers) == 0 {
		return nil
	}
	h := n.handlers[0]
	n.handlers = n.handlers[1:]
	return h
}

// Kill ends a running machine as the kernel would: with an exit that Wait tells.
func (n *Node) Kill(id string, exit vmm.Exit) {
	if m := n.find(id); m != nil {
		if r, _ := m.current(); r != nil {
			m.end(r, 0, exit)
		}
	}
}

// Hostname is what a machine is called; empty when there is none.
func (n *Node) Hostname(id string) string {
	m := n.find(id)
	if m == nil {
		return ""
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.spec.Hostname
}

// Cut breaks a machine's stream; whoever used it opens it again.
func (n *Node) Cut(id string) {
	if m := n.find(id); m != nil {
		m.stream.cut()
	}
}

func (n *Node) find(id string) *machine {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.machines[id]
}

// Close ends and removes every machine and snapshot.
func (n *Node) Close() error {
	n.mu.Lock()
	ids := make([]string, 0, len(n.machines))
	for id := range n.machines {
		ids = append(ids, id)
	}
	n.mu.Unlock()
	var first error
	for _, id := range ids {
		if err := n.remove(id); err != nil && first == nil {
			first = err
		}
	}
	for _, dir := range []string{n.snapshots(), n.memories()} {
		if err := os.RemoveAll(dir); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// remove ends and removes a machine; absent is success.
func (n *Node) remove(id string) error {
	n.mu.Lock()
	m := n.machines[id]
	delete(n.machines, id)
	n.mu.Unlock()
	if m == nil {
		return nil
	}
	close(m.deleted)
	if r, _ := m.current(); r != nil {
		m.end(r, 0, vmm.Exit{Known: true, Signal: 9, Code: 137})
	}
	m.stream.cut()
	if m.dir == "" {
		return nil
	}
	m.files.Lock()
	defer m.files.Unlock()
	if err := os.RemoveAll(m.dir); err != nil {
		return errors.Wrap(err, errors.Internal, "the machine's directory cannot be removed")
	}
	return nil
}

// dirOf is a machine's directory; empty: there are none.
func (n *Node) dirOf(machine string) string {
	if n.dir == "" {
		return ""
	}
	return filepath.Join(n.dir, "machines", machine)
}

func (n *Node) snapshots() string { return filepath.Join(n.dir, "snapshots") }

// Leaks tells what is left on the node besides snapshots: machines, their
// directories, their processes.
func (n *Node) Leaks() []string {
	var out []string
	entries, err := os.ReadDir(filepath.Join(n.dir, "machines"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		out = append(out, err.Error())
	}
	for _, e := range entries {
		out = append(out, "directory "+e.Name())
		ghost := &machine{dir: n.dirOf(e.Name())}
		for range ghost.processes() {
			out = append(out, "process of "+e.Name())
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for id := range n.machines {
		out = append(out, "machine "+id)
	}
	return out
}
