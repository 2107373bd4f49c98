package main

import (
	"context"
	"io"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/guest/mux"
)

// stdio is the host's channel where a machine's standard input and output are
// one: what the process inherited as those, while they are something else for
// the agent and all that it starts.
type stdio struct{ in, out *os.File }

// takeStdio takes over the standard descriptors. Standard output goes where
// standard error does from now on, so that no stray word comes into the stream.
func takeStdio() (*stdio, error) {
	take := func(fd int) (*os.File, error) {
		own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			return nil, os.NewSyscallError("fcntl", err)
		}
		// A Read that blocks must have an end.
		if err := unix.SetNonblock(own, true); err != nil {
			return nil, os.NewSyscallError("fcntl", err)
		}
		f := os.NewFile(uintptr(own), "stdio")
		if err := f.SetDeadline(time.Time{}); err != nil {
			return nil, errors.Plain("standard input and output must be pipes or sockets")
		}
		return f, nil
	}
	in, err := take(unix.Stdin)
	if err != nil {
		return nil, err
	}
	out, err := take(unix.Stdout)
	if err != nil {
		return nil, err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = null.Close() }()
	if err := unix.Dup3(int(null.Fd()), unix.Stdin, 0); err != nil {
		return nil, os.NewSyscallError("dup3", err)
	}
	if err := unix.Dup3(unix.Stderr, unix.Stdout, 0); err != nil {
		return nil, os.NewSyscallError("dup3", err)
	}
	return &stdio{in, out}, nil
}

// open yields the stream, again as often as it is asked: what is behind it
// comes and goes, and the descriptors stay.
func (s *stdio) open(context.Context) (io.ReadWriteCloser, error) {
	return s, errors.Join(s.in.SetReadDeadline(time.Time{}), s.out.SetWriteDeadline(time.Time{}))
}

func (s *stdio) Read(b []byte) (int, error)  { return s.in.Read(b) }
func (s *stdio) Write(b []byte) (int, error) { return s.out.Write(b) }

// Close ends a Read and a Write that block.
func (s *stdio) Close() error {
	now := time.Now()
	return errors.Join(s.in.SetReadDeadline(now), s.out.SetWriteDeadline(now))
}

// listenStdio serves connections that the host multiplexes over the standard descriptors.
func listenStdio(log *slog.Logger) (*mux.Mux, error) {
	s, err := takeStdio()
	if err != nil {
		return nil, err
	}
	return mux.New(mux.Guest, s.open, mux.Options{Log: log}), nil
}
