package gateway_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"testing"

	"github.com/coder/websocket"

	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
)

// socket is a client of a stream.
type socket struct {
	t    testing.TB
	conn *websocket.Conn
	ctx  context.Context
}

func (l *lab) dial(path string, client *http.Client, header http.Header, protocols ...string) (*socket, *http.Response, error) {
	l.t.Helper()
	if header == nil {
		header = http.Header{"Authorization": {"Bearer " + l.admin}}
	}
	if protocols == nil {
		protocols = []string{wire.Subprotocol}
	}
	if client == nil {
		client = l.client
	}
	c, resp, err := websocket.Dial(l.t.Context(), "ws://"+l.addr+wire.BasePath+path, &websocket.DialOptions{HTTPClient: client, HTTPHeader: header, Subprotocols: protocols})
	if err != nil {
		return nil, resp, err
	}
	c.SetReadLimit(8 << 20)
	l.t.Cleanup(func() { _ = c.CloseNow() })
	return &socket{l.t, c, l.t.Context()}, resp, nil
}

func (l *lab) mustDial(path string) *socket {
	l.t.Helper()
	s, _, err := l.dial(path, nil, nil)
	if err != nil {
		l.t.Fatal(err)
	}
	return s
}

func (s *socket) send(v any) {
	s.t.Helper()
	text, _ := json.Marshal(v)
	if err := s.conn.Write(s.ctx, websocket.MessageText, text); err != nil {
		s.t.Fatal(err)
	}
}

func (s *socket) stdin(offset int64, data string) {
	s.t.Helper()
	if err := s.conn.Write(s.ctx, websocket.MessageBinary, wire.AppendFrame(nil, wire.FrameStdin, offset, []byte(data))); err != nil {
		s.t.Fatal(err)
	}
}

// frame is what arrives: data or a control.
type frame struct {
	kind    wire.FrameKind
	offset  int64
	data    []byte
	control *wire.ServerControl
}

func (s *socket) next() (frame, error) {
	kind, raw, err := s.conn.Read(s.ctx)
	if err != nil {
		return frame{}, err
	}
	if kind == websocket.MessageText {
		var c wire.ServerControl
		return frame{control: &c}, json.Unmarshal(raw, &c)
	}
	k, off, data, err := wire.ParseFrame(raw)
	return frame{kind: k, offset: off, data: data}, err
}

func (s *socket) until(control string) (c wire.ServerControl, output string) {
	s.t.Helper()
	var all bytes.Buffer
	for {
		f, err := s.next()
		if err != nil {
			s.t.Fatalf("waiting for %s: %v", control, err)
		}
		if f.control == nil {
			all.Write(f.data)
			continue
		}
		if f.control.Type == control {
			return *f.control, all.String()
		}
		if f.control.Type == wire.ControlError {
			s.t.Fatalf("waiting for %s: %+v", control, *f.control)
		}
	}
}

func (s *socket) closeCode() websocket.StatusCode {
	for {
		if _, err := s.next(); err != nil {
			return websocket.CloseStatus(err)
		}
	}
}

func start(args ...string) wire.StartControl {
	return wire.StartControl{Type: wire.ControlStart, StartExecution: wire.StartExecution{Command: wire.Command{Args: args}, Stdin: true}}
}
