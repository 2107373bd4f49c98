package ws

import (
	"context"
	"encoding/base64"
	"io"
	"net/http"
	"strconv"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// endID is the event ID of an execution's exit. A browser that comes back with
// it has seen everything; 204 then makes it stay away.
const endID = "end"

// OutputQuery says which of an execution's output is wanted.
type OutputQuery struct {
	Offset int64
	Follow bool
	Stream domain.OutputStream // 0: all
	// Started, if set, is told first on an SSE stream.
	Started *wire.Execution
}

// Output serves an execution's output over HTTP: as server-sent events, as raw
// bytes, or as newline-delimited JSON, as Accept asks. An error means that
// nothing has been answered yet, unless the answer is under way already.
func (s *Streams) Output(w http.ResponseWriter, r *http.Request, by vmm.Caller, id domain.ID, q OutputQuery) error {
	if WantsSSE(r) {
		return s.OutputSSE(w, r, by, id, q)
	}
	ctx, leave, err := s.enter(r, "output")
	if err != nil {
		return err
	}
	defer leave()
	raw := accepts(r, "application/octet-stream")
	if raw {
		if err := s.kept(ctx, by, id, q.Offset); err != nil {
			return err
		}
	}
	out, err := s.VMs.Output(ctx, by, id, q.Offset, q.Follow)
	if err != nil {
		return err
	}
	defer func() { _ = out.Close() }()
	var write func(domain.OutputEvent) error
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if raw {
		h.Set("Content-Type", "application/octet-stream")
		write = func(ev domain.OutputEvent) error {
			if ev.Gap != nil {
				return notKept(ev.Gap)
			}
			_, err := w.Write(ev.Data)
			return err
		}
	} else {
		h.Set("Content-Type", "application/x-ndjson")
		var buf []byte
		write = func(ev domain.OutputEvent) error {
			buf = append(appendEvent(buf[:0], ev), '\n')
			_, err := w.Write(buf)
			return err
		}
	}
	w.WriteHeader(http.StatusOK)
	control := http.NewResponseController(w)
	if q.Follow {
		if err := control.Flush(); err != nil {
			return nil // the client is gone
		}
	}
	return each(ctx, out, q.Stream, func(ev domain.OutputEvent) error {
		if err := write(ev); err != nil || !q.Follow {
			return err
		}
		return control.Flush()
	})
}

// kept makes sure that output at an offset is still kept: bytes alone cannot
// tell of a gap, so one must not begin with it. Returns OutOfRange.
func (s *Streams) kept(ctx context.Context, by vmm.Caller, id domain.ID, offset int64) error {
	out, err := s.VMs.Output(ctx, by, id, offset, false)
	if err != nil {
		return err
	}
	defer func() { _ = out.Close() }()
	ev, err := out.Next(ctx)
	switch {
	case errors.Is(err, io.EOF):
		return nil
	case err == nil && ev.Gap != nil:
		return notKept(ev.Gap)
	}
	return err
}

// notKept is a gap where only bytes are wanted. In the middle of an answer it
// breaks the connection: the reader was slower than the journal is long.
func notKept(gap *domain.OutputGap) error {
	return errors.New(errors.OutOfRange, "the output before offset %d is no longer kept", gap.To).WithField("query.offset").
		WithHint("offset=%d reads what is kept; as JSON or events the answer tells of the gap itself", gap.To)
}

// OutputSSE serves an execution's output as server-sent events, following it
// to its end. Last-Event-ID, where there is one, is where to go on.
func (s *Streams) OutputSSE(w http.ResponseWriter, r *http.Request, by vmm.Caller, id domain.ID, q OutputQuery) error {
	if last := r.Header.Get("Last-Event-ID"); last == endID {
		w.WriteHeader(http.StatusNoContent)
		return nil
	} else if last != "" {
		n, err := strconv.ParseInt(last, 10, 64)
		if err != nil || n < 0 {
			return errors.New(errors.InvalidArgument, "Last-Event-ID is not one of this stream").WithField("header.Last-Event-ID")
		}
		q.Offset = n
	}
	ctx, leave, err := s.enter(r, "output")
	if err != nil {
		return err
	}
	defer leave()
	out, err := s.VMs.Output(ctx, by, id, q.Offset, true)
	if err != nil {
		return err
	}
	defer func() { _ = out.Close() }()
	events, err := startSSE(w, s.Ping)
	if err != nil {
		return nil // the client is gone already
	}
	defer events.close()
	if q.Started != nil {
		if err := events.event("started", strconv.FormatInt(q.Offset, 10), q.Started); err != nil {
			return nil
		}
	}
	var text []byte
	events.fail(ctx, each(ctx, out, q.Stream, func(ev domain.OutputEvent) error {
		text = appendEvent(text[:0], ev)
		switch {
		case ev.End != nil:
			return events.eventText("exit", endID, text)
		case ev.Gap != nil:
			return events.eventText("gap", strconv.FormatInt(ev.Gap.To, 10), text)
		}
		return events.eventText(ev.Stream.String(), strconv.FormatInt(ev.Offset+int64(len(ev.Data)), 10), text)
	}))
	return nil
}

// each hands on the events of one stream, or of all, until the last.
func each(ctx context.Context, out vmm.OutputReader, only domain.OutputStream, f func(domain.OutputEvent) error) error {
	var next int64
	for {
		ev, err := out.Next(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		switch {
		case ev.End != nil:
			ev.Offset = max(next, ev.Offset)
		case ev.Gap == nil:
			next = ev.Offset + int64(len(ev.Data))
			if only != 0 && ev.Stream != only {
				continue
			}
		}
		if err := f(ev); err != nil {
			return err
		}
		if ev.End != nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

// appendEvent appends a wire.OutputEvent in JSON. It is written out by hand
// because it is the hot path of every stream over HTTP: encoding/json would
// copy the data three times.
func appendEvent(b []byte, ev domain.OutputEvent) []byte {
	b = append(b, `{"offset":`...)
	switch {
	case ev.End != nil:
		b = strconv.AppendInt(b, ev.Offset, 10)
		b = append(b, `,"next_offset":`...)
		b = strconv.AppendInt(b, ev.Offset, 10)
		b = append(b, `,"end":{"exit_code":`...)
		b = strconv.AppendInt(b, int64(ev.End.ExitCode), 10)
		if ev.End.Signal != 0 {
			b = append(b, `,"signal":`...)
			b = strconv.AppendInt(b, int64(ev.End.Signal), 10)
		}
		if ev.End.TimedOut {
			b = append(b, `,"timed_out":true`...)
		}
		if ev.End.LostReason != "" {
			b = append(b, `,"lost_reason":`...)
			b = appendJSONString(b, ev.End.LostReason)
		}
		b = append(b, `,"output_bytes":`...)
		b = strconv.AppendInt(b, ev.Offset, 10)
		return append(b, "}}"...)
	case ev.Gap != nil:
		b = strconv.AppendInt(b, ev.Gap.From, 10)
		b = append(b, `,"next_offset":`...)
		b = strconv.AppendInt(b, ev.Gap.To, 10)
		b = append(b, `,"gap":{"from":`...)
		b = strconv.AppendInt(b, ev.Gap.From, 10)
		b = append(b, `,"to":`...)
		b = strconv.AppendInt(b, ev.Gap.To, 10)
		return append(b, "}}"...)
	}
	b = strconv.AppendInt(b, ev.Offset, 10)
	b = append(b, `,"next_offset":`...)
	b = strconv.AppendInt(b, ev.Offset+int64(len(ev.Data)), 10)
	b = append(b, `,"stream":"`...)
	b = append(b, ev.Stream.String()...)
	b = append(b, `","data":"`...)
	b = base64.StdEncoding.AppendEncode(b, ev.Data)
	return append(b, `"}`...)
}
