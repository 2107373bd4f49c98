package cli

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/internal/cli/render"
	"github.com/aetherium/aetherium/services/core/pkg/client"
)

// A join token counts for this long; the server says the same.
const (
	minJoinTTL = time.Minute
	maxJoinTTL = 24 * time.Hour
)

func (a *app) workerCommand() *cobra.Command {
	return group("worker", "See and change the installation's workers, for administrators",
		a.workerListCommand(), a.workerGetCommand(), a.workerCordonCommand(), a.workerUncordonCommand(), a.workerDrainCommand(), a.workerRemoveCommand(), a.workerTokenCommand())
}

func workerName(w api.Worker) string { return w.Name }

func workersListing(now time.Time) listing[api.Worker] {
	return listing[api.Worker]{
		titles: []string{"NAME", "ID", "STATE", "DRAIN", "ADDRESS", "SEEN", "VMS", "ACTIVE", "TASKS", "CPU", "MEMORY", "DISK"},
		name:   workerName,
		row: func(w api.Worker) []render.Cell {
			cpu, memory, disk := workerUse(w)
			return []render.Cell{
				render.Text(w.Name), render.Text(w.ID), render.Text(workerState(w)), render.Until(w.DrainAt, now), render.Text(w.Address),
				render.Since(w.SeenAt, now), render.Int(int64(w.VMs)), render.Int(int64(w.Active)), render.Int(int64(w.Tasks)),
				cpu, memory, disk,
			}
		},
	}
}

// workerUse is what a worker's VMs may use of its CPUs, memory and disk.
func workerUse(w api.Worker) (cpu, memory, disk render.Cell) {
	r, c := w.Reserved, w.Capacity
	of := func(used, all render.Cell) render.Cell {
		return render.Cell{Human: used.Human + " of " + all.Human, Plain: used.Plain + " of " + all.Plain}
	}
	cores := func(milli int64) string { return strconv.FormatFloat(float64(milli)/1000, 'f', -1, 64) }
	return of(render.Text(cores(r.MilliCPU)), render.Text(cores(c.MilliCPU))), of(render.Bytes(r.MemoryBytes), render.Bytes(c.MemoryBytes)),
		of(render.Bytes(r.DiskBytes), render.Bytes(c.DiskBytes))
}

// workerState is a worker's state, with what it is again when it is back.
func workerState(w api.Worker) string {
	if w.Cordoned && w.State != string(domain.WorkerCordoned) {
		return w.State + ", " + string(domain.WorkerCordoned)
	}
	return w.State
}

func (a *app) workerListCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List the workers, with what their VMs may use of them",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			workers, err := c.Workers(cmd.Context())
			if err != nil {
				return err
			}
			return showAll(a, workers, workersListing(a.Now()))
		},
	}
}

func (a *app) workerGetCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "get WORKER",
		Aliases: []string{"show", "inspect"},
		Short:   "Show a worker",
		Args:    exactly("WORKER"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			w, err := c.Worker(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			var drivers []string
			for _, d := range w.Drivers {
				if d.Usable {
					drivers = append(drivers, d.Name)
				}
			}
			cpu, memory, disk := workerUse(w)
			pairs := [][2]string{
				{"Name", w.Name}, {"ID", w.ID}, {"State", workerState(w)}, {"Drained by", at(w.DrainAt)}, {"Address", w.Address},
				{"Version", w.Version}, {"Platform", w.Platform}, {"Drivers", strings.Join(drivers, ", ")},
				{"VMs", strconv.Itoa(w.VMs)}, {"Active", strconv.Itoa(w.Active)}, {"Tasks", strconv.Itoa(w.Tasks)}, {"CPU", cpu.Human}, {"Memory", memory.Human}, {"Disk", disk.Human},
				{"Seen", at(&w.SeenAt)}, {"Joined", at(&w.JoinedAt)},
			}
			return showOne(a, w, w.Name, slices.DeleteFunc(pairs, func(p [2]string) bool { return p[1] == "" }))
		},
		ValidArgsFunction: a.firstArg(a.completeWorkers),
	}
}

func (a *app) workerCordonCommand() *cobra.Command {
	return changeEach(a, "cordon WORKER…", "Have workers take nothing new; what they have goes on", (*client.Client).CordonWorker, workerName, a.completeWorkers)
}

