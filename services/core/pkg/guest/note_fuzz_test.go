package guest

import (
	"testing"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// A note that is damaged names no execution of the agent's but by an ID.
func FuzzNote(f *testing.F) {
	f.Add(note{AgentID: "abcdefghijklmnopqrst", Stdin: true, PTY: true}.bytes())
	f.Add([]byte(`{"agent_id":"../x"}`))
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if n := readNote(b); n.AgentID != "" && !domain.IsID(n.AgentID) {
			t.Errorf("%q names %q", b, n.AgentID)
		}
	})
}
