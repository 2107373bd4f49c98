package client_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/internal/cli/apifake"
	"github.com/aetherium/aetherium/services/core/pkg/client"
)

func TestNewRefusesBadOptions(t *testing.T) {
	t.Parallel()
	for _, o := range []client.Options{
		{URL: ""}, {URL: "localhost:80"}, {URL: "ftp://x"}, {URL: "http://"},
		{URL: "http://user:secret@host"}, {URL: "http://host?key=secret"}, {URL: "http://host", Key: "a\nb"},
	} {
		_, err := client.New(o)
		if !errors.HasCode(err, errors.InvalidArgument) {
			t.Errorf("%+v: got %v", o, err)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("the error tells a secret: %v", err)
		}
	}
}

// What is to be started is told ahead of the body, unless it is no ID at all.
func TestTellsExecutionsAhead(t *testing.T) {
	t.Parallel()
	told := make(chan string, 1)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		told <- r.Header.Get(api.HeaderExecution)
		w.WriteHeader(http.StatusBadRequest)
	}))
	defer s.Close()
	c, err := client.New(client.Options{URL: s.URL, Key: "k"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	id := domain.NewID().String()
	for given, want := range map[string]string{id: id, "no ID\n": ""} {
		_, err := c.Execute(t.Context(), "vm", api.Execute{ID: given})
		if got := <-told; got != want {
			t.Errorf("an execution %q is told as %q (%v)", given, got, err)
		}
		_, err = c.StartExecution(t.Context(), "vm", api.StartExecution{ID: given})
		if got := <-told; got != want {
			t.Errorf("the start of %q is told as %q (%v)", given, got, err)
		}
	}
	_, _ = c.Execute(t.Context(), "vm", api.Execute{})
	if got := <-told; !domain.IsID(got) {
		t.Errorf("an execution without an ID is told as %q", got)
	}
}

// Whatever breaks on the way, a creation happens once.
func TestCreatesOnce(t *testing.T) {
	t.Parallel()
	s := apifake.New(t)
	c := connect(t, s)
	if _, err := c.Status(t.Context()); err != nil { // the server is known to be there
		t.Fatal(err)
	}
	c.Close()
	s.Kill()
	s.Chop(2500)
	s.Start()
	const n = 25
	for range n {
		if _, err := c.CreateVM(t.Context(), api.CreateVM{Template: "base"}); err != nil {
			t.Fatal(err)
		}
	}
	if made := s.VMsMade(); made != n {
		t.Errorf("%d VMs were made for %d requests", made, n)
	}
	posts := 0
	for _, r := range s.Requests() {
		if r.Method == http.MethodPost {
			posts++
		}
	}
	if posts <= n {
		t.Errorf("%d requests for %d VMs: nothing was broken", posts, n)
	}
}

func TestKeyStaysInTheHeader(t *testing.T) {
	t.Parallel()
	s := apifake.New(t)
	c := connect(t, s)
	stream, err := c.Start(t.Context(), "web", sh("true"), client.StreamOptions{})
	if err != nil {
		t.Fatal(err)
	}
	drain(t, stream)
	for _, r := range s.Requests() {
		if strings.Contains(r.Path+r.Query, apifake.Key) {
			t.Errorf("the key is in the URL %s?%s", r.Path, r.Query)
		}
		for name, values := range r.Header {
			if name != "Authorization" && strings.Contains(strings.Join(values, ""), apifake.Key) {
				t.Errorf("the key is in %s", name)
			}
		}
	}
}

func TestRedirectDoesNotCarryTheKey(t *testing.T) {
	t.Parallel()
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a redirect was followed") }))
	defer elsewhere.Close()
	here := httptest.NewServer(http.RedirectHandler(elsewhere.URL, http.StatusTemporaryRedirect))
	defer here.Close()
	c, err := client.New(client.Options{URL: here.URL, Key: "secret"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Status(t.Context()); err == nil {
		t.Error("a redirect is no answer")
	}
}

func TestNoServer(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.NotFoundHandler())
	url := s.URL
	s.Close()
	c, err := client.New(client.Options{URL: url, Patience: time.Hour}) // patience is for servers that were there
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Status(t.Context())
	if !client.IsUnreachable(err) || !errors.HasCode(err, errors.Unavailable) {
		t.Errorf("got %v", err)
	}
}

func TestAnswersThatAreNotOurs(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]errors.Code{"<html>hello</html>": errors.Internal, "": errors.Internal} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(body)) }))
		c, err := client.New(client.Options{URL: s.URL})
		if err != nil {
			t.Fatal(err)
		}
		if _, err = c.Status(t.Context()); !errors.HasCode(err, want) {
			t.Errorf("%q: got %v", body, err)
		}
		s.Close()
	}
}

