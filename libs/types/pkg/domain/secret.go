package domain

import (
	"strings"
	"unicode/utf8"
)

// MaxSecrets bounds the stored secrets of a project.
const MaxSecrets = 1000

// ValidateSecretValue checks the value of a stored secret: what an environment
// variable can hold. The error does not repeat it.
func ValidateSecretValue(field, value string) error {
	switch {
	case value == "":
		return invalid(field, "the value is empty").WithHint("a secret that is no longer needed is deleted")
	case len(value) > MaxSecretBytes:
		return invalid(field, "the value has %d bytes, at most %d are allowed", len(value), MaxSecretBytes)
	case strings.IndexByte(value, 0) >= 0:
		return invalid(field, "the value holds a NUL byte").WithHint("encode binary values, for example as base64")
	case !utf8.ValidString(value):
		return invalid(field, "the value is not UTF-8").WithHint("encode binary values, for example as base64")
	}
	return nil
}
