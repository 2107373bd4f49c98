package guest

import "testing"

func TestLanesAreBounded(t *testing.T) {
	t.Parallel()
	var l lanes
	for range maxLanes {
		if !l.enter() {
			t.Fatal("no lane below the bound")
		}
	}
	if l.enter() {
		t.Error("a lane beyond the bound")
	}
	l.leave()
	if !l.enter() {
		t.Error("no lane in place of one that ended")
	}
	l.leave()
	l.missing.Store(true)
	if l.enter() {
		t.Error("a lane to an agent that knows none")
	}
}
