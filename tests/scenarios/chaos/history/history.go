// Package history is what the users of an installation did and saw while its
// parts were failing, and what must be true of that all the same.
package history

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// History is written by all users at once.
type History struct {
	mu    sync.Mutex
	vms   []*VM
	tasks []*Task
	calls []Call
}

// VM is one that was asked for, by a name that nobody else uses.
type VM struct {
	Name string
	// ID is what it was accepted as; empty: it was not.
	ID string
	// Refused has the codes of the errors by which it was not accepted.
	Refused []string
	// State is the last that was seen of it, and Failure the reason of failed.
	State, Failure string
	Commands       []*Command
	// Ran is what the commands left in the VM: their IDs, in the order in which
	// they ran, or nil where nobody could look.
	Ran []string
	// RanCut is set where a piece of that was said to be no longer kept.
	RanCut bool
	Files  []*File
	// Of is the VM or the snapshot that it was made of and that was there then, if
	// any, and Had the commands that had ended in that one by then.
	Of  string
	Had []string
	// Timeout is how long it was to last; 0: until it is deleted.
	Timeout time.Duration
	// Ended is how long after it was asked for it was seen to have ended by itself.
	Ended time.Duration
	// Drained is set when it ended because its worker was drained. Woken counts how
	// often it was found stopped by that and started, Moved how often from the storage.
	Drained      bool
	Woken, Moved int
	// DeleteAsked is set before its deletion is asked for, Deleted when it was
	// confirmed.
	DeleteAsked, Deleted bool
}

// CopySuffix ends the name of a copy, after that of the VM that it was made of.
const CopySuffix = "-copy"

// Command is one that was asked for, by an ID that its user made.
type Command struct {
	ID           string
	Acknowledged bool
	// Want and Got are all of its output, as it had to be and as it came.
	Want, Got []byte
	WantCode  int
	// Gaps are pieces that were said to be no longer kept.
	Gaps int
	// State is how it ended: exited, or lost for a reason.
	State, Lost string
	Code        int
	// Refused is the code of the error that ended the looking for its end.
	Refused string
}

// File is one that was written into a VM, and then read.
type File struct {
	Path      string
	Want, Got []byte
	// Written and Read are set when that was confirmed.
	Written, Read bool
}

// Call is a request and what became of it.
type Call struct {
	What, To string
	At       time.Time
	Took     time.Duration
	Code     string // of the error; empty: it was answered
	Unheard  bool   // no answer came: the connection broke
	HungUp   bool   // the caller's patience ended first
}

// Row is what the installation knows of a VM in the end. Task is the name of the
// task that it was made for, if any, and Drained is set where it ended because
// its worker was drained.
type Row struct {
	ID, Name, State, Task string
	Drained               bool
}

// Event is one that the installation has told of a VM, if of one.
type Event struct {
	Seq      int64
	Type, VM string
}

// Add notes a VM that is about to be asked for.
func (h *History) Add(vm *VM) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.vms = append(h.vms, vm)
}

// Note notes a call.
func (h *History) Note(c Call) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.calls = append(h.calls, c)
}

