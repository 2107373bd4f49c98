package chaos

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/client"
	"github.com/aetherium/aetherium/tests/scenarios/chaos/history"
)

// patience is how long a user waits for one answer. What becomes of a VM is waited
// for by the API, for a minute where no wait_ms says otherwise; then it answers that it
// is on its way. Who is to say so may be paused, and has some time after that, on a
// host on which much goes on.
const patience = time.Minute + longestPause + 17*time.Second

// VMs have no timeout, one that no test waits for and every jump of a clock
// passes, or a short one.
const (
	long     = 90 * time.Minute
	shortest = 3 * time.Second
)

// stopped is what becomes of a VM that a drained worker may not keep, but of brief
// ones.
const stopped = "stop"

// user makes VMs, one after the other, runs commands in each, and deletes it.
type user struct {
	*rand.Rand
	name      string
	h         *history.History
	once      []*client.Client // of each gateway; they repeat nothing by themselves
	steady    []*client.Client // their streams go on by themselves
	templates []string
	made      int
	left      []*history.VM // to come back to
}

// work goes on until ctx ends; what is under way then is brought to its end
// within the other context.
func (u *user) work(ctx, end context.Context) {
	for ctx.Err() == nil {
		u.life(ctx, end)
	}
}

// call asks a gateway for something, once.
func (u *user) call(ctx context.Context, what string, do func(context.Context, *client.Client) error) error {
	c := u.once[u.IntN(len(u.once))]
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	began := time.Now()
	err := do(limited, c)
	note := history.Call{What: what, To: c.URL(), At: began, Took: time.Since(began)}
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return ctx.Err()
	case limited.Err() != nil:
		note.HungUp = true
	case client.IsUnreachable(err):
		note.Unheard = true
	default:
		note.Code = string(errors.CodeOf(err))
	}
	u.h.Note(note)
	return err
}

// mayPass reports whether an error is one of the moment.
func mayPass(err error) bool {
	switch errors.CodeOf(err) {
	case errors.Unavailable, errors.CapacityExhausted, errors.NoSpace, errors.RateLimited, errors.DeadlineExceeded, errors.Conflict, errors.Canceled, errors.Internal:
		return true
	}
	return false
}

// until asks again until the answer is one that stays.
func (u *user) until(ctx context.Context, what string, do func(context.Context, *client.Client) error) error {
	for {
		err := u.call(ctx, what, do)
		if err == nil || ctx.Err() != nil || !mayPass(err) {
			return err
		}
		u.pause(ctx, 50*time.Millisecond, 400*time.Millisecond)
	}
}

// inside is until for what needs a VM that runs. One that was stopped because its
// worker was drained is started, where there is room.
func (u *user) inside(ctx context.Context, vm *history.VM, what string, do func(context.Context, *client.Client) error) error {
	return u.until(ctx, what, func(ctx context.Context, c *client.Client) error {
		err := do(ctx, c)
		if !errors.HasCode(err, errors.Conflict) {
			return err
		}
		now, looked := c.VM(ctx, vm.ID)
		if looked != nil {
			return looked
		}
		return cmp.Or(wake(ctx, c, vm, now), err)
	})
}

// wake starts a VM where it rests.
func wake(ctx context.Context, c *client.Client, vm *history.VM, now api.VM) error {
	if now.State != "stopped" {
		return nil
	}
	vm.Woken++
	if now.InStorage {
		vm.Moved++
	}
	_, err := c.StartVM(ctx, vm.ID)
	return err
}

func (u *user) pause(ctx context.Context, least, most time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(least + time.Duration(u.Int64N(int64(most-least)))):
	}
}

