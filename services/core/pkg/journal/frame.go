package journal

import (
	"encoding/binary"
	"hash/crc32"
	"math"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// magic begins every segment file; the digit is the format's version.
const magic = "AEJRNL1\n"

// A frame is, little endian: CRC-32C of all that follows (4 bytes), length of
// the data (4), offset of its first byte (8), kind (1), data.
const (
	frameHeader = 17
	// maxFrameData bounds a frame and with it a reader's buffer. Journals of
	// before have frames of at most 64 KiB.
	maxFrameData = 256 << 10
)

// kindEnd marks the frame that holds the [domain.ExecutionEnd] as JSON. The
// other kinds are the values of [domain.OutputStream].
// kindBegin marks an empty journal's first record; its data is the caller's note.
const (
	kindEnd   = 0xFF
	kindBegin = 0xFE
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type frame struct {
	kind   byte
	offset int64
	data   []byte
}

// size is the frame's length in the file.
func (f frame) size() int { return frameHeader + len(f.data) }

func appendFrame(dst []byte, f frame) []byte { return append(appendFrameHeader(dst, f), f.data...) }

// appendFrameHeader appends what comes before the frame's data.
func appendFrameHeader(dst []byte, f frame) []byte {
	start := len(dst)
	dst = append(dst, 0, 0, 0, 0)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(f.data)))
	dst = binary.LittleEndian.AppendUint64(dst, uint64(f.offset))
	dst = append(dst, f.kind)
	sum := crc32.Update(crc32.Checksum(dst[start+4:], castagnoli), castagnoli, f.data)
	binary.LittleEndian.PutUint32(dst[start:], sum)
	return dst
}

type verdict int

const (
	whole verdict = iota
	short         // may become whole with more bytes
	broken
)

// parseFrame reads the frame that src begins with. Its data points into src.
func parseFrame(src []byte) (frame, verdict) {
	if len(src) < frameHeader {
		return frame{}, short
	}
	n := binary.LittleEndian.Uint32(src[4:])
	offset := binary.LittleEndian.Uint64(src[8:])
	kind := src[16]
	if n > maxFrameData || offset > math.MaxInt64-maxFrameData || !knownKind(kind) {
		return frame{}, broken
	}
	if len(src) < frameHeader+int(n) {
		return frame{}, short
	}
	src = src[:frameHeader+int(n)]
	if binary.LittleEndian.Uint32(src) != crc32.Checksum(src[4:], castagnoli) {
		return frame{}, broken
	}
	return frame{kind: kind, offset: int64(offset), data: src[frameHeader:]}, whole
}

// holdsOutput reports whether a frame of kind k has bytes of the output.
func holdsOutput(k byte) bool { return k != kindEnd && k != kindBegin }

func knownKind(k byte) bool {
	switch domain.OutputStream(k) {
	case domain.Stdout, domain.Stderr, domain.PTY:
		return true
	}
	return k == kindEnd || k == kindBegin
}