// Check says what is not as it must be. Rows are all VMs of the installation
// when everything works again and every user has come to an end.
func (h *History) Check(rows []Row) (wrong []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	say := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	byName, byTask := map[string][]Row{}, map[string][]Row{}
	for _, r := range rows {
		if r.Task != "" {
			byTask[r.Task] = append(byTask[r.Task], r)
			continue
		}
		byName[r.Name] = append(byName[r.Name], r)
	}
	for _, t := range h.tasks {
		wrong = append(wrong, t.check(byTask[t.Name])...)
		delete(byTask, t.Name)
	}
	for name, found := range byTask {
		say("task %s: nobody asked for it: %v", name, found)
	}
	of := map[string]*VM{} // by command
	for _, vm := range h.vms {
		for _, c := range vm.Commands {
			of[c.ID] = vm
		}
	}
	for _, vm := range h.vms {
		for _, id := range vm.Ran {
			if o := of[id]; o == nil || o != vm && o.Name+CopySuffix != vm.Name {
				say("VM %s (%s): %q ran there, which is none of its commands", vm.Name, vm.ID, id)
			}
		}
		found := byName[vm.Name]
		delete(byName, vm.Name)
		switch {
		case vm.ID == "" && len(vm.Refused) == 0:
			say("VM %s: neither accepted nor refused", vm.Name)
		case vm.ID != "" && !slices.ContainsFunc(found, func(r Row) bool { return r.ID == vm.ID }):
			say("VM %s: accepted as %s, and not known any more", vm.Name, vm.ID)
		}
		if alive := slices.DeleteFunc(slices.Clone(found), func(r Row) bool { return settled(r.State) }); len(alive) > 1 {
			say("VM %s: it is there %d times: %v", vm.Name, len(alive), alive)
		}
		switch {
		case vm.ID == "":
		case vm.State == "failed" && vm.Failure == "":
			say("VM %s: failed without a reason", vm.Name)
		case vm.Ended > 0 && vm.Ended < vm.Timeout && !vm.Drained:
			say("VM %s: it was to last %s, and ended within %s", vm.Name, vm.Timeout, vm.Ended.Round(time.Millisecond))
		case vm.Ended == 0 && vm.State != "running" && vm.State != "failed":
			say("VM %s: accepted as %s, and %q in the end", vm.Name, vm.ID, vm.State)
		}
		for _, r := range found {
			if r.ID != vm.ID {
				continue
			}
			switch {
			case r.State == "deleted" && vm.State == "running" && vm.Ended == 0 && !vm.DeleteAsked:
				say("VM %s: deleted in the end, which nobody asked for", vm.Name)
			case vm.Ended > 0 && !settled(r.State):
				say("VM %s: seen to have ended, and %s in the end", vm.Name, r.State)
			}
		}
		if vm.RanCut {
			say("VM %s (%s): of what ran there a piece is no longer kept: %q came", vm.Name, vm.ID, vm.Ran)
		}
		for _, c := range vm.Commands {
			wrong = append(wrong, c.check(vm)...)
		}
		wrong = append(wrong, vm.checkOrigin()...)
		for _, f := range vm.Files {
			if f.Written && f.Read && !bytes.Equal(f.Want, f.Got) {
				say("VM %s (%s): %s is not what was written, from byte %d of %d on", vm.Name, vm.ID, f.Path, common(f.Want, f.Got), len(f.Want))
			}
		}
	}
	for name, found := range byName {
		say("VM %s: nobody asked for it: %v", name, found)
	}
	for _, c := range h.calls {
		if c.HungUp {
			say("%s: %s to %s was not answered within %s", c.At.Format(time.TimeOnly+".000"), c.What, c.To, c.Took.Round(time.Millisecond))
		}
		if c.Code == "internal" || c.Code == "unauthenticated" { // credentials were good at any time
			say("%s: %s to %s was answered by %q", c.At.Format(time.TimeOnly+".000"), c.What, c.To, c.Code)
		}
	}
	slices.Sort(wrong)
	return wrong
}

// CheckEvents says what is not as it must be among all events, in the order in
// which they were told, given the same rows as Check.
func (h *History) CheckEvents(events []Event, rows []Row) (wrong []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	say := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	type one struct{ kind, vm string }
	told, last := map[one]int{}, int64(0)
	for _, e := range events {
		if e.Seq <= last {
			say("event %d (%s) was told after event %d", e.Seq, e.Type, last)
		}
		last = e.Seq
		told[one{e.Type, e.VM}]++
	}
	for _, vm := range h.vms {
		if n := told[one{"vm.created", vm.ID}]; vm.ID != "" && n != 1 {
			say("VM %s (%s): its creation was told %d times", vm.Name, vm.ID, n)
		}
	}
	for _, r := range rows {
		want := 0
		if r.State == "deleted" {
			want = 1
		}
		if n := told[one{"vm.deleted", r.ID}]; n != want {
			say("VM %s (%s): it is %s, and its deletion was told %d times", r.Name, r.ID, r.State, n)
		}
	}
	return wrong
}

// settled reports whether a VM of that state has nothing on any host.
func settled(state string) bool { return state == "deleted" || state == "failed" }

