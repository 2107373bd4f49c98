package apifake

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"sync"

	"github.com/coder/websocket"
	"github.com/creack/pty"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
)

// session is one WebSocket on an execution.
type session struct {
	ws  *websocket.Conn
	ctx context.Context
	x   *execution
}

func (sn *session) send(m api.ServerControl) error {
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return sn.ws.Write(sn.ctx, websocket.MessageText, text)
}

func (sn *session) sendError(err error) {
	e := errors.Public(err)
	_ = sn.send(api.ServerControl{Type: api.ControlError, Code: string(e.Code), Message: e.Message, Hint: e.Hint, Field: e.Field})
}

func (sn *session) readStart(m *api.StartControl) error {
	_, text, err := sn.ws.Read(sn.ctx)
	if err != nil {
		return errors.Wrap(err, errors.Canceled, "no start frame")
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(m); err != nil || m.Type != api.ControlStart || m.ID == "" {
		return errors.New(errors.InvalidArgument, "the first frame must be a start frame with an ID")
	}
	return nil
}

func (s *Server) stream(w http.ResponseWriter, r *http.Request, open func(*session) (*execution, int64, error)) error {
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{api.Subprotocol}})
	if err != nil {
		return nil
	}
	ws.SetReadLimit(4 << 20)
	ctx, cancel := context.WithCancel(context.Background())
	sn := &session{ws: ws, ctx: ctx}
	defer func() { cancel(); _ = ws.CloseNow() }()
	x, offset, err := open(sn)
	if err != nil {
		sn.sendError(err)
		_ = ws.Close(api.CloseRefused, "")
		return nil
	}
	sn.x = x
	x.mu.Lock()
	started := api.ServerControl{Type: api.ControlStarted, ExecutionID: x.info.ID, PID: x.info.PID, Offset: offset}
	if s.TellStdin {
		taken := x.taken
		started.StdinOffset = &taken
	}
	cutOff := x.cutOff
	x.mu.Unlock()
	var helpers sync.WaitGroup
	helpers.Go(func() { defer cancel(); sn.read() })
	helpers.Go(func() {
		select {
		case <-cutOff:
			cancel()
			_ = ws.CloseNow()
		case <-ctx.Done():
		}
	})
	if sn.send(started) == nil && sn.pump(offset) == nil {
		_ = ws.Close(websocket.StatusNormalClosure, "")
	}
	cancel()
	_ = ws.CloseNow()
	helpers.Wait()
	return nil
}

// pump sends the journal from an offset to the end.
func (sn *session) pump(offset int64) error {
	x := sn.x
	for i := 0; ; {
		x.mu.Lock()
		for i == len(x.pieces) && x.exit == nil {
			changed := x.changed
			x.mu.Unlock()
			select {
			case <-changed:
			case <-sn.ctx.Done():
				return sn.ctx.Err()
			}
			x.mu.Lock()
		}
		if i == len(x.pieces) {
			exit := *x.exit
			x.mu.Unlock()
			return sn.send(api.ServerControl{Type: api.ControlExit, Exit: &exit})
		}
		p, dropped := x.pieces[i], x.dropped
		x.mu.Unlock()
		if offset < dropped {
			if err := sn.send(api.ServerControl{Type: api.ControlGap, From: offset, To: dropped}); err != nil {
				return err
			}
			offset = dropped
		}
		if end := p.offset + int64(len(p.data)); end > offset {
			data := p.data[max(0, offset-p.offset):]
			if err := sn.ws.Write(sn.ctx, websocket.MessageBinary, api.AppendFrame(nil, p.kind, end-int64(len(data)), data)); err != nil {
				return err
			}
			offset = end
		}
		i++
	}
}

// read takes what the client sends. Input is acknowledged once the process has it.
func (sn *session) read() {
	in := make(chan func() bool, 1024)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for f := range in {
			if !f() {
				return
			}
		}
	}()
	var taken int64
	defer func() { close(in) }()
	for {
		kind, frame, err := sn.ws.Read(sn.ctx)
		if err != nil {
			return
		}
		if kind == websocket.MessageBinary {
			_, offset, data, err := api.ParseFrame(frame)
			if err != nil {
				sn.sendError(err)
				continue
			}
			in <- func() bool {
				if err := sn.x.write(offset, data); err != nil && !errors.HasCode(err, errors.Gone) {
					sn.sendError(err)
					return true
				}
				if offset >= 0 {
					taken = offset
				}
				taken += int64(len(data))
				return sn.send(api.ServerControl{Type: api.ControlStdinAck, Offset: taken}) == nil
			}
			continue
		}
		var m api.ClientControl
		if err := json.Unmarshal(frame, &m); err != nil {
			sn.sendError(err)
			continue
		}
		switch m.Type {
		case api.ControlCloseStdin:
			in <- func() bool { sn.x.closeInput(); return true }
		case api.ControlSignal:
			_ = sn.x.signal(m.Signal)
		case api.ControlResize:
			if sn.x.stdin != nil && sn.x.request.PTY != nil {
				_ = pty.Setsize(sn.x.stdin, &pty.Winsize{Cols: m.Cols, Rows: m.Rows})
			}
		}
	}
}

// output serves what is there as lines of JSON.
func (s *Server) output(w http.ResponseWriter, r *http.Request, x *execution) error {
	offset, err := strconv.ParseInt(r.URL.Query().Get("offset"), 10, 64)
	if err != nil || offset < 0 {
		return errors.New(errors.InvalidArgument, "bad offset")
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	w.Header().Set("Content-Type", "application/x-ndjson")
	enc := json.NewEncoder(w)
	names := map[api.FrameKind]string{api.FrameStdout: "stdout", api.FrameStderr: "stderr", api.FramePTY: "pty"}
	if offset < x.dropped {
		_ = enc.Encode(api.OutputEvent{Offset: offset, NextOffset: x.dropped, Gap: &api.OutputGap{From: offset, To: x.dropped}})
		offset = x.dropped
	}
	for _, p := range x.pieces {
		if end := p.offset + int64(len(p.data)); end > offset {
			data := p.data[max(0, offset-p.offset):]
			_ = enc.Encode(api.OutputEvent{Offset: end - int64(len(data)), NextOffset: end, Stream: names[p.kind], Data: data})
		}
	}
	if x.exit != nil {
		_ = enc.Encode(api.OutputEvent{Offset: x.next, NextOffset: x.next, End: x.exit})
	}
	return nil
}
