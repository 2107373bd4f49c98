package access

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// The prefixes of keys, so that scanners for leaked secrets find them.
const (
	KeyPrefix    = "aeth_"
	KeyPrefixE2B = "e2b_" // which E2B's clients want to see
)

const (
	keyHexDigits = 40 // 160 random bits: too many to guess, so a fast hash will do
	shownDigits  = 4  // enough for people to tell keys apart
)

// Hash is what is stored of a key: SHA-256 of its text.
type Hash [sha256.Size]byte

// MintKey makes a new key with a prefix, and what to store of it.
func MintKey(prefix string) (text string, hash Hash) {
	var b [keyHexDigits / 2]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand aborts the process instead
	text = prefix + hex.EncodeToString(b[:])
	return text, HashKey(text)
}

// HashKey is what is stored of a key.
func HashKey(text string) Hash { return sha256.Sum256([]byte(text)) }

// Shown is the beginning of a key's text, which may be seen.
func Shown(text string) string {
	return text[:min(len(text), len(prefixOf(text))+shownDigits)]
}

func prefixOf(text string) string {
	for _, prefix := range []string{KeyPrefix, KeyPrefixE2B} {
		if strings.HasPrefix(text, prefix) {
			return prefix
		}
	}
	return ""
}

// LooksLikeKey reports whether a text has the form of a key.
func LooksLikeKey(text string) bool {
	prefix := prefixOf(text)
	if prefix == "" || len(text) != len(prefix)+keyHexDigits {
		return false
	}
	for i := len(prefix); i < len(text); i++ {
		c := text[i]
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
