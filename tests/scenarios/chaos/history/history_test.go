package history

import (
	"strings"
	"testing"
	"time"
)

// good is a history of which nothing can be said.
func good() (*History, *VM, *Command, []Row) {
	c := &Command{ID: "c", Acknowledged: true, Want: []byte("line 1\nline 2\n"), Got: []byte("line 1\nline 2\n"), WantCode: 7, Code: 7, State: "exited"}
	vm := &VM{Name: "one", ID: "v", State: "running", Commands: []*Command{c}, Ran: []string{"c"}, DeleteAsked: true, Deleted: true}
	h := new(History)
	h.Add(vm)
	return h, vm, c, []Row{{ID: "v", Name: "one", State: "deleted"}}
}

func TestCheckFinds(t *testing.T) {
	if h, _, _, rows := good(); len(h.Check(rows)) > 0 {
		t.Fatalf("of a good one: %v", h.Check(rows))
	}
	h, vm, c, rows := good()
	vm.Woken, c.Code, c.Got = 1, 143, c.Got[:7]
	if wrong := h.Check(rows); len(wrong) > 0 {
		t.Errorf("of one whose worker was drained: %v", wrong)
	}
	for want, spoil := range map[string]func(*History, *VM, *Command, *[]Row){
		"not known any more": func(_ *History, _ *VM, _ *Command, rows *[]Row) { *rows = nil },
		"it is there 2 times": func(_ *History, _ *VM, _ *Command, rows *[]Row) {
			*rows = append(*rows, Row{ID: "w", Name: "one", State: "running"}, Row{ID: "x", Name: "one", State: "running"})
		},
		"nobody asked for it": func(_ *History, _ *VM, _ *Command, rows *[]Row) {
			*rows = append(*rows, Row{ID: "w", Name: "other", State: "running"})
		},
		"neither accepted nor refused":  func(_ *History, vm *VM, _ *Command, rows *[]Row) { vm.ID, *rows = "", nil },
		"failed without a reason":       func(_ *History, vm *VM, _ *Command, _ *[]Row) { vm.State = "failed" },
		`"creating" in the end`:         func(_ *History, vm *VM, _ *Command, _ *[]Row) { vm.State = "creating" },
		"it ran 2 times":                func(_ *History, vm *VM, _ *Command, _ *[]Row) { vm.Ran = []string{"c", "c"} },
		"it has exited, and never ran":  func(_ *History, vm *VM, _ *Command, _ *[]Row) { vm.Ran = []string{} },
		"is none of its commands":       func(_ *History, vm *VM, _ *Command, _ *[]Row) { vm.Ran = append(vm.Ran, "d") },
		"a piece is no longer kept":     func(_ *History, vm *VM, _ *Command, _ *[]Row) { vm.RanCut = true },
		"from byte 5 on":                func(_ *History, _ *VM, c *Command, _ *[]Row) { c.Got = []byte("line 2\nline 2\n") },
		"from byte 14 on":               func(_ *History, _ *VM, c *Command, _ *[]Row) { c.Got = append(c.Got, "line 2\n"...) },
		"7 of 14 bytes":                 func(_ *History, _ *VM, c *Command, _ *[]Row) { c.Got = c.Got[:7] },
		"exit code 0, not 7":            func(_ *History, _ *VM, c *Command, _ *[]Row) { c.Code = 0 },
		"exit code 143, not 7":          func(_ *History, _ *VM, c *Command, _ *[]Row) { c.Code = 143 },
		"said something, and never ran": func(_ *History, vm *VM, c *Command, _ *[]Row) { vm.Woken, vm.Ran, c.Code = 1, []string{}, 143 },
		"lost without a reason":         func(_ *History, _ *VM, c *Command, _ *[]Row) { c.State = "lost" },
		`acknowledged, and "running"`:   func(_ *History, _ *VM, c *Command, _ *[]Row) { c.State = "running" },
		"and not_found in the end":      func(_ *History, _ *VM, c *Command, _ *[]Row) { c.State, c.Refused = "", "not_found" },
		"was not answered within 20s":   func(h *History, _ *VM, _ *Command, _ *[]Row) { h.Note(Call{HungUp: true, Took: 20 * time.Second}) },
		"from byte 1 of 3 on": func(_ *History, vm *VM, _ *Command, _ *[]Row) {
			vm.Files = []*File{{Path: "/f", Want: []byte("abc"), Got: []byte("aBc"), Written: true, Read: true}}
		},
		`answered by "internal"`:        func(h *History, _ *VM, _ *Command, _ *[]Row) { h.Note(Call{Code: "internal"}) },
		`answered by "unauthenticated"`: func(h *History, _ *VM, _ *Command, _ *[]Row) { h.Note(Call{Code: "unauthenticated"}) },
		"which nobody asked for":        func(_ *History, vm *VM, _ *Command, _ *[]Row) { vm.DeleteAsked, vm.Deleted = false, false },
		"ended within 2s":               func(_ *History, vm *VM, _ *Command, _ *[]Row) { vm.Timeout, vm.Ended = 3*time.Second, 2*time.Second },
		"that was not found":            func(_ *History, vm *VM, _ *Command, _ *[]Row) { vm.Of, vm.Refused = "o", []string{"not_found"} },
		"had ended there, ran 0 times":  func(_ *History, vm *VM, _ *Command, _ *[]Row) { vm.Of, vm.Had = "o", []string{"b"} },
		"task t: nobody asked for it": func(_ *History, _ *VM, _ *Command, rows *[]Row) {
			*rows = append(*rows, Row{ID: "w", Task: "t", State: "deleted"})
		},
		"task t (): neither accepted": func(h *History, _ *VM, _ *Command, _ *[]Row) { h.AddTask(&Task{Name: "t", Command: &Command{}}) },
		`task t (x): "running" in the end`: func(h *History, _ *VM, _ *Command, _ *[]Row) {
			h.AddTask(&Task{Name: "t", ID: "x", State: "running", Command: &Command{}})
		},
		`task t (x): failed by "internal"`: func(h *History, _ *VM, _ *Command, _ *[]Row) {
			h.AddTask(&Task{Name: "t", ID: "x", State: "failed", Failure: "internal", Command: &Command{}})
		},
		`task t (x): succeeded by a command that`: func(h *History, _ *VM, _ *Command, _ *[]Row) {
			h.AddTask(&Task{Name: "t", ID: "x", State: "succeeded", Command: &Command{}})
		},
		`task t (x): command k in VM of task t (x): it ran 2 times`: func(h *History, _ *VM, _ *Command, _ *[]Row) {
			h.AddTask(&Task{Name: "t", ID: "x", State: "succeeded", Command: &Command{ID: "k", State: "exited"}, Ran: []string{"k", "k"}})
		},
		"task t (x): its VM w is running in the end": func(h *History, _ *VM, _ *Command, rows *[]Row) {
			h.AddTask(&Task{Name: "t", ID: "x", State: "succeeded", Command: &Command{ID: "k", State: "exited"}})
			*rows = append(*rows, Row{ID: "w", Task: "t", State: "running"})
		},
		"and running in the end": func(_ *History, vm *VM, _ *Command, rows *[]Row) {
			vm.Ended, *rows = time.Second, []Row{{ID: "v", Name: "one", State: "running"}}
		},
	} {
		h, vm, c, rows := good()
		spoil(h, vm, c, &rows)
		if got := strings.Join(h.Check(rows), "\n"); !strings.Contains(got, want) {
			t.Errorf("want %q, got %q", want, got)
		}
	}
}

