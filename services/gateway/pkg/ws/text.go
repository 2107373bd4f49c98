package ws

import (
	"context"
	"io"
	"net/http"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// Text serves text as it comes, such as a build's log. open's error is the
// answer; a later one breaks the connection, so that no cut log looks whole.
func (s *Streams) Text(w http.ResponseWriter, r *http.Request, kind string, open func(ctx context.Context) (io.ReadCloser, error)) error {
	return s.copied(w, r, kind, "text/plain; charset=utf-8", open)
}

// Lines is Text of JSON values, one in each line.
func (s *Streams) Lines(w http.ResponseWriter, r *http.Request, kind string, open func(ctx context.Context) (io.ReadCloser, error)) error {
	return s.copied(w, r, kind, "application/x-ndjson", open)
}

func (s *Streams) copied(w http.ResponseWriter, r *http.Request, kind, media string, open func(ctx context.Context) (io.ReadCloser, error)) error {
	ctx, leave, err := s.enter(r, kind)
	if err != nil {
		return err
	}
	defer leave()
	text, err := open(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = text.Close() }()
	// A reader that does not look at its context is released by closing it.
	unhook := context.AfterFunc(ctx, func() { _ = text.Close() })
	defer unhook()
	h := w.Header()
	h.Set("Content-Type", media)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(http.StatusOK)
	control := http.NewResponseController(w)
	if err := control.Flush(); err != nil {
		return nil // the client is gone
	}
	buf := make([]byte, 32<<10)
	for {
		n, err := text.Read(buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return nil // the client is gone
			}
			if err := control.Flush(); err != nil {
				return nil
			}
		}
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}
