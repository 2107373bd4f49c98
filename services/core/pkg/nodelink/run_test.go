package nodelink_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/nodelink"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

func (n *node) Execute(_ context.Context, vm *domain.VM, req vmm.StartExecution) (*domain.Execution, vmm.OutputReader, error) {
	return n.run(vm, req)
}

func (n *node) StartExecution(_ context.Context, vm *domain.VM, req vmm.StartExecution) (*domain.Execution, error) {
	x, _, err := n.run(vm, req)
	return x, err
}

// A command's start and its output are one call's answer, whether the output comes
// at once or later than the start is told.
func TestACommandAndItsOutput(t *testing.T) {
	t.Parallel()
	vm := &domain.VM{ID: domain.NewID(), ProjectID: domain.NewID(), Metadata: map[string]string{"k": "v"}}
	req := vmm.StartExecution{ID: domain.NewID(), Command: domain.Command{Args: []string{"true"}}, Tag: "t"}
	for name, early := range map[string]bool{"at once": true, "later": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newTold(nil)
			l := link(t, &node{run: func(vm *domain.VM, req vmm.StartExecution) (*domain.Execution, vmm.OutputReader, error) {
				return &domain.Execution{ID: req.ID, ProjectID: vm.ProjectID, VMID: vm.ID, LostReason: req.Tag}, o, nil
			}})
			say := func() {
				o.events <- domain.OutputEvent{Stream: domain.Stdout, Data: []byte("hi\n")}
				o.events <- domain.OutputEvent{Offset: 3, End: &domain.ExecutionEnd{ExitCode: 7}}
			}
			if early {
				go say()
			}
			x, out, err := l.Execute(t.Context(), vm, req)
			must(t, err)
			if x.ID != req.ID || x.VMID != vm.ID || x.ProjectID != vm.ProjectID || x.LostReason != "t" {
				t.Errorf("the execution: %+v", x)
			}
			if !early {
				go say()
			}
			e, err := out.Next(t.Context())
			must(t, err)
			if string(e.Data) != "hi\n" || e.Stream != domain.Stdout {
				t.Errorf("the output: %+v", e)
			}
			e, err = out.Next(t.Context())
			must(t, err)
			if e.End == nil || e.End.ExitCode != 7 || e.Offset != 3 {
				t.Errorf("the end: %+v", e)
			}
			for range 2 {
				if _, err := out.Next(t.Context()); err != io.EOF { //nolint:errorlint // bare, as it is promised
					t.Errorf("after the end: %v", err)
				}
			}
			must(t, out.Close())
			<-o.closed
		})
	}
}

// Errors are told as they were: of the start, of the output that was to follow, and
// of one that is cut off. Who goes away waits no longer.
func TestACommandThatFails(t *testing.T) {
	t.Parallel()
	refused := errors.New(errors.InvalidArgument, "the program is not in PATH").WithField("args")
	l := link(t, &node{run: func(*domain.VM, vmm.StartExecution) (*domain.Execution, vmm.OutputReader, error) {
		return nil, nil, refused
	}})
	if _, _, err := l.Execute(t.Context(), &domain.VM{}, vmm.StartExecution{}); !errors.HasCode(err, errors.InvalidArgument) || errors.Public(err).Field != "args" {
		t.Errorf("the start: %v", err)
	}
	o := newTold(errors.New(errors.Gone, "the journal is gone"))
	begun := func(*domain.VM, vmm.StartExecution) (*domain.Execution, vmm.OutputReader, error) {
		return &domain.Execution{ID: "x"}, o, nil
	}
	l = link(t, &node{run: begun})
	close(o.events)
	x, out, err := l.Execute(t.Context(), &domain.VM{}, vmm.StartExecution{})
	must(t, err)
	if _, err := out.Next(t.Context()); x.ID != "x" || !errors.HasCode(err, errors.Gone) {
		t.Errorf("its output: %v, %v", x, err)
	}
	must(t, out.Close())

	o = newTold(nil)
	l = link(t, &node{run: begun})
	_, out, err = l.Execute(t.Context(), &domain.VM{}, vmm.StartExecution{})
	must(t, err)
	l.server.CloseClientConnections()
	if _, err := out.Next(t.Context()); !errors.HasCode(err, errors.Unavailable) {
		t.Errorf("cut off: %v", err)
	}
	must(t, out.Close())
	<-o.closed

	o = newTold(nil)
	l = link(t, &node{run: begun})
	ctx, cancel := context.WithCancel(t.Context())
	_, out, err = l.Execute(ctx, &domain.VM{}, vmm.StartExecution{})
	must(t, err)
	cancel()
	if _, err := out.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("who went away: %v", err)
	}
	must(t, out.Close())
	<-o.closed
}

// One whose output is not to be had with it is told of without; a node that is older
// than the call is asked to start it.
func TestACommandWithoutItsOutput(t *testing.T) {
	t.Parallel()
	n := &node{run: func(_ *domain.VM, req vmm.StartExecution) (*domain.Execution, vmm.OutputReader, error) {
		return &domain.Execution{ID: req.ID}, nil, nil
	}}
	current := link(t, n)
	log := slog.New(slog.DiscardHandler)
	h := nodelink.Handler(n, nil, log)
	older := httptest.NewUnstartedServer(nil)
	older.Config = nodelink.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "executions.run") {
			http.NotFound(w, r)
			return
		}
		h.ServeHTTP(w, r)
	}), &tls.Config{MinVersion: tls.VersionTLS13}, log)
	older.EnableHTTP2 = true
	older.StartTLS()
	t.Cleanup(older.Close)
	trust := x509.NewCertPool()
	trust.AddCert(older.Certificate())
	before := nodelink.NewClient(older.Listener.Addr().String(), &tls.Config{RootCAs: trust, MinVersion: tls.VersionTLS13}, log)
	t.Cleanup(before.Close)
	for name, c := range map[string]*nodelink.Client{"current": current.Client, "older": before} {
		x, out, err := c.Execute(t.Context(), &domain.VM{ID: "vm"}, vmm.StartExecution{ID: "x"})
		must(t, err)
		if x.ID != "x" || out != nil {
			t.Errorf("%s: %+v, %v", name, x, out)
		}
	}
}