func TestCheckEventsFinds(t *testing.T) {
	h, _, _, rows := good()
	told := []Event{{1, "vm.created", "v"}, {3, "worker.ready", ""}, {4, "vm.deleted", "v"}}
	if wrong := h.CheckEvents(told, rows); len(wrong) > 0 {
		t.Fatalf("of good ones: %v", wrong)
	}
	for want, events := range map[string][]Event{
		"its creation was told 0 times": told[1:],
		"its creation was told 2 times": {told[0], {2, "vm.created", "v"}, told[2]},
		"its deletion was told 0 times": told[:2],
		"its deletion was told 2 times": {told[0], told[2], {5, "vm.deleted", "v"}},
		"was told after event 3":        {told[0], told[1], told[1], told[2]},
	} {
		if got := strings.Join(h.CheckEvents(events, rows), "\n"); !strings.Contains(got, want) {
			t.Errorf("want %q, got %q", want, got)
		}
	}
}

// What nobody was promised may be either way.
func TestCheckAllows(t *testing.T) {
	for name, spoil := range map[string]func(*History, *VM, *Command, *[]Row){
		"a refusal": func(_ *History, vm *VM, _ *Command, rows *[]Row) {
			*vm, *rows = VM{Name: "one", Refused: []string{"unavailable"}}, nil
		},
		"a failure with its reason":    func(_ *History, vm *VM, _ *Command, _ *[]Row) { vm.State, vm.Failure = "failed", "no memory" },
		"a command never acknowledged": func(_ *History, _ *VM, c *Command, _ *[]Row) { c.Acknowledged, c.State, c.Got = false, "", nil },
		"a command lost with a reason": func(_ *History, _ *VM, c *Command, _ *[]Row) {
			c.State, c.Lost, c.Got = "lost", "the host went down", nil
		},
		"one that nobody could look at": func(_ *History, vm *VM, _ *Command, _ *[]Row) { vm.Ran = nil },
		"a file that may not be there": func(_ *History, vm *VM, _ *Command, _ *[]Row) {
			vm.Files = []*File{{Want: []byte("a"), Read: true}, {Want: []byte("a"), Written: true}}
		},
		"one whose time was up": func(_ *History, vm *VM, _ *Command, _ *[]Row) {
			*vm = VM{Name: "one", ID: "v", State: "deleted", Timeout: time.Second, Ended: 2 * time.Second}
		},
	} {
		h, vm, c, rows := good()
		spoil(h, vm, c, &rows)
		if got := h.Check(rows); len(got) > 0 {
			t.Errorf("%s: %v", name, got)
		}
	}
}
