package gateway_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/gateway/pkg/gateway"
)

// answerOf reads the frames of one stream to its end, and gives its status and
// its data frames.
func answerOf(t *testing.T, f *http2.Framer, stream uint32) (status string, data [][]byte, reset bool) {
	t.Helper()
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if frame.Header().StreamID != stream {
			continue
		}
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			status = frame.PseudoValue("status")
		case *http2.DataFrame:
			data = append(data, append([]byte(nil), frame.Data()...))
		case *http2.RSTStreamFrame:
			return status, data, true
		}
		if frame.Header().Flags.Has(http2.FlagDataEndStream) {
			return status, data, false
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (g *guest) h2Visit(path string) []byte {
	return h2Block([][2]string{{":method", "GET"}, {":scheme", "http"}, {":authority", g.host}, {":path", path}, {strings.ToLower(wire.HeaderPreviewToken), g.token}})
}

// What is known to be an answer's last bytes ends it; what comes before that
// comes when it is there.
func TestAnswersEndWithTheirLastBytes(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	more := make(chan struct{})
	g := newGuest(t, l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "8")
		if r.URL.Path == "/whole" {
			_, _ = w.Write([]byte("all of it"[:8]))
			return
		}
		_, _ = w.Write([]byte("half"))
		w.(http.Flusher).Flush()
		<-more
		_, _ = w.Write([]byte("half"))
	}))
	_, f := l.h2(t)
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	must(t, f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: g.h2Visit("/whole"), EndHeaders: true, EndStream: true}))
	if status, data, reset := answerOf(t, f, 1); status != "200" || len(data) != 1 || reset {
		t.Errorf("%s in %d frames, %t", status, len(data), reset)
	}
	must(t, f.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: g.h2Visit("/halves"), EndHeaders: true, EndStream: true}))
	for {
		frame, err := f.ReadFrame()
		must(t, err)
		if d, is := frame.(*http2.DataFrame); is {
			if string(d.Data()) != "half" || d.StreamEnded() {
				t.Errorf("%q", d.Data())
			}
			break
		}
	}
	close(more)
	if _, data, reset := answerOf(t, f, 3); len(data) != 1 || string(data[0]) != "half" || reset {
		t.Errorf("%q, %t", data, reset)
	}
}

// A peer that stalls on HTTP/2 is given up, and its connection is not.
func TestStallOnHTTP2(t *testing.T) {
	t.Parallel()
	l := newLab(t, func(c *gateway.Config, _ *gateway.Deps) { c.Stall = time.Second })
	g := newGuest(t, l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			for range 2 {
				_, _ = w.Write([]byte("x"))
				w.(http.Flusher).Flush()
				time.Sleep(1500 * time.Millisecond) // longer than who stalls may
			}
			return
		}
		_, _ = w.Write(make([]byte, 1<<20)) // more than a stream's window
	}))
	_, f := l.h2(t)
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	must(t, f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: l.h2Headers("PUT", "/api/v1/vms/"+g.id+"/files?path=/a", [2]string{"content-length", "100"}), EndHeaders: true}))
	must(t, f.WriteData(1, false, []byte("half")))
	if status, _, _ := answerOf(t, f, 1); status != "504" {
		t.Errorf("a stalled upload: %s", status)
	}
	must(t, f.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: g.h2Visit("/large"), EndHeaders: true, EndStream: true}))
	if status, data, reset := answerOf(t, f, 3); status != "200" || len(data) == 0 || !reset {
		t.Errorf("a stalled download: %s, %d frames, reset %t", status, len(data), reset)
	}
	// It read nothing of that; the connection's window is its own.
	must(t, f.WriteWindowUpdate(0, 1<<20))
	must(t, f.WriteHeaders(http2.HeadersFrameParam{StreamID: 5, BlockFragment: g.h2Visit("/slow"), EndHeaders: true, EndStream: true}))
	if status, data, reset := answerOf(t, f, 5); status != "200" || len(data) < 2 || reset {
		t.Errorf("a slow answer: %s, %q, reset %t", status, data, reset)
	}
}
