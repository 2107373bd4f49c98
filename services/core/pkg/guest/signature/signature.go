// Package signature is how URLs of single files in a VM are signed: whoever
// holds one may read, or write, that file, and nothing else.
package signature

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"net/url"
	"strconv"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

const version = "v1_"

// Operation is what a signature allows.
type Operation string

// The operations.
const (
	Read  Operation = "read"
	Write Operation = "write"
)

// Make signs a path for one operation by an OS user ("": the default one) with
// the VM's token; expiration is in Unix seconds, or empty. (Of the texts that
// are joined only the path can hold a colon in a way that matters, and it comes
// first with a fixed word after it.)
func Make(path string, op Operation, username, token, expiration string) string {
	text := path + ":" + string(op) + ":" + username + ":" + token
	if expiration != "" {
		text += ":" + expiration
	}
	sum := sha256.Sum256([]byte(text))
	return version + base64.RawStdEncoding.EncodeToString(sum[:])
}

// Check checks the signature in a URL's query. Returns Unauthenticated.
func Check(query url.Values, op Operation, token string, now time.Time) error {
	given := query.Get("signature")
	if given == "" {
		return errors.New(errors.Unauthenticated, "the access token or a signature is missing")
	}
	expiration := query.Get("signature_expiration")
	want := Make(query.Get("path"), op, query.Get("username"), token, expiration)
	if subtle.ConstantTimeCompare([]byte(want), []byte(given)) != 1 {
		return errors.New(errors.Unauthenticated, "the signature does not fit")
	}
	if expiration == "" {
		return nil
	}
	seconds, err := strconv.ParseInt(expiration, 10, 64)
	if err != nil {
		return errors.New(errors.Unauthenticated, "the signature's expiration is not a time")
	}
	if seconds < now.Unix() {
		return errors.New(errors.Unauthenticated, "signature is already expired") // as clients know it
	}
	return nil
}
