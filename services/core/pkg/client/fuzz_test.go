package client

import (
	"testing"

	"github.com/aetherium/aetherium/libs/types/pkg/api"
)

// Whatever arrives as output, no byte is told twice and none is skipped in silence.
func FuzzOutput(f *testing.F) {
	f.Add(api.AppendFrame(nil, api.FrameStdout, 0, []byte("abc")), int64(0))
	f.Add(api.AppendFrame(nil, api.FrameStderr, 1, []byte("abc")), int64(2))
	f.Add(api.AppendFrame(nil, api.FrameStdout, 9, []byte("abc")), int64(2))
	f.Add(api.AppendFrame(nil, api.FrameStdout, 1<<63-1, []byte("abc")), int64(1<<63-1))
	f.Add([]byte("short"), int64(0))
	f.Fuzz(func(t *testing.T, frame []byte, next int64) {
		if next < 0 {
			return
		}
		s := &Stream{c: &Client{}, next: next, backoff: (&Client{}).backoff()}
		ev, err := s.output(frame)
		if err != nil || ev == nil {
			if s.next != next {
				t.Errorf("from %d to %d without a word", next, s.next)
			}
			return
		}
		if ev.Offset != next || s.next != next+int64(len(ev.Data)) || len(ev.Data) == 0 {
			t.Errorf("at %d: %d bytes at %d, then %d", next, len(ev.Data), ev.Offset, s.next)
		}
	})
}

// Control messages are told for what they are, or the connection is made anew.
func FuzzControl(f *testing.F) {
	for _, text := range []string{`{"type":"exit","exit":{"exit_code":1}}`, `{"type":"gap","from":1,"to":5}`, `{"type":"error","code":"x","message":"%s"}`, `{`, ``, `{"type":1}`} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if m, err := parseControl(text); err == nil && m.Type == api.ControlError && controlError(m) == nil {
			t.Errorf("%q is no error", text)
		}
	})
}