func (u *user) life(ctx, end context.Context) {
	if n := len(u.left); n > 0 && u.IntN(4) == 0 {
		vm := u.left[0]
		u.left = u.left[1:]
		u.use(end, vm)
		return
	}
	u.made++
	vm := &history.VM{Name: fmt.Sprintf("%s-%d", u.name, u.made)}
	u.h.Add(vm)
	switch u.IntN(6) {
	case 0:
		vm.Timeout = shortest + time.Duration(u.IntN(4000))*time.Millisecond
		u.brief(ctx, end, vm)
		return
	case 1:
		u.identify(end)
		fallthrough
	case 2, 3:
		vm.Timeout = long
	}
	u.create(ctx, end, vm)
	if vm.ID == "" || !u.settled(end, vm) {
		return
	}
	for range 1 + u.IntN(3) {
		if ctx.Err() == nil {
			c := u.command()
			vm.Commands = append(vm.Commands, c)
			u.run(end, vm, c)
		}
		switch u.IntN(8) {
		case 0:
			u.file(end, vm)
		case 1:
			u.rest(end, vm)
		case 2:
			u.restart(end, vm)
		}
	}
	u.look(end, vm)
	switch u.IntN(8) {
	case 0:
		u.fork(ctx, end, vm)
	case 1:
		u.snapshot(ctx, end, vm)
	}
	u.leave(end, vm)
}

// leave deletes a VM, or leaves it for later, as to the end.
func (u *user) leave(ctx context.Context, vm *history.VM) {
	if u.IntN(4) == 0 {
		u.left = append(u.left, vm)
		return
	}
	vm.DeleteAsked = true
	if err := u.until(ctx, "delete a VM", func(ctx context.Context, c *client.Client) error {
		_, err := c.DeleteVM(ctx, vm.ID)
		return err
	}); err == nil {
		vm.Deleted = true
	}
}

// create asks for a VM, and asks again for the same if it is not known what
// came of it. Sometimes a user gives up instead.
func (u *user) create(ctx, end context.Context, vm *history.VM) {
	req := api.CreateVM{Name: vm.Name, Template: u.templates[u.IntN(len(u.templates))]}
	if vm.Timeout == 0 || vm.Timeout == long {
		req.OnTimeout = stopped
	}
	if u.IntN(2) == 0 {
		req.Network = "none"
	}
	if vm.Timeout > 0 {
		ms := vm.Timeout.Milliseconds()
		req.TimeoutMS = &ms
	}
	// A brief one may end before who waits for it hears that it is ready.
	key, async := domain.NewID().String(), vm.Timeout > 0 && vm.Timeout < long || u.IntN(2) == 0
	u.ask(ctx, end, vm, "create a VM", func(ctx context.Context, c *client.Client) (string, error) {
		if async {
			return c.FindVMOnce(ctx, key, req)
		}
		made, err := c.CreateVMOnce(ctx, key, req)
		return made.ID, err
	})
}

// ask asks for a VM by do until it is known what came of it, or until the user gives up.
func (u *user) ask(ctx, end context.Context, vm *history.VM, what string, do func(context.Context, *client.Client) (id string, err error)) {
	for {
		err := u.call(end, what, func(ctx context.Context, c *client.Client) (err error) {
			vm.ID, err = do(ctx, c)
			return err
		})
		switch {
		case err == nil:
			return
		case errors.HasCode(err, errors.AlreadyExists):
			// It was made by a request of ours whose answer was lost.
			if err = u.until(end, "find a VM", func(ctx context.Context, c *client.Client) error {
				found, err := c.VM(ctx, vm.Name)
				vm.ID = found.ID
				return err
			}); err == nil {
				return
			}
		}
		vm.ID = ""
		vm.Refused = append(vm.Refused, string(errors.CodeOf(err)))
		if !mayPass(err) || u.IntN(6) == 0 || ctx.Err() != nil {
			return
		}
		u.pause(end, 50*time.Millisecond, 400*time.Millisecond)
	}
}

// drained reports whether a VM ended because its worker was drained.
func drained(vm api.VM) bool { return vm.Tombstone != nil && vm.Tombstone.Cause == "drained" }

