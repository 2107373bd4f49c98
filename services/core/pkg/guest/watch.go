package guest

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	guestv1 "github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/aetherium/guest/v1"
	"github.com/aetherium/aetherium/services/core/pkg/guest/internal/backoff"
)

// watch meets every execution in the machine, those started by envd clients
// among them. It lasts until the session ends.
func (s *Session) watch() {
	ctx := s.present
	wait := backoff.New(10*time.Millisecond, 2*time.Second)
	// A machine that is gone ends the wait at once, and ctx a moment later.
	for ctx.Err() == nil && !s.isGone() {
		err := s.hear(ctx, wait.Reset)
		if ctx.Err() == nil {
			s.cfg.Log.Debug("watch broke", "vm", s.cfg.VM, "error", err)
			_ = wait.Wait(ctx, s.gone)
		}
	}
}

// hear meets those that one watching tells of, and returns why it ended.
func (s *Session) hear(ctx context.Context, heard func()) error {
	told, err := s.cfg.Client.watch(ctx)
	if err != nil {
		return err
	}
	defer told.close()
	for {
		m, err := told.next()
		if err != nil {
			return err
		}
		heard()
		s.meet(m.GetExecution())
	}
}

// meet decides what to do about an execution that the agent tells of.
func (s *Session) meet(info *guestv1.ExecutionInfo) {
	agentID := info.GetExecutionId()
	if !domain.IsID(agentID) || info.GetPid() < 1 {
		s.cfg.Log.Warn("the guest agent told of an execution out of bounds", "vm", s.cfg.VM)
		return
	}
	id := domain.ID(agentID)
	if info.GetForeign() {
		id = s.foreignID(agentID)
	}
	s.mu.Lock()
	known := s.executions[id] != nil || s.over[agentID]
	s.mu.Unlock()
	if known {
		return
	}
	j, err := s.cfg.Journals.Lookup(s.key(id))
	switch {
	case errors.HasCode(err, errors.NotFound) && info.GetForeign():
		s.takeUp(id, info, true)
	case errors.HasCode(err, errors.NotFound):
		// Nobody here ever started it. The agent made it up, or its record is gone.
		s.cfg.Log.Warn("unknown execution in the machine", "vm", s.cfg.VM, "execution", id)
		s.kill(agentID)
	case err != nil:
		s.cfg.Log.Error("execution not taken up", "execution", id, "error", err)
	default:
		end, stored := j.Ended()
		next := j.NextOffset()
		j.Close()
		switch {
		case !stored:
			s.takeUp(id, info, false)
		case info.GetEnd() != nil:
			met := metIn(info, id)
			s.tellEnded(agentID, Ended{ID: id, End: end, OutputBytes: next, Met: &met})
		default:
			s.kill(agentID) // given up as lost, and runs after all
		}
	}
}

// takeUp supervises an execution that was met in the machine. With begin it is
// new here; else its journal says all that is needed.
func (s *Session) takeUp(id domain.ID, info *guestv1.ExecutionInfo, begin bool) {
	j, err := s.cfg.Journals.Open(s.key(id))
	if err == nil && begin {
		n := noteOf(info.GetCommand())
		n.AgentID = info.GetExecutionId()
		_, err = j.Begin(n.bytes())
		if err != nil {
			j.Close()
		}
	}
	if err != nil {
		s.cfg.Log.Error("execution not taken up", "execution", id, "error", err)
		return
	}
	x := newExecution(s, id, j)
	x.about = metIn(info, id)
	if _, err := s.add(x); err != nil {
		if begin {
			_ = s.cfg.Journals.Delete(s.key(id))
		}
		s.cfg.Log.Warn("execution not taken up", "execution", id, "error", err)
	}
}

// metIn is what the agent tells of an execution that is not on record here.
func metIn(info *guestv1.ExecutionInfo, id domain.ID) Started {
	return Started{
		ID: id, PID: info.GetPid(), Command: domainCommand(info.GetCommand()), Tag: clean(info.GetCommand().GetTag()),
		Already: true, Found: true, Foreign: info.GetForeign(),
	}
}

// foreignID makes the ID that an execution has here whose own ID the agent
// chose. It is a function of both, so that it is the same after a restart, and
// no agent can choose one that is another's.
func (s *Session) foreignID(agentID string) domain.ID {
	return foreignID(s.cfg.VM, s.cfg.Epoch, agentID)
}

func foreignID(vm domain.ID, epoch int64, agentID string) domain.ID {
	return derivedID("aetherium foreign execution", vm, epoch, agentID)
}

// derivedID makes an ID from what makes it unique.
func derivedID(purpose string, vm domain.ID, epoch int64, from string) domain.ID {
	const alphabet = "abcdefghijklmnopqrstuvwxyz0123456789"
	h := sha256.New()
	h.Write([]byte(purpose + "\x00" + string(vm) + "\x00" + from + "\x00"))
	_ = binary.Write(h, binary.BigEndian, epoch)
	out := make([]byte, 0, 20)
	for _, b := range h.Sum(nil)[:20] {
		out = append(out, alphabet[int(b)%len(alphabet)])
	}
	return domain.ID(out)
}