func (a *app) workerUncordonCommand() *cobra.Command {
	return changeEach(a, "uncordon WORKER…", "Let workers take what is new again, and take a drain back", (*client.Client).UncordonWorker, workerName, a.completeWorkers)
}

func (a *app) completeWorkers(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.offer(cmd, args, func(ctx context.Context, c *client.Client) ([]string, error) {
		workers, err := c.Workers(ctx)
		names := make([]string, 0, len(workers))
		for _, w := range workers {
			names = append(names, w.Name+"\t"+workerState(w))
		}
		return names, err
	})
}

// defaultDrain is how long the VMs of a drained worker go on where nothing is
// said, and drainPoll how often it is looked how many are left.
const (
	defaultDrain = 10 * time.Minute
	drainPoll    = time.Second
)

func (a *app) workerDrainCommand() *cobra.Command {
	within, noWait, move := defaultDrain, false, false
	cmd := &cobra.Command{
		Use:   "drain WORKER",
		Short: "Have a worker take nothing new and end its VMs",
		Long: `Cordons a worker, and waits until nothing is active on it. VMs may go on until they
end by themselves; those that are left after --within are paused, stopped or deleted,
as their on_timeout says. Builds and installations of tools that it has begun come to
their end; "aetherium task cancel" ends one earlier. The worker does so whether or not this command waits;
"aetherium worker uncordon" takes it back. Drained again, the earlier time counts.

With --move, VMs that rest leave the worker: their disks are put into the storage that
the workers share, and their next start may be on another worker. Those that are paused
with their memory saved go on from it there, if a worker has the same driver in the
same version; else it is given up when the drain ends. What cannot leave
(a VM with a volume, or of a driver that cannot pack its disk) stays, and its reason
says why.`,
		Example: `  aetherium worker drain node-2 --within 1h
  aetherium worker drain node-2 --within 0s --no-wait
  aetherium worker drain node-2 --move`,
		Args: exactly("WORKER"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if within < 0 {
				return usagef(cmd, "--within: a time is not negative")
			}
			if err := checkAtMost(cmd, "within", within, domain.MaxDrain); err != nil {
				return err
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			w, err := c.DrainWorker(cmd.Context(), args[0], within, move)
			if err == nil && !noWait {
				w, err = a.awaitDrain(cmd.Context(), c, w)
			}
			if err != nil {
				return err
			}
			return showDone(a, []api.Worker{w}, workerName)
		},
		ValidArgsFunction: a.firstArg(a.completeWorkers),
	}
	cmd.Flags().Var((*durationFlag)(&within), "within", "end what is left after so long, up to 24h")
	cmd.Flags().BoolVar(&move, "move", false, "have VMs that rest leave the worker")
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "do not wait until nothing is active")
	return cmd
}

func (a *app) workerRemoveCommand() *cobra.Command {
	fenced := false
	cmd := &cobra.Command{
		Use:     "rm WORKER…",
		Aliases: []string{"delete", "remove"},
		Short:   "Remove workers that are away for good",
		Long: `Removes workers that are away: stopped, or lost with their hosts. They may not come
back; a host that is to be a worker again joins by a token, with a new data directory.

A worker that has something still is removed with --fenced alone: your word that its
host is off for good, or its disk wiped. Its VMs end then as lost, but for those that
rest in the storage, whose next start is on another worker. Volumes that were there
are gone, and snapshots and templates that are not in the storage. Broken off, it goes
on when it is asked for again.`,
		Example: `  aetherium worker rm node-2
  aetherium worker rm node-2 --fenced`,
		Args: atLeastOne("WORKER"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			return a.removeEach(args, func(name string) (removed, error) {
				return removed{Name: name}, c.RemoveWorker(cmd.Context(), name, fenced)
			})
		},
		ValidArgsFunction: a.completeWorkers,
	}
	cmd.Flags().BoolVar(&fenced, "fenced", false, "their hosts are off for good, or their disks wiped: what they had is given up")
	return cmd
}

