package nodelink

import (
	"context"
	"io"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/serverlog"
)

// followLimit bounds how long a worker is waited for until it begins to tell lines.
const followLimit = 5 * time.Second

type (
	readLogs struct {
		Filter serverlog.Filter
		Page   serverlog.Page
	}
	followLogs struct {
		Filter serverlog.Filter
		After  string
	}
)

// logs serves what the node's process has logged; from may be nil: to no file.
func (s *server) logs(from serverlog.Source) {
	noFile := func() error {
		return errors.New(errors.NotFound, "log.file is not set at the worker")
	}
	answers(s, "logs.read", func(ctx context.Context, in readLogs) (serverlog.List, error) {
		if from == nil {
			return serverlog.List{}, noFile()
		}
		if in.Page.Limit < 1 || in.Page.Limit > serverlog.MaxLimit {
			return serverlog.List{}, errors.New(errors.InvalidArgument, "a page has 1 to %d lines", serverlog.MaxLimit)
		}
		return from.Read(ctx, in.Filter, in.Page)
	})
	streams(s, "logs.follow", func(ctx context.Context, in followLogs, _ io.Reader, out *answer) error {
		if from == nil {
			return noFile()
		}
		if err := from.Check(in.After); err != nil {
			return err
		}
		if err := out.begin(none{}); err != nil {
			return err
		}
		return from.Follow(ctx, in.Filter, in.After, serverlog.Listener{Line: func(e serverlog.Entry) error {
			text, err := line(e)
			if err == nil {
				_, err = out.Write(text)
			}
			return err
		}})
	})
}

// ReadLogs gives what the node's process has logged. Returns NotFound where that
// is in no file, Unsupported where the node does not know how.
func (c *Client) ReadLogs(ctx context.Context, f serverlog.Filter, p serverlog.Page) (serverlog.List, error) {
	return call[serverlog.List](ctx, c, "logs.read", readLogs{f, p})
}

// FollowLogs tells what the node's process logs, behind a line or as the filter
// says, until ctx ends or tell fails. Its errors are those of ReadLogs.
func (c *Client) FollowLogs(ctx context.Context, f serverlog.Filter, after string, tell func(serverlog.Entry) error) error {
	life, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	late := time.AfterFunc(followLimit, func() { cancel(context.DeadlineExceeded) })
	r, err := c.open(life, "logs.follow", followLogs{f, after}, nil, new(none))
	if !late.Stop() && ctx.Err() == nil {
		if err == nil {
			_ = r.Close()
		}
		return context.DeadlineExceeded
	}
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	for {
		var e serverlog.Entry
		if err := readLine(r.Reader, &e); err != nil {
			if errors.Is(err, io.ErrUnexpectedEOF) {
				if told := trailed(r.response.Trailer); told != nil {
					return told
				}
			}
			return unreachable(ctx, err)
		}
		if err := tell(e); err != nil {
			return err
		}
	}
}