func (c *Command) check(vm *VM) (wrong []string) {
	say := func(format string, args ...any) {
		wrong = append(wrong, fmt.Sprintf("command %s in VM %s (%s): %s", c.ID, vm.Name, vm.ID, fmt.Sprintf(format, args...)))
	}
	ran := 0
	for _, id := range vm.Ran {
		if id == c.ID {
			ran++
		}
	}
	if ran > 1 {
		say("it ran %d times", ran)
	}
	if !bytes.HasPrefix(c.Want, c.Got) {
		say("its output is not what it wrote, from byte %d on: %q", common(c.Want, c.Got), around(c.Got, common(c.Want, c.Got)))
	}
	switch {
	case !c.Acknowledged && c.State == "":
		return wrong // it may have run, once
	case c.State == "exited" && vm.Woken > 0 && c.ended():
		// The VM was stopped under it. It had begun.
		if vm.Ran != nil && ran == 0 && len(c.Got) > 0 {
			say("it has said something, and never ran")
		}
	case c.State == "exited":
		if c.Code != c.WantCode {
			say("exit code %d, not %d", c.Code, c.WantCode)
		}
		if len(c.Got) < len(c.Want) && bytes.HasPrefix(c.Want, c.Got) {
			say("%d of %d bytes of its output came, %d gaps", len(c.Got), len(c.Want), c.Gaps)
		}
		if vm.Ran != nil && ran == 0 {
			say("it has exited, and never ran: of %d commands %q did, in a VM that was started %d times after a drain, %d of them from the storage",
				len(vm.Commands), vm.Ran, vm.Woken, vm.Moved)
		}
	case c.State == "lost":
		if c.Lost == "" {
			say("lost without a reason")
		}
	case c.Refused != "":
		say("acknowledged, %q when it was last seen, and %s in the end", c.State, c.Refused)
	default:
		say("acknowledged, and %q in the end", c.State)
	}
	return wrong
}

// ended reports whether a command has exited by a signal, as in a VM that is stopped.
func (c *Command) ended() bool { return c.Code == 128+15 || c.Code == 128+9 }

// checkOrigin says what a VM lacks of what it was made of.
func (vm *VM) checkOrigin() (wrong []string) {
	if vm.Of == "" {
		return nil
	}
	say := func(format string, args ...any) {
		wrong = append(wrong, fmt.Sprintf("VM %s (%s), made of %s: %s", vm.Name, vm.ID, vm.Of, fmt.Sprintf(format, args...)))
	}
	if slices.Contains(vm.Refused, "not_found") {
		say("that was not found")
	}
	if vm.Ran == nil {
		return wrong
	}
	times := map[string]int{}
	for _, id := range vm.Ran {
		times[id]++
	}
	for _, id := range vm.Had {
		if times[id] != 1 {
			say("command %s, which had ended there, ran %d times", id, times[id])
		}
	}
	return wrong
}

func common(a, b []byte) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

func around(b []byte, at int) []byte { return b[max(0, at-20):min(len(b), at+40)] }

// Summary counts what there was.
func (h *History) Summary() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	failures, losses := map[string]int{}, map[string]int{}
	var accepted, failed, copies, moved, commands, exited, lost, unacknowledged, bytesOut int
	for _, vm := range h.vms {
		if vm.Of != "" {
			copies++
		}
		if vm.Moved > 0 {
			moved++
		}
		if vm.ID != "" {
			accepted++
		}
		if vm.State == "failed" {
			failed++
			failures[vm.Failure]++
		}
		for _, c := range vm.Commands {
			commands++
			bytesOut += len(c.Got)
			switch {
			case c.State == "exited":
				exited++
			case c.State == "lost":
				lost++
				losses[c.Lost]++
			case !c.Acknowledged:
				unacknowledged++
			}
		}
	}
	codes := map[string]int{}
	for _, c := range h.calls {
		switch {
		case c.HungUp:
			codes[c.What+": no answer in time"]++
		case c.Unheard:
			codes[c.What+": connection broken"]++
		case c.Code != "":
			codes[c.What+": "+c.Code]++
		}
	}
	ends := map[string]int{}
	for _, t := range h.tasks {
		ends[strings.TrimSuffix("task "+t.State+": "+t.Failure, ": ")]++
	}
	return fmt.Sprintf("%d VMs asked for, %d of them copies, %d that have left a worker, %d accepted, %d of them failed%s; %d commands: %d exited, %d lost%s, %d never acknowledged; "+
		"%d bytes of output; %d tasks:%s; %d calls, of them:%s",
		len(h.vms), copies, moved, accepted, failed, list(failures), commands, exited, lost, list(losses), unacknowledged,
		bytesOut, len(h.tasks), list(ends), len(h.calls), list(codes))
}

// list shows how often what was.
func list(what map[string]int) string {
	var text strings.Builder
	for _, w := range slices.Sorted(maps.Keys(what)) {
		fmt.Fprintf(&text, "\n\t%d × %s", what[w], w)
	}
	return text.String()
}
