package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/aetherium/guest/v1/guestv1connect"
	"github.com/aetherium/aetherium/services/core/pkg/guest/mux"
)

// pipes is the host's side of an agent's standard streams, where one host after
// another comes and goes.
type pipes struct {
	in  *os.File
	out *os.File
}

func (p pipes) Read(b []byte) (int, error)  { return p.out.Read(b) }
func (p pipes) Write(b []byte) (int, error) { return p.in.Write(b) }

// hosted is a host that is linked with the agent.
type hosted struct {
	*vm
	mux *mux.Mux
}

func (v *vm) host(p pipes) *hosted {
	v.t.Helper()
	// Its own descriptors, so that letting go of it leaves the pipes open.
	in, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", p.in.Fd()), os.O_WRONLY, 0)
	must(v.t, err)
	out, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", p.out.Fd()), os.O_RDONLY, 0)
	must(v.t, err)
	mine := pipes{in, out}
	m := mux.New(mux.Host, func(context.Context) (io.ReadWriteCloser, error) {
		return struct {
			io.ReadWriter
			io.Closer
		}{mine, out}, nil
	}, mux.Options{})
	h := &hosted{vm: &vm{t: v.t, cmd: v.cmd, ctx: v.ctx}, mux: m}
	var h2 http.Protocols
	h2.SetUnencryptedHTTP2(true)
	h.http = &http.Client{Transport: &http.Transport{
		Protocols:   &h2,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return m.Dial(ctx) },
	}}
	h.guest = guestv1connect.NewExecutionServiceClient(h.http, "http://agent")
	v.t.Cleanup(h.leave)
	v.t.Cleanup(func() { _, _ = in.Close(), out.Close() })
	return h
}

func (h *hosted) leave() {
	h.http.CloseIdleConnections()
	_ = h.mux.Close()
}

func TestStandardStreamsAreAChannel(t *testing.T) {
	t.Parallel()
	path, err := binary()
	must(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	v := &vm{t: t, ctx: ctx}
	v.cmd = exec.CommandContext(ctx, path, "--listen-stdio")
	childIn, in, err := os.Pipe()
	must(t, err)
	out, childOut, err := os.Pipe()
	must(t, err)
	v.cmd.Stdin, v.cmd.Stdout, v.cmd.Stderr = childIn, childOut, &v.stderr
	v.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(t, v.cmd.Start())
	_, _ = childIn.Close(), childOut.Close()
	t.Cleanup(func() {
		_ = v.cmd.Process.Kill()
		_ = v.cmd.Wait()
		_, _ = in.Close(), out.Close()
	})
	p := pipes{in, out}

	for round := range 3 {
		h := v.host(p)
		if said, end, err := h.try("echo to the host; echo and more >&2; exit 4"); err != nil || end.GetExitCode() != 4 || !strings.Contains(said, "to the host\n") {
			t.Fatalf("round %d: %q %v %v; the agent said %q", round, said, end, err, v.stderr.String())
		}
		// Nothing that a command is given leads into the stream.
		said, _, err := h.try(fmt.Sprintf("readlink /proc/%d/fd/0 /proc/%d/fd/1; ls -l /proc/self/fd", v.cmd.Process.Pid, v.cmd.Process.Pid))
		must(t, err)
		var st syscall.Stat_t
		must(t, syscall.Fstat(int(out.Fd()), &st))
		if !strings.HasPrefix(said, "/dev/null\npipe:") || strings.Contains(said, fmt.Sprintf("pipe:[%d]", st.Ino)) {
			t.Errorf("the standard streams are %q", said)
		}
		h.leave()
		// The next host finds half a message of this one, as after a crash.
		_, err = in.Write([]byte("half\x05 a message"))
		must(t, err)
	}
	must(t, v.cmd.Process.Signal(syscall.SIGTERM))
	must(t, v.cmd.Wait())
}
