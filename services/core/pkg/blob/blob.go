// Package blob keeps content under its SHA-256, where every worker of an
// installation reaches it: in a directory that they share, or in object storage
// that speaks S3. What is read is compared with its name; what is written is
// there whole or not at all.
package blob

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"io"
	"regexp"
	"strings"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// Digest names content: "sha256:" and 64 hexadecimal digits.
type Digest string

const algorithm = "sha256:"

var form = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// DigestOf is the digest whose hash was computed.
func DigestOf(h hash.Hash) Digest { return Digest(algorithm + hex.EncodeToString(h.Sum(nil))) }

func (d Digest) hex() (string, error) {
	if !form.MatchString(string(d)) {
		return "", errors.New(errors.InvalidArgument, "%.80q is not a digest", string(d))
	}
	return strings.TrimPrefix(string(d), algorithm), nil
}

// Info is what a store tells of a blob.
type Info struct {
	Digest  Digest
	Bytes   int64
	Written time.Time // the last time that it was put
}

// Store keeps blobs. It is safe for concurrent use, by many hosts.
type Store interface {
	// Name says where blobs are, without credentials: stores of one name are one.
	Name() string
	// Put stores what r has up to its end, bytes in all; it counts as written now
	// also where it is there. Returns InvalidArgument where r has other content,
	// NoSpace, Unavailable.
	Put(ctx context.Context, d Digest, bytes int64, r io.Reader) error
	// Get reads a blob. Its reader tells PreconditionFailed in the place of io.EOF
	// where what it gave is something else. Returns NotFound, Unavailable.
	Get(ctx context.Context, d Digest) (io.ReadCloser, error)
	// Delete removes a blob. Absent is success. Returns Unavailable.
	Delete(ctx context.Context, d Digest) error
	// List calls f for each blob until it returns an error.
	List(ctx context.Context, f func(Info) error) error
}

func noBytes(n int64) error {
	return errors.New(errors.InvalidArgument, "a blob cannot have %d bytes", n)
}

// checked compares what is read with a digest, before it gives the last of it:
// whoever knows how many bytes there are may not ask for more.
type checked struct {
	r     io.Reader
	want  Digest
	bytes int64 // that there must be; negative: any
	code  errors.Code
	read  int64
	sum   hash.Hash
}

func check(r io.Reader, want Digest, bytes int64, code errors.Code) *checked {
	return &checked{r: r, want: want, bytes: bytes, code: code, sum: sha256.New()}
}

func (c *checked) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.sum.Write(p[:n])
	c.read += int64(n)
	switch {
	case c.bytes >= 0 && (c.read > c.bytes || err == io.EOF && c.read < c.bytes):
		return 0, errors.New(c.code, "the blob %s has another size than it should have", c.want)
	case (err == io.EOF || c.read == c.bytes) && DigestOf(c.sum) != c.want:
		return 0, errors.New(c.code, "the content is not that of the blob %s", c.want)
	}
	return n, err
}
