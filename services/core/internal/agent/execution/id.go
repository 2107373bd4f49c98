package execution

import "crypto/rand"

// An execution's ID has the form of domain.ID. The domain package is not
// imported: the regular expressions that it compiles at start cost a
// millisecond, here in the start of every VM.
const (
	idLength   = 20
	idAlphabet = "abcdefghijklmnopqrstuvwxyz0123456789"
)

func isID(s string) bool {
	if len(s) != idLength {
		return false
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return true
}

func newID() string {
	id := make([]byte, 0, idLength)
	var random [2 * idLength]byte
	for {
		_, _ = rand.Read(random[:]) // never fails (crypto/rand)
		for _, b := range random {
			// 252 is 7·36: without the rest every letter is equally likely.
			if b < 252 {
				id = append(id, idAlphabet[int(b)%len(idAlphabet)])
			}
			if len(id) == idLength {
				return string(id)
			}
		}
	}
}
