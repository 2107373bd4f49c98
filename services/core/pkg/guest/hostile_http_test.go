package guest_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/internal/pipes"
	"github.com/aetherium/aetherium/services/core/pkg/guest"
	filesystempb "github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/filesystem"
	"github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/filesystem/filesystempbconnect"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// raw serves each connection by hand.
func raw(t testing.TB, f func(net.Conn)) guest.Dial {
	t.Helper()
	l := listen(t)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer func() { _ = c.Close() }(); f(c) }()
		}
	}()
	return dialer(l)
}

// frame is an HTTP/2 frame (RFC 9113 §4.1).
func frame(kind, flags byte, stream uint32, payload []byte) []byte {
	b := []byte{byte(len(payload) >> 16), byte(len(payload) >> 8), byte(len(payload)), kind, flags}
	return append(binary.BigEndian.AppendUint32(b, stream), payload...)
}

// TestNonsense is said by what is not even an agent.
func TestNonsense(t *testing.T) {
	t.Parallel()
	endless := func(c net.Conn, b []byte) {
		for {
			if _, err := c.Write(b); err != nil {
				return
			}
		}
	}
	swallow := func(c net.Conn) { go func() { _, _ = io.Copy(io.Discard, c) }() }
	for name, f := range map[string]func(net.Conn){
		"nothing":   func(c net.Conn) { _, _ = io.Copy(io.Discard, c) },
		"a hang-up": func(net.Conn) {},
		"noise":     func(c net.Conn) { swallow(c); endless(c, []byte("\xff\x00rubbish\r\n")) },
		"other HTTP": func(c net.Conn) {
			swallow(c)
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
			_, _ = io.Copy(io.Discard, c)
		},
		"long headers": func(c net.Conn) {
			swallow(c)
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n")
			endless(c, []byte("X-Header: value\r\n"))
		},
		"a long line": func(c net.Conn) {
			swallow(c)
			_, _ = io.WriteString(c, "HTTP/1.1 200 ")
			endless(c, []byte(strings.Repeat("x", 4096)))
		},
		"endless header blocks": func(c net.Conn) {
			swallow(c)
			_, _ = c.Write(frame(4, 0, 0, nil))                  // SETTINGS
			_, _ = c.Write(frame(1, 0, 1, []byte{0x88}))         // HEADERS, :status 200, more to come
			endless(c, frame(9, 0, 1, []byte("\x00\x01a\x01b"))) // CONTINUATION
		},
		"a huge frame": func(c net.Conn) {
			swallow(c)
			_, _ = c.Write(frame(4, 0, 0, nil))
			_, _ = c.Write([]byte{0xFF, 0xFF, 0xFF, 0, 0, 0, 0, 0, 1})
			endless(c, make([]byte, 4096))
		},
		"only keepalive": func(c net.Conn) {
			swallow(c)
			_, _ = c.Write(frame(4, 0, 0, nil))
			endless(c, frame(6, 0, 0, make([]byte, 8)))
		},
		"interim answers for ever": func(c net.Conn) {
			swallow(c)
			endless(c, []byte("HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			limit := 300 * time.Millisecond
			c := guest.New(raw(t, f), guest.Options{CallTimeout: limit, FileTimeout: limit})
			defer c.Close()
			calls := map[string]func() error{
				"handshake": func() error { _, err := c.Handshake(t.Context()); return err },
				"stat":      func() error { _, err := c.Stat(t.Context(), "/x", vmm.FileOptions{}); return err },
				"write": func() error {
					_, err := c.Write(t.Context(), "/x", strings.NewReader("x"), vmm.FileOptions{})
					return err
				},
				"tar down": func() error {
					body, err := c.TarDown(t.Context(), "/x", vmm.FileOptions{})
					if err == nil {
						_, err = io.Copy(io.Discard, body)
						_ = body.Close()
					}
					return err
				},
				"watch": func() error { _, err := c.Watch(t.Context(), "/x", false, vmm.FileOptions{}); return err },
				"port":  func() error { _, err := c.DialPort(t.Context(), 80); return err },
			}
			for call, f := range calls {
				err := f()
				if name == "other HTTP" && (call == "tar down" || call == "write") {
					continue // it is a proper answer, if a short one
				}
				if !errors.HasCode(err, errors.GuestFault) && !errors.HasCode(err, errors.Unavailable) {
					t.Errorf("%s: %v", call, err)
				}
			}
		})
	}
}

// lyingFiles answers file calls.
type lyingFiles struct {
	filesystempbconnect.UnimplementedFilesystemHandler
	entry *filesystempb.EntryInfo
	many  int
}

func (l *lyingFiles) Stat(context.Context, *connect.Request[filesystempb.StatRequest]) (*connect.Response[filesystempb.StatResponse], error) {
	return connect.NewResponse(&filesystempb.StatResponse{Entry: l.entry}), nil
}

func (l *lyingFiles) ListDir(context.Context, *connect.Request[filesystempb.ListDirRequest]) (*connect.Response[filesystempb.ListDirResponse], error) {
	return connect.NewResponse(&filesystempb.ListDirResponse{Entries: repeat(l.entry, l.many)}), nil
}

// filesAgent is an agent for file calls, of which its client waits for a limit; 0: the default.
func filesAgent(t *testing.T, l *lyingFiles, limit time.Duration, endpoints map[string]http.HandlerFunc) *guest.Client {
	c := guest.New(serve(t, filesMux(l, endpoints)), guest.Options{FileTimeout: limit})
	t.Cleanup(c.Close)
	return c
}

func filesMux(l *lyingFiles, endpoints map[string]http.HandlerFunc) *http.ServeMux {
	mux := http.NewServeMux()
	mux.Handle(filesystempbconnect.NewFilesystemHandler(l))
	for p, f := range endpoints {
		mux.HandleFunc(p, f)
	}
	return mux
}

func TestFilesOutOfBounds(t *testing.T) {
	t.Parallel()
	for name, entry := range map[string]*filesystempb.EntryInfo{
		"nothing":         nil,
		"no name":         {Path: "/x"},
		"a long name":     {Name: strings.Repeat("x", 10_000)},
		"a long target":   {Name: "x", SymlinkTarget: ptr(strings.Repeat("x", 10_000))},
		"a negative size": {Name: "x", Size: -1},
		"much metadata":   {Name: "x", Metadata: metadata(1000)},
	} {
		c := filesAgent(t, &lyingFiles{entry: entry, many: 1}, 0, nil)
		if _, err := c.Stat(t.Context(), "/x", vmm.FileOptions{}); !errors.HasCode(err, errors.GuestFault) {
			t.Errorf("stat, %s: %v", name, err)
		}
		if _, err := c.List(t.Context(), "/x", 1, vmm.FileOptions{}); !errors.HasCode(err, errors.GuestFault) {
			t.Errorf("list, %s: %v", name, err)
		}
	}
	c := filesAgent(t, &lyingFiles{entry: &filesystempb.EntryInfo{Name: "x"}, many: 200_000}, 0, nil)
	if _, err := c.List(t.Context(), "/x", 1, vmm.FileOptions{}); !errors.HasCode(err, errors.TooLarge) && !errors.HasCode(err, errors.GuestFault) {
		t.Errorf("a long list: %v", err)
	}
	huge := &filesystempb.EntryInfo{Name: strings.Repeat("x", 1<<20)}
	c = filesAgent(t, &lyingFiles{entry: huge, many: 60}, 0, nil)
	if _, err := c.List(t.Context(), "/x", 1, vmm.FileOptions{}); !errors.HasCode(err, errors.GuestFault) {
		t.Errorf("a huge list: %v", err)
	}
}

func ptr[T any](v T) *T { return &v }

func metadata(n int) map[string]string {
	m := map[string]string{}
	for i := range n {
		m[fmt.Sprint(i)] = "x"
	}
	return m
}

// TestTransferLies answers transfers in wrong ways.
func TestTransferLies(t *testing.T) {
	t.Parallel()
	ten := &lyingFiles{entry: &filesystempb.EntryInfo{Name: "x", Size: 10, Type: filesystempb.FileType_FILE_TYPE_FILE}}
	readAll := func(c *guest.Client, o vmm.FileOptions) (string, error) {
		_, body, err := c.Read(t.Context(), "/x", o)
		if err != nil {
			return "", err
		}
		defer func() { _ = body.Close() }()
		b, err := io.ReadAll(body)
		return string(b), err
	}
	hang := func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}
	for name, f := range map[string]http.HandlerFunc{
		"the whole for a part": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "0123456789") },
		"a body cut off": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "5")
			w.WriteHeader(http.StatusPartialContent)
			_, _ = io.WriteString(w, "01")
			panic(http.ErrAbortHandler)
		},
		"a body that hangs":       hang,
		"no answer":               func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"an error without reason": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) },
		"an error without end": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusNotFound)
			for {
				if _, err := io.WriteString(w, "{\"message\":\"xxxxxxxxxxxx"); err != nil {
					return
				}
			}
		},
		"a code that is none": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusTeapot)
			_, _ = io.WriteString(w, `{"code":"internal","message":"x"}`)
		},
		"another place to look at": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://169.254.169.254/", http.StatusFound)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := filesAgent(t, ten, 300*time.Millisecond, map[string]http.HandlerFunc{"GET /aetherium/file": f, "PUT /aetherium/file": f})
			if got, err := readAll(c, vmm.FileOptions{Offset: 2, Length: 5}); !errors.HasCode(err, errors.GuestFault) {
				t.Errorf("read: %q, %v", got, err)
			}
			// More than sockets hold: who does not read it stalls the writer.
			_, err := c.Write(t.Context(), "/x", io.LimitReader(zeros{}, 64<<20), vmm.FileOptions{})
			if !errors.HasCode(err, errors.GuestFault) {
				t.Errorf("write: %v", err)
			}
		})
	}
	// More than was asked for is not passed on.
	c := filesAgent(t, ten, 0, map[string]http.HandlerFunc{"GET /aetherium/file": func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusPartialContent)
		_, _ = io.WriteString(w, strings.Repeat("x", 1<<20))
	}})
	if got, err := readAll(c, vmm.FileOptions{Offset: 2, Length: 5}); err != nil || got != "xxxxx" {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestSlowCallerIsNotBlamedOnTheGuest takes its time between reads and writes.
func TestSlowCallerIsNotBlamedOnTheGuest(t *testing.T) {
	t.Parallel()
	ten := &lyingFiles{entry: &filesystempb.EntryInfo{Name: "x", Size: 10}}
	mux := filesMux(ten, map[string]http.HandlerFunc{
		"GET /aetherium/file": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "0123456789") },
		"PUT /aetherium/file": func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			_, _ = fmt.Fprintf(w, `{"name":"x","path":"/x","size":%d}`, len(b))
		},
	})
	synctest.Test(t, func(t *testing.T) {
		l := pipes.Listen()
		s := &http.Server{Handler: mux, Protocols: new(http.Protocols)}
		s.Protocols.SetHTTP1(true)
		s.Protocols.SetUnencryptedHTTP2(true)
		go func() { _ = s.Serve(l) }()
		defer func() { _ = s.Close() }()
		c := guest.New(l.Dial, guest.Options{FileTimeout: 300 * time.Millisecond})
		defer c.Close()
		info, err := c.Write(t.Context(), "/x", &slowReader{left: 3, pause: 400 * time.Millisecond}, vmm.FileOptions{})
		if err != nil || info.Size != 3 {
			t.Errorf("%+v, %v", info, err)
		}
		_, body, err := c.Read(t.Context(), "/x", vmm.FileOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = body.Close() }()
		time.Sleep(400 * time.Millisecond)
		if b, err := io.ReadAll(body); err != nil || string(b) != "0123456789" {
			t.Errorf("%q, %v", b, err)
		}
	})
}

type slowReader struct {
	left  int
	pause time.Duration
}

func (r *slowReader) Read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	time.Sleep(r.pause)
	r.left--
	p[0] = 'x'
	return 1, nil
}
