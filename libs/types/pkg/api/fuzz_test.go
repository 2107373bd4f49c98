package api_test

import (
	"bytes"
	"testing"

	"github.com/aetherium/aetherium/libs/types/pkg/api"
)

// A frame that can be read is the one that was written.
func FuzzParseFrame(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{1, 0, 0, 0, 0, 0, 0, 0, 5, 'x'})
	f.Add(bytes.Repeat([]byte{0xff}, 20))
	f.Fuzz(func(t *testing.T, frame []byte) {
		kind, offset, data, err := api.ParseFrame(frame)
		if err != nil {
			if len(frame) >= api.FrameHeaderBytes {
				t.Errorf("%x: %v", frame, err)
			}
			return
		}
		if again := api.AppendFrame(nil, kind, offset, data); !bytes.Equal(again, frame) {
			t.Errorf("%x is written as %x", frame, again)
		}
	})
}

func FuzzParseSignal(f *testing.F) {
	for _, s := range []string{"TERM", "SIGKILL", "9", "0", "65", "-1", "sigterm", "SIG", "", "RTMIN+1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if n, err := api.ParseSignal(s); err == nil && (n < 1 || n > 64) {
			t.Errorf("%q is signal %d", s, n)
		}
	})
}
