package container_test

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/container"
	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

func TestSlot(t *testing.T) {
	t.Parallel()
	number, text := container.NewSlot[int]("number"), container.NewSlot[string]("text")
	if _, err := number.Get(); !errors.HasCode(err, errors.Internal) {
		t.Errorf("an empty slot: %v", err)
	}
	if err := container.Require(number, text); err == nil || err.Error() != "internal: not set: number, text" {
		t.Errorf("Require: %v", err)
	}
	if err := number.Set(0); err != nil { // the zero value fills it too
		t.Fatal(err)
	}
	if err := number.Set(2); !errors.HasCode(err, errors.Conflict) {
		t.Errorf("set twice: %v", err)
	}
	if v, err := number.Get(); v != 0 || err != nil {
		t.Errorf("%d, %v", v, err)
	}
	if err := text.Set("x"); err != nil || container.Require(number, text) != nil {
		t.Errorf("filled: %v, %v", err, container.Require(number, text))
	}
}

func TestRegistry(t *testing.T) {
	t.Parallel()
	r := container.NewRegistry[int, string]("driver")
	open := func(_ context.Context, n int) (string, error) { return string(rune('a' + n)), nil }
	for _, name := range []string{"qemu", "oci"} {
		if err := r.Register(name, open); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Register("oci", open); !errors.HasCode(err, errors.AlreadyExists) {
		t.Errorf("registered twice: %v", err)
	}
	if err := r.Register("x", nil); !errors.HasCode(err, errors.InvalidArgument) {
		t.Errorf("no opener: %v", err)
	}
	if v, err := r.Open(t.Context(), "oci", 2); v != "c" || err != nil {
		t.Errorf("%q, %v", v, err)
	}
	_, err := r.Open(t.Context(), "docker", 0)
	var e *errors.Error
	if !errors.As(err, &e) || e.Code != errors.NotFound || e.Hint != "use one of: oci, qemu" {
		t.Errorf("an unknown name: %+v", err)
	}
}

// trace records what happens in which order.
type trace struct {
	mu   sync.Mutex
	what []string
}

func (t *trace) add(s string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.what = append(t.what, s)
}

func (t *trace) got() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.what)
}

func (t *trace) service(name string) container.Service {
	return container.Service{
		Name:  name,
		Start: func(context.Context) error { t.add("start " + name); return nil },
		Run:   func(ctx context.Context) error { <-ctx.Done(); t.add("end " + name); return ctx.Err() },
		Stop:  func(context.Context) error { t.add("stop " + name); return nil },
	}
}

func newApp(services ...container.Service) *container.App {
	return container.NewApp(slog.New(slog.DiscardHandler), services...)
}

func TestOrder(t *testing.T) {
	t.Parallel()
	tr := &trace{}
	app := newApp(tr.service("a"), tr.service("b"), tr.service("c"))
	ctx, cancel := context.WithCancel(t.Context())
	if err := app.Start(ctx); err != nil {
		t.Fatal(err)
	}
	cancel() // the start's context is for starting only
	if err := app.Start(t.Context()); err != nil {
		t.Errorf("started twice: %v", err)
	}
	for range 2 {
		if err := app.Stop(t.Context()); err != nil {
			t.Errorf("Stop: %v", err)
		}
	}
	<-app.Done()
	want := []string{"start a", "start b", "start c", "stop c", "end c", "stop b", "end b", "stop a", "end a"}
	if got := tr.got(); !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
	if err := app.Start(t.Context()); err != nil {
		t.Errorf("Start after the end reports the first start: %v", err)
	}
}

func TestFirstExitEndsAll(t *testing.T) {
	t.Parallel()
	boom := errors.New(errors.NoSpace, "boom")
	for name, run := range map[string]func(context.Context) error{
		"an error": func(context.Context) error { return boom },
		"no error": func(context.Context) error { return nil },
		"a panic":  func(context.Context) error { panic(boom) },
	} {
		tr := &trace{}
		b := tr.service("b")
		release := make(chan struct{})
		b.Run = func(ctx context.Context) error { <-release; return run(ctx) }
		app := newApp(tr.service("a"), b, tr.service("c"))
		if err := app.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		close(release)
		err := app.Run(t.Context())
		if err == nil {
			t.Errorf("%s: the cause is lost", name)
		}
		if name == "an error" && !errors.Is(err, boom) {
			t.Errorf("the cause is %v", err)
		}
		want := []string{"start a", "start b", "start c", "stop c", "end c", "stop b", "stop a", "end a"}
		if got := tr.got(); !slices.Equal(got, want) {
			t.Errorf("%s: got %v", name, got)
		}
	}
}

