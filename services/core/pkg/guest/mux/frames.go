package mux

import (
	"encoding/binary"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

const (
	// frameHead is the length of a yamux frame's header (hashicorp/yamux, spec.md).
	frameHead = 12
	// frameData is the type of the frames that have a body; in the others' headers
	// the length is a number of its own.
	frameData = 0
	// window is how much one connection may have on the way, and so the length of
	// the longest body.
	window = 256 << 10
)

// frames gathers what arrives to whole yamux frames. yamux holds a connection's
// lock while it waits for the rest of a body: a peer that stopped in the middle
// of one would hold whoever reads that connection, beyond its Close.
type frames struct{ part []byte }

// feed takes what arrived and passes on the frames that it completes. An error
// means that the peer breaks the protocol.
func (f *frames) feed(b []byte, pass func([]byte)) error {
	for len(b) > 0 {
		n := min(f.missing(), len(b))
		f.part = append(f.part, b[:n]...)
		b = b[n:]
		switch missing := f.missing(); {
		case missing > window:
			return errors.New(errors.GuestFault, "a frame is larger than the window")
		case missing == 0:
			pass(f.part)
			f.part = f.part[:0]
		}
	}
	return nil
}

// missing is what the frame lacks, as far as that is known.
func (f *frames) missing() int {
	switch {
	case len(f.part) < frameHead:
		return frameHead - len(f.part)
	case f.part[1] != frameData:
		return 0
	}
	return frameHead + int(binary.BigEndian.Uint32(f.part[8:])) - len(f.part)
}
