package guest

import (
	"context"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	guestv1 "github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/aetherium/guest/v1"
	"github.com/aetherium/aetherium/services/core/pkg/journal"
)

// maxRemembered bounds the executions that an agent may tell of at once: as many
// as it remembers, and as a session supervises.
const maxRemembered = 4096

// Remembered is an execution that a machine's agent knows: of its own, or from
// the machine whose memory it goes on from.
type Remembered struct {
	ID      domain.ID
	PID     int32
	Command domain.Command
	// Acked is the offset of the first byte of output that the agent still has.
	Acked   int64
	Ended   bool
	Foreign bool // started through the envd service
}

// Remembered lists what the machine's agent knows, in the order of its start.
// Returns Unavailable, GuestFault.
func (c *Client) Remembered(ctx context.Context) ([]Remembered, error) {
	told, err := list.ask(ctx, c, c.o.CallTimeout, &guestv1.ListRequest{})
	if err != nil {
		return nil, err
	}
	infos := told.GetExecutions()
	if len(infos) > maxRemembered {
		return nil, errors.New(errors.GuestFault, "the guest agent tells of %d executions", len(infos))
	}
	out := make([]Remembered, 0, len(infos))
	seen := make(map[string]bool, len(infos))
	for _, info := range infos {
		if seen[info.GetExecutionId()] || !domain.IsID(info.GetExecutionId()) || info.GetPid() < 1 || info.GetAckedOffset() < 0 || info.GetAckedOffset() > info.GetOutputBytes() {
			return nil, errors.New(errors.GuestFault, "the guest agent told of an execution out of bounds")
		}
		seen[info.GetExecutionId()] = true
		out = append(out, Remembered{
			ID: domain.ID(info.GetExecutionId()), PID: info.GetPid(), Command: domainCommand(info.GetCommand()),
			Acked: info.GetAckedOffset(), Ended: info.GetEnd() != nil, Foreign: info.GetForeign(),
		})
	}
	return out, nil
}

// Rename gives executions new IDs in the agent, by their old ones: all of them
// or none. One that has its new ID already is fine.
// Returns NotFound for an unknown one, AlreadyExists, Unavailable, GuestFault.
func (c *Client) Rename(ctx context.Context, ids map[domain.ID]domain.ID) error {
	if len(ids) == 0 {
		return nil
	}
	m := make(map[string]string, len(ids))
	for from, to := range ids {
		m[string(from)] = string(to)
	}
	_, err := rename.ask(ctx, c, c.o.CallTimeout, &guestv1.RenameRequest{ExecutionIds: m})
	return err
}

// Forget has the agent drop executions that have ended; others are left alone.
func (c *Client) Forget(ctx context.Context, ids ...domain.ID) error {
	for len(ids) > 0 {
		n := min(len(ids), maxForget)
		batch := make([]string, n)
		for i, id := range ids[:n] {
			batch[i] = string(id)
		}
		ids = ids[n:]
		_, err := forget.ask(ctx, c, c.o.CallTimeout, &guestv1.ForgetRequest{ExecutionIds: batch})
		if err != nil {
			return err
		}
	}
	return nil
}

// BeginInherited begins the journal of an execution that was not started in
// this machine, but goes on in it, under a key of its own: what was
// acknowledged before is told as a gap. A session that is opened with the
// execution as a known one takes it up there. A journal that has begun is left
// as it is.
func BeginInherited(journals *journal.Store, key journal.Key, r Remembered) error {
	return begin(journals, key, note{Origin: string(r.ID), Stdin: r.Command.Stdin, PTY: r.Command.PTY != nil}, r.Acked)
}

// BeginMoved begins the journal of an execution that goes on in a machine which
// came here with its memory, under the ID that it had: what was acknowledged
// elsewhere is told as a gap. A journal that has begun is left as it is.
func BeginMoved(journals *journal.Store, vm domain.ID, epoch int64, r Remembered) error {
	n := note{Stdin: r.Command.Stdin, PTY: r.Command.PTY != nil}
	if r.Foreign {
		n.AgentID = string(r.ID)
	}
	return begin(journals, journal.Key{VM: vm, Epoch: epoch, Execution: MovedID(vm, epoch, r)}, n, r.Acked)
}

// MovedID is the ID of an execution here that an agent remembers.
func MovedID(vm domain.ID, epoch int64, r Remembered) domain.ID {
	if r.Foreign {
		return foreignID(vm, epoch, string(r.ID))
	}
	return r.ID
}

func begin(journals *journal.Store, key journal.Key, n note, acked int64) error {
	j, err := journals.Open(key)
	if err != nil {
		return err
	}
	defer j.Close()
	began, err := j.Begin(n.bytes())
	if err != nil || !began || acked == 0 {
		return err
	}
	return j.Skip(acked)
}

// OriginOf is the execution that one goes on from whose journal BeginInherited
// began. ok is false where there is no journal of that key.
func OriginOf(journals *journal.Store, key journal.Key) (origin domain.ID, ok bool) {
	j, err := journals.Lookup(key)
	if err != nil {
		return "", false
	}
	defer j.Close()
	return domain.ID(readNote(j.Note()).Origin), true
}

// InheritedID is the ID that an execution gets in a VM which goes on from the
// memory where it ran. It is the same each time, so that whoever was killed
// while giving it can do so again.
func InheritedID(vm domain.ID, epoch int64, origin domain.ID) domain.ID {
	return derivedID("aetherium inherited execution", vm, epoch, string(origin))
}
