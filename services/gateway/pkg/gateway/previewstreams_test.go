package gateway_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

func TestPreviewFailuresAre502(t *testing.T) {
	t.Parallel()
	nearAndFar(t, func(t *testing.T, l *lab) {
		g := newGuest(t, l, http.HandlerFunc(echo))
		closed := strings.Replace(g.host, "8080-", "9090-", 1)
		token := map[string]string{wire.HeaderPreviewToken: g.token}
		l.problem(502, errors.Unavailable, req{method: "GET", path: "http://" + closed + "/", key: "none", header: token})
		// A VM that is not there is like one that the visitor holds nothing of.
		l.problem(403, errors.PermissionDenied, req{method: "GET", path: "http://8080-" + domain.NewID().String() + ".aeth.localhost/", key: "none", header: token})
		l.problem(401, errors.Unauthenticated, req{method: "GET", path: "http://8080-" + domain.NewID().String() + ".aeth.localhost/", key: "none"})
		l.problem(502, errors.Unavailable, req{method: "GET", path: "/vms/" + g.id + "/ports/9090/"})
		get[wire.VM](l, 200, req{method: "POST", path: "/vms/" + g.id + "/pause"})
		l.problem(502, errors.Conflict, req{method: "GET", path: "http://" + g.host + "/", key: "none", header: token})
		// The path form is the API: what is wrong with the VM keeps its own status there.
		l.problem(409, errors.Conflict, req{method: "GET", path: "/vms/" + g.id + "/ports/8080/"})
		// Traffic resumes a VM that wants that.
		get[wire.VM](l, 200, req{method: "PATCH", path: "/vms/" + g.id, body: `{"auto_resume":true}`})
		l.want(200, req{method: "GET", path: "http://" + g.host + "/", key: "none", header: token})
		get[wire.VM](l, 200, req{method: "DELETE", path: "/vms/" + g.id})
		l.problem(403, errors.PermissionDenied, req{method: "GET", path: "http://" + g.host + "/", key: "none", header: token})
		l.problem(410, errors.Gone, req{method: "GET", path: "/vms/" + g.id + "/ports/8080"})
		l.problem(410, errors.Gone, req{method: "POST", path: "/vms/" + g.id + "/ports/8080/links"})

		// A server that does not speak HTTP.
		raw, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = raw.Close() })
		go func() {
			for {
				c, err := raw.Accept()
				if err != nil {
					return
				}
				_, _ = c.Write([]byte("SSH-2.0-guest\r\n"))
				_ = c.Close()
			}
		}()
		g2 := newGuest(t, l, http.HandlerFunc(echo))
		l.core.Expose(domain.ID(g2.id), 22, raw.Addr().String())
		l.problem(502, errors.Unavailable, req{method: "GET", path: "/vms/" + g2.id + "/ports/22/"})
	})
}

func TestPreviewStreams(t *testing.T) {
	t.Parallel()
	nearAndFar(t, func(t *testing.T, l *lab) {
		step := make(chan struct{})
		ended := make(chan struct{})
		mux := http.NewServeMux()
		mux.HandleFunc("/sse", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			for i := range 3 {
				_, _ = fmt.Fprintf(w, "data: %d\n\n", i)
				w.(http.Flusher).Flush()
				<-step
			}
		})
		mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) { // not an event stream, and still live
			_, _ = io.WriteString(w, "first\n")
			w.(http.Flusher).Flush()
			<-r.Context().Done()
			close(ended)
		})
		mux.HandleFunc("/ws", func(w http.ResponseWriter, r *http.Request) {
			c, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"chat"}})
			if err != nil {
				return
			}
			for {
				kind, p, err := c.Read(context.Background())
				if err != nil {
					return
				}
				_ = c.Write(context.Background(), kind, append([]byte("echo "), p...))
			}
		})
		g := newGuest(t, l, mux)
		open := func(path string) (*http.Response, *bufio.Reader, context.CancelFunc) {
			ctx, cancel := context.WithCancel(t.Context())
			rq := l.request(req{method: "GET", path: "http://" + g.host + path, key: "none", header: map[string]string{wire.HeaderPreviewToken: g.token}})
			resp, err := l.client.Do(rq.WithContext(ctx))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { cancel(); _ = resp.Body.Close() })
			return resp, bufio.NewReader(resp.Body), cancel
		}
		_, events, _ := open("/sse")
		for i := range 3 { // each event arrives before the next one is made
			if line, err := events.ReadString('\n'); err != nil || line != fmt.Sprintf("data: %d\n", i) {
				t.Fatalf("%q, %v", line, err)
			}
			_, _ = events.ReadString('\n')
			step <- struct{}{}
		}
		_, slow, leave := open("/slow")
		if line, err := slow.ReadString('\n'); err != nil || line != "first\n" {
			t.Fatalf("%q, %v", line, err)
		}
		leave()
		<-ended // the guest learns that its visitor left

		for name, url := range map[string]string{"preview": "ws://" + g.host + "/ws", "path form": "ws://" + l.addr + wire.BasePath + "/vms/" + g.id + "/ports/8080/ws"} {
			h := http.Header{wire.HeaderPreviewToken: {g.token}, "Authorization": {"Bearer " + l.admin}}
			c, _, err := websocket.Dial(t.Context(), url, &websocket.DialOptions{HTTPClient: l.client, HTTPHeader: h, Subprotocols: []string{"chat", "bearer." + l.admin}})
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			for range 3 {
				_ = c.Write(t.Context(), websocket.MessageText, []byte("hi"))
				if _, p, err := c.Read(t.Context()); err != nil || string(p) != "echo hi" || c.Subprotocol() != "chat" {
					t.Fatalf("%s: %q, %v", name, p, err)
				}
			}
			_ = c.Close(websocket.StatusNormalClosure, "")
		}
	})
}