// brief has a VM whose time is soon up, and waits until it ends by itself.
func (u *user) brief(ctx, end context.Context, vm *history.VM) {
	asked := time.Now()
	u.create(ctx, end, vm)
	for vm.ID != "" && end.Err() == nil {
		err := u.until(end, "look at a VM", func(ctx context.Context, c *client.Client) error {
			now, err := c.VM(ctx, vm.ID)
			if err == nil {
				vm.State, vm.Failure = now.State, now.Reason
				vm.Drained = drained(now)
			}
			return err
		})
		if vm.State == "failed" || err != nil && !errors.HasCode(err, errors.NotFound) {
			return
		}
		if err != nil || vm.State == "deleted" {
			vm.State, vm.Ended = "deleted", time.Since(asked)
			return
		}
		u.pause(end, 100*time.Millisecond, 300*time.Millisecond)
	}
}

// identify gets an access token by one gateway, and shows it to another.
func (u *user) identify(ctx context.Context) {
	var token api.Token
	err := u.until(ctx, "get a token", func(ctx context.Context, c *client.Client) (err error) {
		token, err = c.Token(ctx, api.CreateToken{})
		return err
	})
	if err != nil {
		return
	}
	_ = u.until(ctx, "show a token", func(ctx context.Context, c *client.Client) error {
		by, err := client.New(client.Options{URL: c.URL(), Key: token.Token, Patience: time.Millisecond})
		if err != nil {
			return err
		}
		defer by.Close()
		_, err = by.Me(ctx)
		return err
	})
}

// settled waits until an accepted VM runs, or not.
func (u *user) settled(ctx context.Context, vm *history.VM) (runs bool) {
	for {
		err := u.until(ctx, "look at a VM", func(ctx context.Context, c *client.Client) error {
			now, err := c.VM(ctx, vm.ID)
			if err != nil {
				return err
			}
			vm.State, vm.Failure = now.State, now.Reason
			return wake(ctx, c, vm, now)
		})
		if err != nil || vm.State == "failed" || vm.State == "running" {
			return vm.State == "running"
		}
		u.pause(ctx, 20*time.Millisecond, 100*time.Millisecond)
	}
}

// command is one whose output is known beforehand: it says who it is on every
// line, and leaves its name in the VM.
func (u *user) command() *history.Command {
	c := &history.Command{ID: domain.NewID().String(), WantCode: u.IntN(3)}
	var want strings.Builder
	for i := range 20 + u.IntN(180) {
		fmt.Fprintf(&want, "%s %d\n", c.ID, i)
	}
	c.Want = []byte(want.String())
	return c
}

// ranPath is where commands leave their names in a VM.
const ranPath = "/tmp/ran"

func script(c *history.Command) []string {
	lines := strings.Count(string(c.Want), "\n")
	return []string{"sh", "-c", fmt.Sprintf(
		`until { echo %[1]s >> %[4]s; } 2>/dev/null; do sleep 0.1; done; i=0; while [ $i -lt %[2]d ]; do echo "%[1]s $i"; i=$((i+1)); [ $((i %% 10)) = 0 ] && sleep 0.03; done; exit %[3]d`,
		c.ID, lines, c.WantCode, ranPath)}
}

// run starts a command, reads all that it writes, and waits for its end.
func (u *user) run(ctx context.Context, vm *history.VM, cmd *history.Command) {
	req := api.StartExecution{ID: cmd.ID, Command: api.Command{Args: script(cmd)}}
	err := u.inside(ctx, vm, "start a command", func(ctx context.Context, c *client.Client) error {
		_, err := c.StartExecution(ctx, vm.ID, req)
		return err
	})
	cmd.Acknowledged = err == nil
	for cmd.Acknowledged && ctx.Err() == nil {
		if u.IntN(2) == 0 {
			u.follow(ctx, cmd)
		} else {
			u.read(ctx, cmd)
		}
		err := u.until(ctx, "look at a command", func(ctx context.Context, c *client.Client) error {
			x, err := c.Execution(ctx, cmd.ID)
			if err == nil {
				cmd.State, cmd.Lost = x.State, x.LostReason
				if x.ExitCode != nil {
					cmd.Code = *x.ExitCode
				}
			}
			return err
		})
		if err != nil {
			cmd.Refused = string(errors.CodeOf(err))
		}
		if err != nil || cmd.State == "lost" || cmd.State == "exited" && len(cmd.Got) >= len(cmd.Want) {
			return
		}
		if cmd.State == "exited" {
			u.read(ctx, cmd) // nothing more can come after this
			return
		}
		u.pause(ctx, 20*time.Millisecond, 200*time.Millisecond)
	}
}

