package nodelink_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/nodelink"
	"github.com/aetherium/aetherium/services/core/pkg/service"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// node is a node of which a test says what it does.
type node struct {
	service.Node
	output func() (vmm.OutputReader, error)
	run    func(*domain.VM, vmm.StartExecution) (*domain.Execution, vmm.OutputReader, error)
	files  service.GuestFiles
	dial   func(port uint16) (net.Conn, error)
	wait   func(context.Context) error
	login  chan vmm.RegistryLogin
	woken  chan domain.ID
}

func (n *node) Output(context.Context, *domain.Execution, int64, bool) (vmm.OutputReader, error) {
	return n.output()
}
func (n *node) Files(context.Context, *domain.VM) (service.GuestFiles, error) { return n.files, nil }
func (n *node) Dial(_ context.Context, _ *domain.VM, port uint16) (net.Conn, error) {
	return n.dial(port)
}

func (n *node) WaitExecution(ctx context.Context, _ domain.ID) (*domain.Execution, error) {
	return nil, n.wait(ctx)
}

func (n *node) KeepLogin(_ context.Context, _ domain.ID, login vmm.RegistryLogin) error {
	n.login <- login
	return nil
}
func (n *node) Wake(_ context.Context, project, id domain.ID) { n.woken <- project + "/" + id }

// linked is a node and its client, of which each knows who the other is.
type linked struct {
	*nodelink.Client
	server *httptest.Server
	trust  *x509.CertPool
}

