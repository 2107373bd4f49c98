package domain

import (
	"crypto/rand"
	"crypto/sha256"
	"regexp"
	"strings"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// ID names a thing: twenty characters of [a-z0-9], no prefix, so that it fits
// a DNS label beside a port (RFC 1035 §2.3.1) and an E2B sandbox ID. Templates
// and snapshots share one namespace.
type ID string

const (
	idLen      = 20
	idAlphabet = "abcdefghijklmnopqrstuvwxyz0123456789"
)

var idForm = regexp.MustCompile(`^[a-z0-9]{20}$`)

// NewID mints a random ID (about 103 bits). It never fails: crypto/rand aborts
// the process when the kernel has no randomness.
func NewID() ID {
	out := make([]byte, 0, idLen)
	var buf [32]byte
	for len(out) < idLen {
		_, _ = rand.Read(buf[:])
		for _, b := range buf {
			// 252 = 7*36: reject the tail so that every letter is equally likely.
			if b < 252 && len(out) < idLen {
				out = append(out, idAlphabet[int(b)%len(idAlphabet)])
			}
		}
	}
	return ID(out)
}

// DerivedID is the ID that parts always give, the same everywhere. None of them
// may contain a newline.
func DerivedID(parts ...string) ID {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\n")))
	id := make([]byte, idLen)
	for i := range id {
		id[i] = idAlphabet[int(sum[i])%len(idAlphabet)]
	}
	return ID(id)
}

// ParseID checks the form of an ID from outside. Returns InvalidArgument.
func ParseID(s string) (ID, error) {
	if !idForm.MatchString(s) {
		return "", errors.New(errors.InvalidArgument, "%q is not an ID", clip(s, 64)).WithHint("an ID is 20 characters of a-z and 0-9")
	}
	return ID(s), nil
}

// IsID reports whether s has the form of an ID.
func IsID(s string) bool { return idForm.MatchString(s) }

func (id ID) String() string { return string(id) }

func clip(s string, n int) string {
	if len(s) > n {
		return s[:n] + "…"
	}
	return s
}