func TestDownloadGoesOnWhereItBroke(t *testing.T) {
	t.Parallel()
	big := make([]byte, 5<<20)
	_, _ = rand.NewChaCha8([32]byte{2}).Read(big)
	s := apifake.New(t, func(s *apifake.Server) { s.FileBytes = big })
	s.Chop(1 << 20)
	c := connect(t, s)
	var got bytes.Buffer
	var n int64
	var err error
	for range 5 { // the first connection may break before the server is known
		if n, err = c.ReadFile(t.Context(), client.File{VM: "web", Path: "big"}, &got); !client.IsUnreachable(err) {
			break
		}
		got.Reset()
	}
	if err != nil || n != int64(len(big)) || sha256.Sum256(got.Bytes()) != sha256.Sum256(big) {
		t.Errorf("%d bytes, %v", n, err)
	}
	ranged := 0
	for _, r := range s.Requests() {
		if r.Header.Get("Range") != "" {
			ranged++
		}
	}
	if ranged == 0 {
		t.Error("nothing was broken")
	}
}

func TestListsWalkPages(t *testing.T) {
	t.Parallel()
	s := apifake.New(t)
	c := connect(t, s)
	for range 3 {
		if _, err := c.ForkVM(t.Context(), "web", api.ForkVM{Count: 100}); err != nil {
			t.Fatal(err)
		}
	}
	for limit, want := range map[int]int{0: 301, 5: 5, 250: 250} {
		got, err := client.Collect(c.VMs(t.Context(), client.VMFilter{Page: client.Page{Limit: limit}}))
		if err != nil || len(got) != want {
			t.Errorf("limit %d: %d VMs, %v", limit, len(got), err)
		}
	}
}

func TestFollowEventsAcrossARestart(t *testing.T) {
	t.Parallel()
	s := apifake.New(t)
	c := connect(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var seqs []int64
	for ev, err := range c.FollowEvents(ctx, 0) {
		if err != nil {
			t.Fatal(err)
		}
		seqs = append(seqs, ev.Seq)
		switch ev.Seq {
		case 2:
			s.Kill()
			s.Start()
			if _, err := c.CreateVM(t.Context(), api.CreateVM{}); err != nil {
				t.Fatal(err)
			}
		case 3:
			cancel()
		}
		if len(seqs) == 3 {
			break
		}
	}
	if len(seqs) != 3 || seqs[2] != 3 {
		t.Errorf("events %v", seqs)
	}
}

// Who follows from now on, and is cut off before anything has happened, goes on from
// then and misses nothing of what happens until it is back.
func TestFollowEventsFromNowAcrossARestart(t *testing.T) {
	t.Parallel()
	asked := make(chan string, 2)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		after := r.URL.Query().Get("after")
		w.Header().Set(api.HeaderEventCursor, cmp.Or(after, "7"))
		ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{api.Subprotocol}})
		if err != nil {
			return
		}
		asked <- after
		if after == "" {
			_ = ws.Close(websocket.StatusGoingAway, "") // nothing has happened
			return
		}
		_ = ws.Write(r.Context(), websocket.MessageText, []byte(`{"seq":8,"type":"vm.created"}`))
		ws.CloseRead(r.Context())
		<-r.Context().Done()
	}))
	t.Cleanup(srv.Close)
	c, err := client.New(client.Options{URL: srv.URL, Key: "k"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	for ev, err := range c.FollowEvents(t.Context(), -1) {
		if err != nil || ev.Seq != 8 {
			t.Errorf("%+v, %v", ev, err)
		}
		break
	}
	if first, second := <-asked, <-asked; first != "" || second != "7" {
		t.Errorf("it asked for what is after %q, then after %q", first, second)
	}
}

// A request whose answer did not arrive may still be worked on when it is
// repeated: the server says so, and the client asks again.
func TestRepeatsWhileTheFirstIsBeingAnswered(t *testing.T) {
	t.Parallel()
	first, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	s := apifake.New(t, func(s *apifake.Server) {
		s.OnCreate = func() {
			close(first)
			<-release
		}
		s.OnRepeat = func() { once.Do(func() { close(release) }) }
	})
	c := connect(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-first
		cancel()
	}()
	req := api.CreateVM{Template: "base"}
	if _, err := c.CreateVMOnce(ctx, "a-key", req); !errors.HasCode(err, errors.Canceled) {
		t.Fatal(err)
	}
	if vm, err := c.CreateVMOnce(t.Context(), "a-key", req); err != nil || vm.ID == "" || s.VMsMade() != 1 {
		t.Errorf("%+v, %v, %d VMs made", vm, err, s.VMsMade())
	}
}