func TestKillingTheVMBreaksItsStreams(t *testing.T) {
	t.Parallel()
	nearAndFar(t, func(t *testing.T, l *lab) {
		g := newGuest(t, l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, "beginning")
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}))
		resp, err := l.client.Do(l.request(req{method: "GET", path: "http://" + g.host + "/", key: "none", header: map[string]string{wire.HeaderPreviewToken: g.token}}))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		buf := make([]byte, 9)
		if _, err := io.ReadFull(resp.Body, buf); err != nil {
			t.Fatal(err)
		}
		get[wire.VM](l, 200, req{method: "DELETE", path: "/vms/" + g.id})
		if rest, err := io.ReadAll(resp.Body); err == nil {
			t.Fatalf("the answer ended as if it were whole: %q", rest)
		}
	})
}

func TestLargeBodiesThroughPreview(t *testing.T) {
	t.Parallel()
	nearAndFar(t, func(t *testing.T, l *lab) {
		const size = 100 << 20
		g := newGuest(t, l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPut {
				sum := sha256.New()
				n, _ := io.Copy(sum, r.Body)
				_, _ = fmt.Fprintf(w, "%d %x", n, sum.Sum(nil))
				return
			}
			_, _ = io.CopyN(w, &pattern{}, size)
		}))
		want := sha256.New()
		_, _ = io.CopyN(want, &pattern{}, size)
		_, body := g.visit(req{method: "PUT", path: "/", body: io.LimitReader(&pattern{}, size)})
		if string(body) != fmt.Sprintf("%d %x", size, want.Sum(nil)) {
			t.Fatalf("the guest got %s", body)
		}
		resp, err := l.client.Do(l.request(req{method: "GET", path: "http://" + g.host + "/", key: "none", header: map[string]string{wire.HeaderPreviewToken: g.token}}))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		got := sha256.New()
		if n, err := io.Copy(got, resp.Body); n != size || err != nil || !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
			t.Fatalf("%d bytes came, %v", n, err)
		}
	})
}

// pattern is an endless stream that is cheap to make.
type pattern struct{ at int }

func (s *pattern) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(s.at >> 3)
		s.at += 11
	}
	return len(p), nil
}

// A server may answer before it has all that it is sent, and be sent more for it.
func TestPreviewAnswersBeforeTheRequestEnds(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	g := newGuest(t, l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		if err := errors.Join(control.EnableFullDuplex(), control.Flush()); err != nil {
			t.Error(err)
		}
		_, _ = io.Copy(w, r.Body)
	}))
	body, send := io.Pipe()
	r := l.request(req{method: "POST", path: "http://" + g.host + "/", body: body, key: "none", header: map[string]string{wire.HeaderPreviewToken: g.token}})
	resp, err := l.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	for i := range 3 {
		want := fmt.Sprintf("piece %d\n", i)
		if _, err := io.WriteString(send, want); err != nil {
			t.Fatal(err)
		}
	}
	_ = send.Close()
	if got, err := io.ReadAll(resp.Body); err != nil || string(got) != "piece 0\npiece 1\npiece 2\n" {
		t.Errorf("%q, %v", got, err)
	}
}

// What was paused behind a visitor's back is not sent requests that nothing answers.
func TestPreviewOfAVMThatWasPausedMeanwhile(t *testing.T) {
	t.Parallel()
	nearAndFar(t, func(t *testing.T, l *lab) {
		g := newGuest(t, l, http.HandlerFunc(echo))
		if resp, body := g.visit(req{method: "GET", path: "/"}); resp.StatusCode != http.StatusOK {
			t.Fatalf("%d %s", resp.StatusCode, body)
		}
		if _, err := l.core.PauseVM(t.Context(), vmm.Caller{ProjectID: l.project}, domain.ID(g.id), ""); err != nil {
			t.Fatal(err)
		}
		if resp, body := g.visit(req{method: "GET", path: "/"}); resp.StatusCode != http.StatusBadGateway {
			t.Errorf("%d %s", resp.StatusCode, body)
		}
	})
}
