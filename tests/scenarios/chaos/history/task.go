package history

import "fmt"

// Task is one that was asked for, to run a command once in a VM of its own.
type Task struct {
	Name string
	// ID is what it was accepted as; empty: it was not, and Refused has why.
	ID      string
	Refused []string
	// State is the last that was seen of it, and Failure the code of failed.
	State, Failure string
	// Command has what was kept of its command; it is acknowledged when the task
	// has ended with an exit code.
	Command *Command
	// Ran is what the command left in the VM, and the task has kept; nil: it did not.
	Ran []string
}

// AddTask notes a task that is about to be asked for.
func (h *History) AddTask(t *Task) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.tasks = append(h.tasks, t)
}

// check says what is not as it must be of a task that had the time to end, given
// the VMs that were made for it.
func (t *Task) check(rows []Row) (wrong []string) {
	say := func(format string, args ...any) {
		wrong = append(wrong, fmt.Sprintf("task %s (%s): %s", t.Name, t.ID, fmt.Sprintf(format, args...)))
	}
	vm := &VM{Name: "of task " + t.Name, ID: t.ID, Ran: t.Ran}
	for _, r := range rows {
		if r.Drained {
			vm.Woken++ // it was stopped, as those that are woken
		}
		if !settled(r.State) {
			say("its VM %s is %s in the end", r.ID, r.State)
		}
	}
	if t.ID == "" {
		if len(t.Refused) == 0 {
			say("neither accepted nor refused")
		}
		return wrong
	}
	switch t.State {
	case "succeeded":
		if t.Command.State != "exited" || t.Command.Code != 0 {
			say("succeeded by a command that %q with %d", t.Command.State, t.Command.Code)
		}
	case "failed":
		switch {
		case t.Failure == "" || t.Failure == "internal":
			say("failed by %q", t.Failure)
		case t.Failure == "command_failed" && (t.Command.State != "exited" || t.Command.Code == 0):
			say("failed by a command that %q with %d", t.Command.State, t.Command.Code)
		}
	default:
		say("%q in the end", t.State)
	}
	if t.Command.State == "" {
		return wrong // it was not started
	}
	for _, w := range t.Command.check(vm) {
		say("%s", w)
	}
	return wrong
}
