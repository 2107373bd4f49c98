package agent_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/services/core/internal/agent"
	"github.com/aetherium/aetherium/services/core/internal/agent/spawn"
	guestv1 "github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/aetherium/guest/v1"
	"github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/aetherium/guest/v1/guestv1connect"

	"connectrpc.com/connect"
)

// TestMain does what the agent's program does at its start.
func TestMain(m *testing.M) {
	if err := spawn.DefaultSignals(); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// limit is far beyond what any step takes; a test that hangs fails with it.
const limit = 60 * time.Second

// rig is an agent that runs in this process, with a host side and an SDK side.
type rig struct {
	t          testing.TB
	ctx        context.Context
	agent      *agent.Agent
	home       string // of "user", 1000:1000
	socket     string
	executions guestv1connect.ExecutionServiceClient
	machine    guestv1connect.MachineServiceClient
	host       *http.Client // HTTP/1.1 to the host's listener
	sdk        string       // base URL of the SDKs' listener
}

func newRig(t testing.TB) *rig {
	t.Helper()
	// A short path: socket names are bounded (unix(7)), and users of the test
	// machine must reach the home.
	dir, err := os.MkdirTemp("/tmp", "agent")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	must(t, os.Chmod(dir, 0o755))
	r := &rig{t: t, home: filepath.Join(dir, "home"), socket: filepath.Join(dir, "agent.sock")}
	must(t, os.Mkdir(r.home, 0o755))
	if os.Geteuid() == 0 {
		must(t, os.Chown(r.home, 1000, 1000))
	}
	must(t, os.Mkdir(filepath.Join(dir, "etc"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "etc/passwd"), []byte(
		"root:x:0:0:root:/root:/bin/bash\nuser:x:1000:1000::"+r.home+":/bin/bash\nother:x:1001:1001::/nonexistent:/bin/sh\n"), 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "etc/group"), []byte("root:x:0:\nuser:x:1000:\nextra:x:2000:user\n"), 0o644))

	ctx, cancel := context.WithTimeout(context.Background(), limit)
	r.ctx = ctx
	a := agent.New(agent.Options{Etc: filepath.Join(dir, "etc")})
	r.agent = a
	hostListener, err := net.Listen("unix", r.socket)
	must(t, err)
	sdkListener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	served := make(chan error, 2)
	go func() { served <- a.Serve(ctx, hostListener) }()
	go func() { served <- a.ServeGuests(ctx, sdkListener) }()
	t.Cleanup(func() {
		a.Shutdown(0)
		cancel()
		for range 2 {
			if err := <-served; err != nil {
				t.Errorf("serve: %v", err)
			}
		}
	})
	r.sdk = "http://" + sdkListener.Addr().String()
	h2 := &http.Client{Transport: transport(r.socket, true)}
	r.host = &http.Client{Transport: transport(r.socket, false)}
	t.Cleanup(h2.CloseIdleConnections)
	t.Cleanup(r.host.CloseIdleConnections)
	r.executions = guestv1connect.NewExecutionServiceClient(h2, "http://agent")
	r.machine = guestv1connect.NewMachineServiceClient(h2, "http://agent")
	return r
}

func transport(socket string, h2 bool) *http.Transport {
	var protocols http.Protocols
	protocols.SetHTTP1(!h2)
	protocols.SetUnencryptedHTTP2(h2)
	return &http.Transport{
		Protocols: &protocols,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("acting as other users needs root")
	}
}

type attachStream = connect.BidiStreamForClient[guestv1.AttachRequest, guestv1.AttachResponse]

// attach opens a stream with a first message and reads `started`.
func (r *rig) attach(first *guestv1.AttachRequest) (*attachStream, *guestv1.AttachResponse_Started) {
	r.t.Helper()
	s := r.executions.Attach(r.ctx)
	must(r.t, s.Send(first))
	msg, err := s.Receive()
	must(r.t, err)
	if msg.GetStarted() == nil {
		r.t.Fatalf("first message is %v", msg)
	}
	return s, msg.GetStarted()
}

func start(id string, c *guestv1.Command) *guestv1.AttachRequest {
	return &guestv1.AttachRequest{Request: &guestv1.AttachRequest_Start_{
		Start: &guestv1.AttachRequest_Start{ExecutionId: id, Command: c},
	}}
}

func resume(id string, offset int64) *guestv1.AttachRequest {
	return &guestv1.AttachRequest{Request: &guestv1.AttachRequest_Resume_{
		Resume: &guestv1.AttachRequest_Resume{ExecutionId: id, Offset: offset},
	}}
}

