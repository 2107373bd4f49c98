package cli

import (
	"context"
	"io"
	"os"
)

// input is stdin for commands that read it themselves. See interruptible.
func (a *app) input(ctx context.Context) io.Reader { return interruptible(ctx, a.Stdin) }

// interruptible reads r until ctx ends: a signal that ends a command is not to
// wait for whoever has the other end of a pipe. The read that was under way is
// left behind; the process ends soon after.
func interruptible(ctx context.Context, r io.Reader) io.Reader {
	return &interruptibleReader{ctx: ctx, r: r, done: make(chan chunk, 1)}
}

type interruptibleReader struct {
	ctx  context.Context
	r    io.Reader
	done chan chunk
	buf  []byte // the read's own, as it may outlive a caller's
	left chunk
}

type chunk struct {
	data []byte
	err  error
}

// Read implements io.Reader.
func (i *interruptibleReader) Read(p []byte) (int, error) {
	if len(i.left.data) == 0 && i.left.err == nil {
		if i.ctx.Err() != nil {
			return 0, context.Cause(i.ctx)
		}
		if i.buf == nil {
			i.buf = make([]byte, 64<<10)
		}
		go func() {
			n, err := i.r.Read(i.buf)
			i.done <- chunk{i.buf[:n], err}
		}()
		select {
		case i.left = <-i.done:
		case <-i.ctx.Done():
			i.left.err = context.Cause(i.ctx)
			return 0, i.left.err
		}
	}
	n := copy(p, i.left.data)
	if i.left.data = i.left.data[n:]; len(i.left.data) > 0 {
		return n, nil
	}
	return n, i.left.err
}

// localFile is a file of the user's that is read.
type localFile struct {
	io.Reader
	f *os.File
}

func (l localFile) Stat() (os.FileInfo, error) { return l.f.Stat() }
func (l localFile) Close() error               { return l.f.Close() }

// openLocal opens a file, which may be a pipe that nobody writes to yet: the
// opening and the reading end when ctx does.
func openLocal(ctx context.Context, name string) (localFile, error) {
	type opened struct {
		f   *os.File
		err error
	}
	done := make(chan opened, 1)
	go func() {
		f, err := os.Open(name)
		done <- opened{f, err}
	}()
	select {
	case o := <-done:
		return localFile{interruptible(ctx, o.f), o.f}, o.err
	case <-ctx.Done():
		return localFile{}, context.Cause(ctx)
	}
}
