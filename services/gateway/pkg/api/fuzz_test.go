package api

import "testing"

// A range that is taken lies within the file.
func FuzzRange(f *testing.F) {
	for _, h := range []string{"bytes=0-", "bytes=-1", "bytes=5-4", "bytes=0-0,2-3", "bytes= 1-2", "bytes=9223372036854775807-", "bytes=-0", "items=1-2", "bytes=1", ""} {
		f.Add(h, int64(10))
	}
	f.Add("bytes=0-", int64(0))
	f.Fuzz(func(t *testing.T, header string, size int64) {
		if size < 0 {
			return
		}
		s, ok, err := parseRange(header, size)
		if ok && err != nil || ok && (s.start < 0 || s.length <= 0 || s.start > size-s.length) {
			t.Errorf("%q of %d bytes: %+v, %t, %v", header, size, s, ok, err)
		}
	})
}