func link(t *testing.T, n service.Node) *linked {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	server := httptest.NewUnstartedServer(nil)
	server.Config = nodelink.NewServer(nodelink.Handler(n, nil, log), &tls.Config{MinVersion: tls.VersionTLS13}, log)
	server.EnableHTTP2 = true
	server.StartTLS()
	trust := x509.NewCertPool()
	trust.AddCert(server.Certificate())
	l := &linked{nodelink.NewClient(server.Listener.Addr().String(), &tls.Config{RootCAs: trust, MinVersion: tls.VersionTLS13}, log), server, trust}
	t.Cleanup(func() {
		l.Client.Close()
		server.CloseClientConnections()
		server.Close()
	})
	return l
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// told is output that a test says piece by piece.
type told struct {
	events chan domain.OutputEvent // closed: the end
	err    error                   // after the end; nil: io.EOF
	held   chan struct{}
	closed chan struct{}
}

func newTold(err error) *told {
	return &told{make(chan domain.OutputEvent), err, make(chan struct{}), make(chan struct{})}
}

func (o *told) Next(ctx context.Context) (domain.OutputEvent, error) {
	select {
	case e, ok := <-o.events:
		switch {
		case ok:
			return e, nil
		case o.err != nil:
			return e, o.err
		}
		return e, io.EOF
	case <-ctx.Done():
		return domain.OutputEvent{}, ctx.Err()
	}
}
func (o *told) Hold()        { close(o.held) }
func (o *told) Close() error { close(o.closed); return nil }

func TestOutputComesAsItIsSaid(t *testing.T) {
	t.Parallel()
	o := newTold(nil)
	l := link(t, &node{output: func() (vmm.OutputReader, error) { return o, nil }})
	opening, cancel := context.WithCancel(t.Context())
	r, err := l.Output(opening, &domain.Execution{}, 0, true)
	must(t, err)
	cancel() // it was the opening's alone
	r.Hold()
	all := bytes.Repeat([]byte{0, '\n', 0xff}, 100_000)
	for i, e := range []domain.OutputEvent{
		{Offset: 1, Stream: domain.Stdout, Data: []byte("one\n")},
		{Offset: 5, Stream: domain.Stderr, Data: all},
		{Offset: 7, Gap: &domain.OutputGap{From: 7, To: 9}},
		{Offset: 9, End: &domain.ExecutionEnd{ExitCode: 3, LostReason: "ü\n"}},
	} {
		impatient, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := r.Next(impatient); !errors.Is(err, context.Canceled) {
			t.Errorf("a reader who went away: %v", err)
		}
		go func() { o.events <- e }()
		got, err := r.Next(t.Context())
		must(t, err)
		if got.Offset != e.Offset || got.Stream != e.Stream || !bytes.Equal(got.Data, e.Data) || (got.Gap == nil) != (e.Gap == nil) || (got.End == nil) != (e.End == nil) {
			t.Errorf("event %d: %+v", i, got)
		}
		if e.End != nil && *got.End != *e.End {
			t.Errorf("the end: %+v", got.End)
		}
	}
	<-o.held
	for range 2 {
		if _, err := r.Next(t.Context()); err != io.EOF { //nolint:errorlint // bare, as it is promised
			t.Errorf("after the end: %v", err)
		}
	}
	must(t, r.Close())
	<-o.closed
}

// Output whose connection breaks is told to have broken, also while the node
// waits for more to be asked of it.
func TestOutputThatIsCutOff(t *testing.T) {
	t.Parallel()
	o := newTold(nil)
	l := link(t, &node{output: func() (vmm.OutputReader, error) { return o, nil }})
	r, err := l.Output(t.Context(), &domain.Execution{ID: "x"}, 0, true)
	must(t, err)
	go func() { o.events <- domain.OutputEvent{Data: []byte("first")} }()
	_, err = r.Next(t.Context())
	must(t, err)
	l.server.CloseClientConnections()
	if _, err := r.Next(t.Context()); !errors.HasCode(err, errors.Unavailable) {
		t.Errorf("%v", err)
	}
	<-o.closed
	must(t, r.Close())
}

func TestOutputOfWhichNobodyWantsMore(t *testing.T) {
	t.Parallel()
	for _, reads := range []bool{true, false} {
		o := newTold(nil)
		l := link(t, &node{output: func() (vmm.OutputReader, error) { return o, nil }})
		r, err := l.Output(t.Context(), &domain.Execution{}, 0, true)
		must(t, err)
		if reads {
			go func() { o.events <- domain.OutputEvent{Data: []byte("x")} }()
			_, err := r.Next(t.Context())
			must(t, err)
		}
		must(t, r.Close())
		<-o.closed // the node knows
		select {
		case <-o.held:
			t.Error("a reader that did not ask to be waited for is waited for")
		default:
		}
	}
}

func TestErrorsArriveAsTheyWere(t *testing.T) {
	t.Parallel()
	was := errors.New(errors.QuotaExceeded, "so many\n%d and no more", 3).WithHint("ende ✓").WithField("/a/b").WithRetryAfter(1500 * time.Millisecond)
	same := func(err error) {
		t.Helper()
		var e *errors.Error
		if !errors.As(err, &e) || e.Code != was.Code || e.Message != was.Message || e.Hint != was.Hint || e.Field != was.Field || e.RetryAfter != was.RetryAfter {
			t.Errorf("%#v", err)
		}
	}
	// In place of an answer, and behind its first byte.
	l := link(t, &node{output: func() (vmm.OutputReader, error) { return nil, was }})
	_, err := l.Output(t.Context(), &domain.Execution{}, 0, false)
	same(err)
	o := newTold(was)
	close(o.events)
	l = link(t, &node{output: func() (vmm.OutputReader, error) { return o, nil }})
	r, err := l.Output(t.Context(), &domain.Execution{}, 0, false)
	must(t, err)
	_, err = r.Next(t.Context())
	same(err)
	must(t, r.Close())
	// The cause stays where it was.
	l = link(t, &node{wait: func(context.Context) error { return errors.Plain("/secret/path") }})
	if _, err := l.WaitExecution(t.Context(), "x"); !errors.HasCode(err, errors.Internal) || strings.Contains(err.Error(), "secret") {
		t.Errorf("%v", err)
	}
}

// files is a file system with one file.
type files struct {
	service.GuestFiles
	content io.Reader
	got     []byte
	gotErr  error
	done    chan struct{}
	answer  error
}

func (f *files) Read(context.Context, string, vmm.FileOptions) (vmm.FileInfo, io.ReadCloser, error) {
	return vmm.FileInfo{Name: "f", Metadata: map[string]string{"k": "v\n"}}, io.NopCloser(f.content), nil
}

func (f *files) Write(_ context.Context, path string, r io.Reader, o vmm.FileOptions) (vmm.FileInfo, error) {
	defer close(f.done)
	if f.answer != nil {
		return vmm.FileInfo{}, f.answer
	}
	f.got, f.gotErr = io.ReadAll(r)
	return vmm.FileInfo{Name: path, Mode: o.Mode}, f.gotErr
}

func TestBytesBothWays(t *testing.T) {
	t.Parallel()
	content := bytes.Repeat([]byte("0123456\x00\n"), 1<<18)
	f := &files{content: bytes.NewReader(content), done: make(chan struct{})}
	l := link(t, &node{files: f})
	guest, err := l.Files(t.Context(), &domain.VM{})
	must(t, err)
	info, r, err := guest.Read(t.Context(), "f", vmm.FileOptions{})
	must(t, err)
	got, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(got, content) || info.Metadata["k"] != "v\n" {
		t.Errorf("%d bytes, %+v, %v", len(got), info, err)
	}
	must(t, r.Close())
	info, err = guest.Write(t.Context(), "f", bytes.NewReader(content), vmm.FileOptions{Mode: 0o640})
	if err != nil || info.Mode != 0o640 || !bytes.Equal(f.got, content) {
		t.Errorf("%+v, %v, %d bytes arrived", info, err, len(f.got))
	}
}

// unread is a node's files of which nobody reads what is written.
type unread struct {
	service.GuestFiles
	begun chan struct{}
	end   chan struct{}
}

func (f *unread) Write(_ context.Context, _ string, r io.Reader, _ vmm.FileOptions) (vmm.FileInfo, error) {
	if _, err := r.Read(make([]byte, 1)); err != nil {
		return vmm.FileInfo{}, err
	}
	close(f.begun)
	<-f.end // as where a disk stalls
	return vmm.FileInfo{}, nil
}

// One call that does not take what it is sent holds up no other.
func TestCallsBesideOneThatStalls(t *testing.T) {
	t.Parallel()
	f := &unread{begun: make(chan struct{}), end: make(chan struct{})}
	l := link(t, &node{files: f, login: make(chan vmm.RegistryLogin, 1)})
	guest, err := l.Files(t.Context(), &domain.VM{})
	must(t, err)
	sent := make(chan error, 1)
	body, more := io.Pipe()
	go func() {
		_, err := guest.Write(t.Context(), "f", body, vmm.FileOptions{})
		sent <- err
	}()
	// It is sent all that it may be before the others call.
	chunk := make([]byte, 64<<10)
	full := make(chan struct{})
	go func() {
		defer close(full)
		for range 4 << 20 / len(chunk) {
			if _, err := more.Write(chunk); err != nil {
				return
			}
		}
	}()
	<-f.begun
	select {
	case <-full:
	case <-time.After(200 * time.Millisecond): // it is stopped by its own window
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	must(t, l.KeepLogin(ctx, domain.NewID(), vmm.RegistryLogin{Username: "u"}))
	close(f.end)
	must(t, more.Close())
	<-sent
}

// What is cut off is never taken for the whole.
func TestBytesThatAreCutOff(t *testing.T) {
	t.Parallel()
	broken := errors.New(errors.GuestFault, "it broke")
	l := link(t, &node{files: &files{content: io.MultiReader(strings.NewReader("half"), failing{broken})}})
	guest, err := l.Files(t.Context(), &domain.VM{})
	must(t, err)
	_, r, err := guest.Read(t.Context(), "f", vmm.FileOptions{})
	must(t, err)
	got, err := io.ReadAll(r)
	if string(got) != "half" || !errors.HasCode(err, errors.GuestFault) {
		t.Errorf("%q, %v", got, err)
	}
	must(t, r.Close())

	// By who sends: the node sees it, and the sender has the error that it had.
	f := &files{done: make(chan struct{})}
	l = link(t, &node{files: f})
	guest, err = l.Files(t.Context(), &domain.VM{})
	must(t, err)
	if _, err := guest.Write(t.Context(), "f", io.MultiReader(strings.NewReader("half"), failing{broken}), vmm.FileOptions{}); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
	if <-f.done; f.gotErr == nil {
		t.Errorf("half of it was taken for the whole: %q", f.got)
	}

	// By the node, which wants no more.
	f = &files{done: make(chan struct{}), answer: errors.New(errors.NoSpace, "full")}
	l = link(t, &node{files: f})
	guest, err = l.Files(t.Context(), &domain.VM{})
	must(t, err)
	if _, err := guest.Write(t.Context(), "f", endless{}, vmm.FileOptions{}); !errors.HasCode(err, errors.NoSpace) {
		t.Errorf("%v", err)
	}

	// By the connection's end.
	from, to := io.Pipe()
	l = link(t, &node{files: &files{content: from}})
	guest, err = l.Files(t.Context(), &domain.VM{})
	must(t, err)
	_, r, err = guest.Read(t.Context(), "f", vmm.FileOptions{})
	must(t, err)
	_, err = to.Write([]byte("half"))
	must(t, err)
	if _, err := io.ReadFull(r, make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	l.server.CloseClientConnections()
	if _, err := r.Read(make([]byte, 1)); !errors.HasCode(err, errors.Unavailable) {
		t.Errorf("%v", err)
	}
	must(t, errors.Join(to.Close(), r.Close()))
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// Both ends of a call end with its context.
func TestACallThatIsGivenUp(t *testing.T) {
	t.Parallel()
	begun, ended := make(chan struct{}), make(chan struct{})
	l := link(t, &node{wait: func(ctx context.Context) error {
		close(begun)
		<-ctx.Done()
		close(ended)
		return ctx.Err()
	}})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-begun; cancel() }()
	if _, err := l.WaitExecution(ctx, "x"); !errors.HasCode(err, errors.Canceled) {
		t.Errorf("%v", err)
	}
	<-ended
}

func TestANodeThatIsAway(t *testing.T) {
	t.Parallel()
	begun := make(chan struct{})
	l := link(t, &node{wait: func(ctx context.Context) error { close(begun); <-ctx.Done(); return ctx.Err() }})
	go func() { <-begun; l.server.CloseClientConnections() }()
	away := func(err error) {
		t.Helper()
		var e *errors.Error
		if !errors.As(err, &e) || e.Code != errors.Unavailable || e.RetryAfter == 0 {
			t.Errorf("%v", err)
		}
	}
	_, err := l.WaitExecution(t.Context(), "x")
	away(err)
	l.server.CloseClientConnections()
	l.server.Close()
	_, err = l.WaitExecution(t.Context(), "x")
	away(err)
	_, err = l.Dial(t.Context(), &domain.VM{}, 80)
	away(err)
	_, err = l.Execution(t.Context(), "x") // not that there is none
	away(err)
}

// Who is not who it must be is not spoken to.
func TestAStranger(t *testing.T) {
	t.Parallel()
	l := link(t, &node{wait: func(context.Context) error { t.Error("a stranger got through"); return nil }})
	stranger := nodelink.NewClient(l.server.Listener.Addr().String(), &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS13}, slog.New(slog.DiscardHandler))
	if _, err := stranger.WaitExecution(t.Context(), "x"); !errors.HasCode(err, errors.Unavailable) {
		t.Errorf("%v", err)
	}
	if _, err := stranger.Dial(t.Context(), &domain.VM{}, 80); !errors.HasCode(err, errors.Unavailable) {
		t.Errorf("%v", err)
	}
}

func TestAConnectionToAPort(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	guest, err := net.Listen("unix", dir+"/guest")
	must(t, err)
	defer func() { _ = guest.Close() }()
	l := link(t, &node{dial: func(port uint16) (net.Conn, error) {
		if port != 8080 {
			return nil, errors.New(errors.NotFound, "nobody listens")
		}
		return net.Dial("unix", dir+"/guest")
	}})
	if _, err := l.Dial(t.Context(), &domain.VM{}, 81); !errors.HasCode(err, errors.NotFound) {
		t.Errorf("%v", err)
	}
	conn, err := l.Dial(t.Context(), &domain.VM{}, 8080)
	must(t, err)
	inside, err := guest.Accept()
	must(t, err)

	// A server that speaks first, and a client whose end is seen while it still listens.
	_, err = inside.Write([]byte("hello"))
	must(t, err)
	hello := make([]byte, 5)
	if _, err := io.ReadFull(conn, hello); err != nil || string(hello) != "hello" {
		t.Errorf("%q, %v", hello, err)
	}
	much := bytes.Repeat([]byte("much"), 1<<18)
	var sent sync.WaitGroup
	sent.Go(func() {
		_, err := conn.Write(much)
		if err := errors.Join(err, conn.(interface{ CloseWrite() error }).CloseWrite()); err != nil {
			t.Error(err)
		}
	})
	got, err := io.ReadAll(inside)
	if err != nil || !bytes.Equal(got, much) {
		t.Errorf("%d bytes arrived: %v", len(got), err)
	}
	sent.Wait()
	_, err = inside.Write([]byte("bye"))
	must(t, errors.Join(err, inside.Close()))
	if got, err := io.ReadAll(conn); err != nil || string(got) != "bye" {
		t.Errorf("%q, %v", got, err)
	}
	must(t, conn.Close())

	// It has a socket's deadlines, and its end is its guest's.
	conn, err = l.Dial(t.Context(), &domain.VM{}, 8080)
	must(t, err)
	inside, err = guest.Accept()
	must(t, err)
	must(t, conn.SetReadDeadline(time.Now()))
	if _, err := conn.Read(hello); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%v", err)
	}
	must(t, conn.Close())
	if n, err := inside.Read(hello); err == nil {
		t.Errorf("%d bytes came after the end", n)
	}
}

func TestWhatIsToldByTheWay(t *testing.T) {
	t.Parallel()
	n := &node{login: make(chan vmm.RegistryLogin, 1), woken: make(chan domain.ID, 1)}
	l := link(t, n)
	must(t, l.KeepLogin(t.Context(), "t", vmm.RegistryLogin{Username: "u", Password: "secret"}))
	if got := <-n.login; got.Username != "u" || got.Password.Reveal() != "secret" {
		t.Errorf("%q", got.Username)
	}
	l.Wake(t.Context(), "p", "vm")
	if got := <-n.woken; got != "p/vm" {
		t.Errorf("%q was woken", got)
	}
	if vm, ok := l.Live("vm"); ok {
		t.Errorf("%+v", vm)
	}
}

// A node that cannot be reached is told when it can be.
func TestWhatIsToldLater(t *testing.T) {
	t.Parallel()
	n := &node{woken: make(chan domain.ID, 1)}
	l := link(t, n)
	away, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	address := away.Addr().String()
	must(t, away.Close())
	c := nodelink.NewClient(address, &tls.Config{RootCAs: l.trust, MinVersion: tls.VersionTLS13}, slog.New(slog.DiscardHandler))
	t.Cleanup(c.Close)
	c.Wake(t.Context(), "p", "vm")
	select {
	case got := <-n.woken:
		t.Fatalf("%q was woken by nobody", got)
	case <-time.After(100 * time.Millisecond): // it has been tried by then
	}
	back, err := net.Listen("tcp", address)
	must(t, err)
	t.Cleanup(func() { _ = back.Close() })
	go func() {
		for {
			conn, err := back.Accept()
			if err != nil {
				return
			}
			to, err := net.Dial("tcp", l.server.Listener.Addr().String())
			if err != nil {
				_ = conn.Close()
				return
			}
			go func() { defer func() { _ = to.Close() }(); _, _ = io.Copy(to, conn) }()
			go func() { defer func() { _ = conn.Close() }(); _, _ = io.Copy(conn, to) }()
		}
	}()
	if got := <-n.woken; got != "p/vm" {
		t.Errorf("%q was woken", got)
	}
}

func TestNonsense(t *testing.T) {
	t.Parallel()
	l := link(t, &node{})
	client := l.server.Client()
	for call, body := range map[string]string{"executions.wait": "{", "output.read": "", "files.read": "[]\n", "dial": "nonsense\n", "stdin.write": `{"Length":-1}` + "\n"} {
		response, err := client.Post(l.server.URL+nodelink.Prefix+call, "", strings.NewReader(body))
		must(t, err)
		text, err := io.ReadAll(response.Body)
		if err != nil || response.StatusCode < 400 || response.StatusCode >= http.StatusInternalServerError || !strings.Contains(string(text), `"code"`) {
			t.Errorf("%s: %d %s %v", call, response.StatusCode, text, err)
		}
		must(t, response.Body.Close())
	}
}
