package journal

import (
	"bytes"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// FuzzScanTail feeds the recovery arbitrary files. What it accepts must be a
// prefix of the file that, written again, is the same.
func FuzzScanTail(f *testing.F) {
	seg := appendFrame([]byte(magic), frame{kind: byte(domain.Stdout), offset: 5, data: []byte("hello")})
	seg = appendFrame(seg, frame{kind: byte(domain.Stderr), offset: 10, data: nil})
	ended := appendFrame(bytes.Clone(seg), frame{kind: kindEnd, offset: 10, data: []byte(`{"exit_code":3}`)})
	f.Add(seg, int64(5))
	f.Add(ended, int64(5))
	f.Add(ended[:len(ended)-3], int64(5))
	f.Add([]byte(magic+"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), int64(0))
	f.Fuzz(func(t *testing.T, data []byte, base int64) {
		if base < 0 || base > maxOffset {
			return
		}
		got := scanTail(data, base)
		if got.size < 0 || got.size > int64(len(data)) || got.next < base || got.next-base > int64(len(data)) {
			t.Fatalf("%+v of %d bytes at %d", got, len(data), base)
		}
		if again := scanTail(data[:got.size], base); again.size != got.size || again.next != got.next || (again.end == nil) != (got.end == nil) {
			t.Fatalf("%+v, then %+v", got, again)
		}
	})
}

// FuzzParseFrame checks that whatever parses is what would have been written.
func FuzzParseFrame(f *testing.F) {
	f.Add(appendFrame(nil, frame{kind: byte(domain.PTY), offset: 1 << 40, data: []byte("x")}))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		fr, v := parseFrame(data)
		if v == whole && !bytes.Equal(appendFrame(nil, fr), data[:fr.size()]) {
			t.Fatal("not canonical")
		}
	})
}

func FuzzParseSegmentName(f *testing.F) {
	k := Key{VM: "aaaaaaaaaaaaaaaaaaaa", Epoch: 7, Execution: "bbbbbbbbbbbbbbbbbbbb"}
	f.Add(segmentName(k, 0))
	f.Add(segmentName(k, 1<<60))
	f.Add("aaaaaaaaaaaaaaaaaaaa-07-bbbbbbbbbbbbbbbbbbbb-0.j")
	f.Fuzz(func(t *testing.T, name string) {
		if k, base, ok := parseSegmentName(name); ok && segmentName(k, base) != name {
			t.Fatalf("%q is not canonical", name)
		}
	})
}

// FuzzParseRecord reads a damaged pack as recovery does.
func FuzzParseRecord(f *testing.F) {
	k := Key{VM: "aaaaaaaaaaaaaaaaaaaa", Epoch: 7, Execution: "bbbbbbbbbbbbbbbbbbbb"}
	rec := appendRecord(nil, k, frame{kind: byte(domain.Stderr), offset: 9, data: []byte("data")}, time.Unix(1, 2))
	f.Add(rec)
	f.Add(appendDead(rec, 100))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, ok := parseRecord(data)
		if !ok {
			return
		}
		if r.size < packPrefix+frameHeader || r.size > len(data) {
			t.Fatalf("size %d of %d", r.size, len(data))
		}
		if !r.dead && !bytes.Equal(appendRecord(nil, r.key, r.f, r.at), data[:r.size]) {
			t.Fatal("not canonical")
		}
	})
}