// awaitDrain waits until nothing is active on a worker, no task under way and no VM
// left that is to leave it, and tells how many are.
func (a *app) awaitDrain(ctx context.Context, c *client.Client, w api.Worker) (api.Worker, error) {
	active, tasks, leaving := 0, 0, 0 // as told last
	for w.Active > 0 || w.Tasks > 0 || leaves(w) > 0 {
		if w.DrainAt == nil {
			return w, errors.New(errors.Conflict, "the drain was taken back, with %d VMs active and %d tasks under way", w.Active, w.Tasks)
		}
		if w.Active != active && w.Active > 0 && !a.flags.quiet {
			a.say("%d VMs are active on %s, until %s at most", w.Active, w.Name, at(w.DrainAt))
		}
		if w.Tasks != tasks && w.Tasks > 0 && !a.flags.quiet {
			a.say("%d builds and installations are under way on %s", w.Tasks, w.Name)
		}
		if n := leaves(w); n != leaving && n > 0 && !a.flags.quiet {
			a.say("%d VMs are to leave %s", n, w.Name)
		}
		active, tasks, leaving = w.Active, w.Tasks, leaves(w)
		select {
		case <-time.After(drainPoll):
		case <-ctx.Done():
			return w, ctx.Err()
		}
		now, err := c.Worker(ctx, w.ID)
		if err != nil {
			return w, err
		}
		w = now
	}
	if w.Moving && w.VMs > 0 && !a.flags.quiet {
		a.say("%d VMs stay on %s; \"aetherium vm get\" tells each one's reason", w.VMs, w.Name)
	}
	return w, nil
}

// leaves is how many VMs that rest are still to leave a worker.
func leaves(w api.Worker) int {
	if !w.Moving {
		return 0
	}
	return max(0, w.VMs-w.Active-w.Staying)
}

func (a *app) workerTokenCommand() *cobra.Command {
	return group("token", "Make, list and revoke tokens by which workers join",
		a.joinTokenCreateCommand(), a.joinTokenListCommand(), a.joinTokenRemoveCommand())
}

func (a *app) joinTokenCreateCommand() *cobra.Command {
	var ttl time.Duration
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Make a token by which one worker can join, and print it, this once",
		Long: `Makes a token and prints it. One worker can join by it, within an hour where
nothing else is said. It is told this once: the server keeps nothing that it could
be found out from.`,
		Example: `  aetherium worker token create
  aetherium worker token create --ttl 24h`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("ttl") && ttl < minJoinTTL {
				return usagef(cmd, "--ttl: a join token counts for a minute at least")
			}
			if err := checkAtMost(cmd, "ttl", ttl, maxJoinTTL); err != nil {
				return err
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			t, err := c.CreateJoinToken(cmd.Context(), ttl)
			if err != nil {
				return err
			}
			if a.asJSON() {
				return render.JSON(a.Stdout, t)
			}
			if !a.flags.quiet {
				a.say("join token %s, for one worker until %s; it is not shown again", t.ID, at(&t.ExpiresAt))
			}
			return a.showNames([]string{t.Token})
		},
	}
	cmd.Flags().Var((*durationFlag)(&ttl), "ttl", "let it count for so long, 1m to 24h (default 1h)")
	return cmd
}

func joinTokenID(t api.JoinToken) string { return t.ID }

func (a *app) joinTokenListCommand() *cobra.Command {
	return listCommand(a, "List join tokens, and who joined by them", (*client.Client).JoinTokens, func(now time.Time) listing[api.JoinToken] {
		return listing[api.JoinToken]{
			titles: []string{"ID", "STATE", "MADE BY", "AGE", "EXPIRES", "WORKER"},
			name:   joinTokenID,
			row: func(t api.JoinToken) []render.Cell {
				return []render.Cell{
					render.Text(t.ID), render.Text(t.State), render.Text(t.CreatedBy), render.Since(t.CreatedAt, now), render.Until(&t.ExpiresAt, now), render.Text(t.WorkerID),
				}
			},
		}
	})
}

func (a *app) joinTokenRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "rm TOKEN…",
		Aliases: []string{"delete", "remove", "revoke"},
		Short:   "Revoke join tokens; workers that have joined by them stay",
		Args:    atLeastOne("TOKEN"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			return a.removeEach(args, func(id string) (removed, error) {
				return removed{ID: id}, c.RevokeJoinToken(cmd.Context(), id)
			})
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			return a.offer(cmd, args, func(ctx context.Context, c *client.Client) ([]string, error) {
				var ids []string
				for t, err := range c.JoinTokens(ctx, client.Page{Limit: maxOffers}) {
					if err != nil {
						return nil, err
					}
					ids = append(ids, t.ID+"\t"+t.State)
				}
				return ids, nil
			})
		},
	}
}