// follow takes what a stream tells, until its end or until it breaks for good.
func (u *user) follow(ctx context.Context, cmd *history.Command) {
	s, err := u.steady[u.IntN(len(u.steady))].Attach(ctx, cmd.ID, client.StreamOptions{Offset: int64(len(cmd.Got))})
	if err != nil {
		return
	}
	defer s.Close()
	for {
		ev, err := s.Next(ctx)
		if err != nil {
			if !errors.Is(err, io.EOF) {
				u.h.Note(history.Call{What: "follow a command", Code: string(errors.CodeOf(err)), Unheard: client.IsUnreachable(err), At: time.Now()})
			}
			return
		}
		if ev.Gap != nil {
			cmd.Gaps++
		}
		cmd.Got = append(cmd.Got, ev.Data...)
	}
}

// read takes what there is of the output by now.
func (u *user) read(ctx context.Context, cmd *history.Command) {
	_ = u.until(ctx, "read output", func(ctx context.Context, c *client.Client) error {
		for ev, err := range c.Output(ctx, cmd.ID, int64(len(cmd.Got))) {
			if err != nil {
				return err
			}
			if ev.Gap != nil {
				cmd.Gaps++
			}
			cmd.Got = append(cmd.Got, ev.Data...)
		}
		return nil
	})
}

// file writes one into a VM, and reads it again.
func (u *user) file(ctx context.Context, vm *history.VM) {
	f := &history.File{Path: fmt.Sprintf("/tmp/file-%d", len(vm.Files)), Want: make([]byte, 1+u.IntN(100<<10))}
	for i := range f.Want {
		f.Want[i] = byte(u.IntN(256)) //nolint:gosec // it fits
	}
	vm.Files = append(vm.Files, f)
	at := client.File{VM: vm.ID, Path: f.Path}
	f.Written = nil == u.inside(ctx, vm, "write a file", func(ctx context.Context, c *client.Client) error {
		_, err := c.WriteFile(ctx, at, bytes.NewReader(f.Want), int64(len(f.Want)), 0)
		return err
	})
	f.Read = f.Written && nil == u.inside(ctx, vm, "read a file", func(ctx context.Context, c *client.Client) error {
		var got bytes.Buffer
		_, err := c.ReadFile(ctx, at, &got)
		f.Got = got.Bytes()
		return err
	})
}

// rest pauses a VM, and has it go on.
func (u *user) rest(ctx context.Context, vm *history.VM) {
	err := u.inside(ctx, vm, "pause a VM", func(ctx context.Context, c *client.Client) error {
		_, err := c.PauseVM(ctx, vm.ID, "")
		return err
	})
	if err != nil {
		return
	}
	_ = u.inside(ctx, vm, "resume a VM", func(ctx context.Context, c *client.Client) error {
		_, err := c.ResumeVM(ctx, vm.ID)
		return err
	})
}

// look reads what the commands have left in the VM. What it runs there may be
// ended with the VM, as any other command: then it looks again. What was seen
// before is of no use any more.
func (u *user) look(ctx context.Context, vm *history.VM) {
	vm.Ran, vm.RanCut = nil, false
	for ctx.Err() == nil {
		req := api.Execute{Command: api.Command{Args: []string{"cat", ranPath}}, ID: domain.NewID().String()}
		var got api.ExecuteResult
		err := u.inside(ctx, vm, "run a command", func(ctx context.Context, c *client.Client) (err error) {
			got, err = c.Execute(ctx, vm.ID, req)
			return err
		})
		if err != nil {
			return
		}
		if code := got.Execution.ExitCode; code != nil && (*code == 0 || *code == 1) { // 1: there is nothing
			vm.Ran, vm.RanCut = strings.Fields(got.Stdout), got.StdoutTruncated
			return
		}
		u.pause(ctx, 20*time.Millisecond, 100*time.Millisecond)
	}
}
