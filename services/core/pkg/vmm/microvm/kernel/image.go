package kernel

import (
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"encoding/binary"
	"io"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz"
	"github.com/ulikunitz/xz/lzma"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// The header of a bzImage (Documentation/arch/x86/boot.rst).
const (
	setupSects    = 0x1f1
	headerMagic   = 0x202
	headerVersion = 0x206
	kernelVersion = 0x20e
	payloadOffset = 0x248
	payloadLength = 0x24c
	minHeader     = 0x250
	withPayload   = 0x0208 // the protocol's version since which the payload's place is told
)

// maxVmlinux bounds what a payload may unpack to.
const maxVmlinux = 512 << 20

const elfMagic = "\x7fELF"

func isELF(image []byte) bool { return bytes.HasPrefix(image, []byte(elfMagic)) }

func isBzImage(image []byte) bool {
	return len(image) >= minHeader && string(image[headerMagic:headerMagic+4]) == "HdrS"
}

// vmlinux gives the uncompressed kernel that is in an image.
// Returns InvalidArgument, Unsupported.
func vmlinux(image []byte) ([]byte, error) {
	switch {
	case isELF(image):
		return image, nil
	case !isBzImage(image):
		return nil, errors.New(errors.InvalidArgument, "the kernel is neither a bzImage nor a vmlinux")
	case binary.LittleEndian.Uint16(image[headerVersion:]) < withPayload:
		return nil, errors.New(errors.Unsupported, "the kernel's boot protocol is older than 2.08")
	}
	sects := int(image[setupSects])
	if sects == 0 {
		sects = 4
	}
	start := (sects+1)*512 + int(binary.LittleEndian.Uint32(image[payloadOffset:]))
	length := int(binary.LittleEndian.Uint32(image[payloadLength:]))
	if length < 8 || start+length > len(image) {
		return nil, errors.New(errors.InvalidArgument, "the kernel image is cut off")
	}
	out, err := unpack(image[start : start+length])
	if err != nil {
		return nil, err
	}
	if !isELF(out) {
		return nil, errors.New(errors.InvalidArgument, "the kernel image holds no ELF file")
	}
	return out, nil
}

// unpack undoes a payload's compression. The kernel's build appends the size to
// all but gzip's, whose own end it is, and that of plain ones.
func unpack(payload []byte) ([]byte, error) {
	if isELF(payload) {
		return payload, nil
	}
	size := int64(binary.LittleEndian.Uint32(payload[len(payload)-4:]))
	packed := payload
	if !bytes.HasPrefix(payload, []byte{0x1f, 0x8b}) {
		packed = payload[:len(payload)-4]
	}
	if size > maxVmlinux {
		return nil, errors.New(errors.InvalidArgument, "the kernel unpacks to more than %d bytes", maxVmlinux)
	}
	r, err := decompressor(packed)
	if err != nil {
		return nil, err
	}
	out := bytes.NewBuffer(make([]byte, 0, size+bytes.MinRead))
	if _, err := io.Copy(out, io.LimitReader(r, size+1)); err != nil {
		return nil, errors.Wrap(err, errors.InvalidArgument, "the kernel cannot be unpacked")
	}
	if int64(out.Len()) != size {
		return nil, errors.New(errors.InvalidArgument, "the kernel unpacks to %d bytes instead of %d", out.Len(), size)
	}
	return out.Bytes(), nil
}

// decompressor reads a compressed file by what it begins with.
func decompressor(packed []byte) (io.Reader, error) {
	in := bytes.NewReader(packed)
	var r io.Reader
	var err error
	switch {
	case bytes.HasPrefix(packed, []byte{0x1f, 0x8b}):
		r, err = gzip.NewReader(in)
	case bytes.HasPrefix(packed, []byte{0x02, 0x21, 0x4c, 0x18}), bytes.HasPrefix(packed, []byte{0x04, 0x22, 0x4d, 0x18}):
		r = lz4.NewReader(in)
	case bytes.HasPrefix(packed, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		r, err = xz.NewReader(in)
	case bytes.HasPrefix(packed, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		var z *zstd.Decoder
		if z, err = zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxVmlinux)); err == nil {
			r = z.IOReadCloser()
		}
	case bytes.HasPrefix(packed, []byte("BZh")):
		r = bzip2.NewReader(in)
	case bytes.HasPrefix(packed, []byte{0x5d, 0, 0}):
		r, err = lzma.NewReader(in)
	default:
		return nil, errors.New(errors.Unsupported, "the kernel is compressed in an unknown way").
			WithHint("gzip, lz4, xz, zstd, bzip2 and lzma are known")
	}
	if err != nil {
		return nil, errors.Wrap(err, errors.InvalidArgument, "the kernel cannot be unpacked")
	}
	return r, nil
}

// version finds the kernel's release, as `uname -r` tells it.
func version(image []byte) (string, error) {
	var text []byte
	if isBzImage(image) {
		if at := int(binary.LittleEndian.Uint16(image[kernelVersion:])) + 0x200; at < len(image) {
			text = image[at:]
		}
	} else if _, after, ok := bytes.Cut(image, []byte("Linux version ")); ok {
		text = after
	}
	text = text[:min(len(text), 128)]
	if end := bytes.IndexAny(text, " \x00"); end > 0 {
		if v := string(text[:end]); strings.Trim(v, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-+_~") == "" {
			return v, nil
		}
	}
	return "", errors.New(errors.InvalidArgument, "the kernel does not tell its version")
}
