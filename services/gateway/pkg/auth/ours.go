package auth

import (
	"encoding/base64"
	"encoding/json"
	"strings"

	"github.com/aetherium/aetherium/services/core/pkg/access"
)

// HoldsOurs reports whether a header's value holds a key or an access token of
// this installation's kind, which must not go on to anybody else.
func HoldsOurs(value string) bool {
	if strings.Contains(value, access.KeyPrefix) || strings.Contains(value, access.KeyPrefixE2B) {
		return true
	}
	for word := range strings.FieldsSeq(value) {
		head, _, _ := strings.Cut(word, ".")
		raw, err := base64.RawURLEncoding.DecodeString(head)
		if err != nil {
			continue
		}
		var h struct {
			Type string `json:"typ"`
		}
		if json.Unmarshal(raw, &h) == nil && h.Type == TokenType {
			return true
		}
	}
	return false
}