func ack(offset int64) *guestv1.AttachRequest {
	return &guestv1.AttachRequest{Request: &guestv1.AttachRequest_Ack_{Ack: &guestv1.AttachRequest_Ack{Offset: offset}}}
}

func stdin(offset int64, data string) *guestv1.AttachRequest {
	return &guestv1.AttachRequest{Request: &guestv1.AttachRequest_Stdin_{
		Stdin: &guestv1.AttachRequest_Stdin{Offset: offset, Data: []byte(data)},
	}}
}

func closeStdin(offset int64) *guestv1.AttachRequest {
	return &guestv1.AttachRequest{Request: &guestv1.AttachRequest_CloseStdin_{
		CloseStdin: &guestv1.AttachRequest_CloseStdin{Offset: offset},
	}}
}

func signalGroup(number int32) *guestv1.AttachRequest {
	return &guestv1.AttachRequest{Request: &guestv1.AttachRequest_Signal{
		Signal: &guestv1.AttachRequest_SignalGroup{Number: number},
	}}
}

// output is what a stream gave up to its end.
type output struct {
	stdout, stderr, pty bytes.Buffer
	end                 *guestv1.End
	next                int64 // offset after the last byte
}

// drain reads to the end, acknowledging, and checks that offsets have no hole.
func (r *rig) drain(s *attachStream, from int64) *output {
	r.t.Helper()
	o := &output{next: from}
	for {
		msg, err := s.Receive()
		if err != nil {
			r.t.Fatalf("receive: %v", err)
		}
		if o.take(r.t, msg) {
			return o
		}
		if msg.GetOutput() != nil {
			_ = s.Send(ack(o.next)) // fails when the end has come
		}
	}
}

// take adds one message and reports whether it is the end.
func (o *output) take(t testing.TB, msg *guestv1.AttachResponse) bool {
	t.Helper()
	if end := msg.GetEnd(); end != nil {
		o.end = end
		if end.GetOutputBytes() != o.next {
			t.Fatalf("end after %d bytes, read %d", end.GetOutputBytes(), o.next)
		}
		return true
	}
	piece := msg.GetOutput()
	if piece == nil {
		return false
	}
	if piece.GetOffset() != o.next {
		t.Fatalf("output at %d, want %d", piece.GetOffset(), o.next)
	}
	o.next += int64(len(piece.GetData()))
	switch piece.GetStream() {
	case guestv1.Stream_STREAM_STDOUT:
		o.stdout.Write(piece.GetData())
	case guestv1.Stream_STREAM_STDERR:
		o.stderr.Write(piece.GetData())
	case guestv1.Stream_STREAM_PTY:
		o.pty.Write(piece.GetData())
	}
	return false
}

// run runs a command to its end.
func (r *rig) run(c *guestv1.Command) *output {
	r.t.Helper()
	s, _ := r.attach(start(newID(), c))
	defer func() { _ = s.CloseRequest() }()
	return r.drain(s, 0)
}

// sh runs a shell script as a user.
func (r *rig) sh(user, script string) *output {
	r.t.Helper()
	return r.run(&guestv1.Command{Args: []string{"sh", "-c", script}, User: user})
}

// call makes a plain HTTP request and returns status, headers and body.
func call(t testing.TB, c *http.Client, method, url string, body io.Reader, headers ...string) (int, http.Header, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), method, url, body)
	must(t, err)
	for i := 0; i+1 < len(headers); i += 2 {
		if headers[i] == "Host" {
			req.Host = headers[i+1]
		}
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := c.Do(req)
	must(t, err)
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	must(t, err)
	return res.StatusCode, res.Header, string(b)
}

// rpc makes a unary Connect call as SDKs do: JSON over HTTP/1.1.
func (r *rig) rpc(method, body string, headers ...string) (int, map[string]any) {
	r.t.Helper()
	headers = append([]string{"Content-Type", "application/json"}, headers...)
	status, _, text := call(r.t, http.DefaultClient, http.MethodPost, r.sdk+method, strings.NewReader(body), headers...)
	var value map[string]any
	if err := json.Unmarshal([]byte(text), &value); err != nil {
		r.t.Fatalf("%s: %d %q", method, status, text)
	}
	return status, value
}

// newID mints an execution ID of the form that hosts use.
func newID() string {
	return strings.ToLower(rand.Text()[:20])
}
