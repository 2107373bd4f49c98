package e2b

import (
	"encoding/hex"
	"math/big"
	"strings"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// The IDs of builds are UUIDs to E2B's clients, which some of them insist on.
// Ours, twenty digits to the base of 36, fit into one of version 8, whose 122
// free bits are its maker's (RFC 9562 §5.8).
const (
	base     = 36
	idDigits = "abcdefghijklmnopqrstuvwxyz0123456789" // of ours, by value
	digits   = "0123456789abcdefghijklmnopqrstuvwxyz" // of package big's
)

// buildID writes an ID as a UUID.
func buildID(id domain.ID) string {
	n, ok := new(big.Int).SetString(translate(id.String(), idDigits, digits), base)
	if !domain.IsID(id.String()) || !ok {
		return id.String()
	}
	var raw [13]byte // 36^20 < 2^104
	n.FillBytes(raw[:])
	text := hex.EncodeToString(raw[:])
	return text[:8] + "-" + text[8:12] + "-8" + text[12:15] + "-800" + text[15:16] + "-" + text[16:] + "00"
}

// fromBuildID reads a UUID of buildID's; anything else stays as it is.
func fromBuildID(text string) string {
	parts := strings.Split(text, "-")
	if len(text) != 36 || len(parts) != 5 || len(parts[2]) != 4 || len(parts[3]) != 4 || len(parts[4]) != 12 {
		return text
	}
	raw := parts[0] + parts[1] + parts[2][1:] + parts[3][3:] + parts[4][:10]
	n, ok := new(big.Int).SetString(raw, 16)
	if !ok {
		return text
	}
	out := n.Text(base)
	if len(out) > 20 {
		return text
	}
	id := translate(strings.Repeat("0", 20-len(out))+out, digits, idDigits)
	if buildID(domain.ID(id)) != text {
		return text
	}
	return id
}

// translate replaces each letter of one alphabet by that of another.
func translate(s, from, to string) string {
	return strings.Map(func(r rune) rune {
		if i := strings.IndexRune(from, r); i >= 0 {
			return rune(to[i])
		}
		return r
	}, s)
}
