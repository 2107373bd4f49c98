package guest

import (
	"encoding/json"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	guestv1 "github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/aetherium/guest/v1"
	"github.com/aetherium/aetherium/services/core/pkg/journal"
)

// note is what an execution's journal keeps for a later process to take it up.
type note struct {
	// AgentID is what the agent calls it where that is not its ID here.
	AgentID string `json:"agent_id,omitempty"`
	// Origin is the execution that it goes on from, in a machine that goes on
	// from the memory of another.
	Origin string `json:"origin,omitempty"`
	Stdin  bool   `json:"stdin,omitempty"`
	PTY    bool   `json:"pty,omitempty"`
	// Command is StartRequest.Sealed, where there is room for it.
	Command []byte `json:"command,omitempty"`
}

func (n note) bytes() []byte {
	b, err := json.Marshal(n)
	if err != nil {
		return nil // strings, booleans and bytes always marshal
	}
	if len(b) > journal.MaxNote && len(n.Command) > 0 {
		n.Command = nil
		return n.bytes()
	}
	return b
}

// SealedCommand is what a journal has of its execution's command: that is what it
// was started with as StartRequest.Sealed. nil: nothing, as of what was long, or
// was started by a client of the envd service.
func SealedCommand(j *journal.Journal) []byte { return readNote(j.Note()).Command }

// readNote reads a note back. Without one, because the oldest part of the
// journal was dropped, it says what harms least.
func readNote(b []byte) note {
	var n note
	if json.Unmarshal(b, &n) != nil {
		return note{Stdin: true}
	}
	if n.AgentID != "" && !domain.IsID(n.AgentID) {
		n.AgentID = ""
	}
	if n.Origin != "" && !domain.IsID(n.Origin) {
		n.Origin = ""
	}
	return n
}

// agentIDOf is what the agent calls the execution of a journal.
func agentIDOf(j *journal.Journal, id domain.ID) string {
	if n := readNote(j.Note()); n.AgentID != "" {
		return n.AgentID
	}
	return string(id)
}

func noteOf(c *guestv1.Command) note { return note{Stdin: c.GetStdin(), PTY: c.GetPty() != nil} }
