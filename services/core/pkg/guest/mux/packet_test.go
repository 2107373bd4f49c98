package mux

import (
	"bytes"
	"hash/crc32"
	"math/rand/v2"
	"testing"
)

func TestStuffing(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	for n := range 1200 {
		for _, zeros := range []int{0, 2, 100} {
			src := make([]byte, n)
			for i := range src {
				src[i] = byte(r.IntN(255) + 1)
				if zeros > 0 && r.IntN(zeros) == 0 {
					src[i] = 0
				}
			}
			s := stuff(nil, src)
			if s[len(s)-1] != 0 || bytes.IndexByte(s[:len(s)-1], 0) >= 0 || len(s) > n+n/254+2 {
				t.Fatalf("%d bytes became %d, with zeros inside: %v", n, len(s), bytes.IndexByte(s[:len(s)-1], 0))
			}
			if got, ok := unstuff(nil, s[:len(s)-1]); !ok || !bytes.Equal(got, src) {
				t.Fatalf("%d bytes did not survive", n)
			}
		}
	}
}

func TestSplitterFindsPacketsInRubbish(t *testing.T) {
	t.Parallel()
	p := packet{kind: data, from: 7, to: 9, count: 3, data: bytes.Repeat([]byte("\x00ab"), 5000)}
	whole := stuff(nil, p.appendTo(nil))
	for name, before := range map[string][]byte{
		"nothing":          nil,
		"a packet cut off": append(bytes.Clone(whole[:len(whole)/2]), 0),
		"zeros":            make([]byte, 100),
		"noise":            append(bytes.Repeat([]byte{0xFF, 0x01, 0x80}, 100_000), 0),
		"a damaged packet": append(append([]byte{whole[0] ^ 1}, whole[1:]...), 0),
	} {
		for _, chunk := range []int{1, 7, 4096, 1 << 20} {
			var got []packet
			s := &splitter{}
			stream := append(bytes.Clone(before), whole...)
			for len(stream) > 0 {
				n := min(chunk, len(stream))
				_ = s.feed(stream[:n], func(p packet) error {
					p.data = bytes.Clone(p.data)
					got = append(got, p)
					return nil
				})
				stream = stream[n:]
			}
			if len(got) != 1 || got[0].count != 3 || !bytes.Equal(got[0].data, p.data) {
				t.Errorf("%s in chunks of %d: found %d packets", name, chunk, len(got))
			}
			if cap(s.part) > 4*maxStuffed {
				t.Errorf("%s: the splitter holds %d bytes", name, cap(s.part))
			}
		}
	}
}

func FuzzSplitter(f *testing.F) {
	one := stuff(nil, packet{kind: hello, from: 1, to: 2}.appendTo(nil))
	f.Add(one, 3)
	f.Add(append([]byte("rubbish\x00"), one...), 1)
	f.Add(bytes.Repeat([]byte{0xFF}, 40000), 100)
	f.Fuzz(func(t *testing.T, stream []byte, chunk int) {
		if chunk < 1 {
			return
		}
		// The packets found do not depend on how the stream is cut into reads.
		collect := func(chunk int) (all [][]byte) {
			s := &splitter{}
			for b := stream; len(b) > 0; {
				n := min(chunk, len(b))
				_ = s.feed(b[:n], func(p packet) error {
					all = append(all, p.appendTo(nil))
					if len(p.data) > maxData {
						t.Fatalf("%d bytes of data", len(p.data))
					}
					return nil
				})
				b = b[n:]
			}
			return all
		}
		a, b := collect(chunk), collect(max(len(stream), 1))
		if len(a) != len(b) {
			t.Fatalf("%d packets, or %d", len(a), len(b))
		}
		for i := range a {
			if !bytes.Equal(a[i], b[i]) {
				t.Fatal("packets differ")
			}
		}
	})
}

func FuzzUnstuff(f *testing.F) {
	f.Add([]byte("hello\x00world"))
	f.Fuzz(func(t *testing.T, src []byte) {
		s := stuff(nil, src)
		if got, ok := unstuff(nil, s[:len(s)-1]); !ok || !bytes.Equal(got, src) {
			t.Fatal("did not survive")
		}
		_, _ = unstuff(nil, src)
	})
}

func TestChecksum(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(3, 4))
	for _, n := range []int{0, 1, 7, 25, short - 1, short, short + 1, maxPacket} {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		if got, want := checksum(b), crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)); got != want {
			t.Errorf("%d bytes: %x, not %x", n, got, want)
		}
	}
}