func TestFailedStartStopsTheStarted(t *testing.T) {
	t.Parallel()
	tr := &trace{}
	b := tr.service("b")
	b.Start = func(context.Context) error { return errors.New(errors.Unavailable, "port taken") }
	err := newApp(tr.service("a"), b, tr.service("c")).Run(t.Context())
	if !errors.HasCode(err, errors.Unavailable) {
		t.Errorf("the cause is %v", err)
	}
	if got, want := tr.got(), []string{"start a", "stop a", "end a"}; !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
}

func TestStopGivesStartingUp(t *testing.T) {
	t.Parallel()
	tr := &trace{}
	slow := tr.service("slow")
	inside := make(chan struct{})
	slow.Start = func(ctx context.Context) error { close(inside); <-ctx.Done(); return ctx.Err() }
	app := newApp(tr.service("a"), slow)
	started := make(chan error)
	go func() { started <- app.Start(context.Background()) }()
	<-inside
	if err := app.Stop(t.Context()); err != nil {
		t.Errorf("Stop: %v", err)
	}
	if err := <-started; !errors.HasCode(err, errors.Canceled) {
		t.Errorf("Start: %v", err)
	}
	if got, want := tr.got(), []string{"start a", "stop a", "end a"}; !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
}

func TestStopBeforeStart(t *testing.T) {
	t.Parallel()
	tr := &trace{}
	app := newApp(tr.service("a"))
	if err := app.Stop(t.Context()); err != nil {
		t.Errorf("Stop: %v", err)
	}
	if err := app.Run(t.Context()); !errors.HasCode(err, errors.Canceled) {
		t.Errorf("Run: %v", err)
	}
	if got := tr.got(); len(got) != 0 {
		t.Errorf("got %v", got)
	}
}

// One that hangs costs its own time only; the others still stop.
func TestDeadlines(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tr := &trace{}
		release := make(chan struct{})
		deaf, endless, sour := tr.service("deaf"), tr.service("endless"), tr.service("sour")
		deaf.StopTimeout, deaf.Stop = time.Second, func(context.Context) error { <-release; return nil }
		endless.Run = func(context.Context) error { <-release; return nil }
		sour.Stop = func(context.Context) error { return errors.New(errors.Internal, "no") }
		app := newApp(tr.service("a"), deaf, endless, sour)
		if err := app.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		err := app.Stop(t.Context())
		if took := time.Since(begin); took != time.Second+container.DefaultStopTimeout {
			t.Errorf("took %v", took)
		}
		for _, says := range []string{"deaf did not stop within 1s", "endless did not end within 10s", "sour did not stop well: no"} {
			if err == nil || !slices.ContainsFunc(lines(err), func(l string) bool { return l == "deadline_exceeded: "+says || l == "internal: "+says+": internal: no" }) {
				t.Errorf("%q is missing in %v", says, err)
			}
		}
		if got := tr.got(); !slices.Contains(got, "stop a") || !slices.Contains(got, "end a") {
			t.Errorf("the first one did not stop: %v", got)
		}
		close(release)
	})
}

func lines(err error) []string {
	if j, ok := err.(interface{ Unwrap() []error }); ok { //nolint:errorlint // looks at the joined errors themselves
		var out []string
		for _, e := range j.Unwrap() {
			out = append(out, lines(e)...)
		}
		return out
	}
	return []string{err.Error()}
}

// Starts, stops and failures from everywhere at once: nothing hangs, nothing
// stops that did not start, and what started stops exactly once, in reverse.
func TestStress(t *testing.T) {
	t.Parallel()
	for round := range 300 {
		const n = 5
		tr := &trace{}
		var services []container.Service
		for i := range n {
			s := tr.service(string(rune('a' + i)))
			inner := s.Run
			if i == round%n && round%3 == 0 {
				s.Run = func(context.Context) error { return errors.Plain("dies") }
			} else {
				s.Run = func(ctx context.Context) error { return inner(ctx) }
			}
			services = append(services, s)
		}
		app := newApp(services...)
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() { _ = app.Start(context.Background()) })
			wg.Go(func() { _ = app.Stop(context.Background()) })
		}
		wg.Go(func() {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			_ = app.Run(ctx)
		})
		wg.Wait()
		<-app.Done()
		var up []string
		for _, what := range tr.got() {
			name := what[len(what)-1:]
			switch what[:len(what)-2] {
			case "start":
				up = append(up, name)
			case "stop":
				if len(up) == 0 || up[len(up)-1] != name {
					t.Fatalf("round %d: %v", round, tr.got())
				}
				up = up[:len(up)-1]
			}
		}
		if len(up) != 0 {
			t.Fatalf("round %d: still up: %v", round, up)
		}
	}
}
