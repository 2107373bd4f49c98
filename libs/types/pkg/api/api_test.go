package api_test

import (
	"bytes"
	"testing"

	"github.com/aetherium/aetherium/libs/types/pkg/api"
)

func TestFrames(t *testing.T) {
	t.Parallel()
	for _, offset := range []int64{0, 1, 1 << 40, api.AppendOffset} {
		frame := api.AppendFrame([]byte("kept"), api.FrameStderr, offset, []byte("data"))[4:]
		kind, at, data, err := api.ParseFrame(frame)
		if kind != api.FrameStderr || at != offset || !bytes.Equal(data, []byte("data")) || err != nil {
			t.Errorf("%d: %d %d %q %v", offset, kind, at, data, err)
		}
	}
	if _, _, _, err := api.ParseFrame(make([]byte, api.FrameHeaderBytes-1)); err == nil {
		t.Error("a short frame was taken")
	}
	if _, _, data, err := api.ParseFrame(make([]byte, api.FrameHeaderBytes)); err != nil || len(data) != 0 {
		t.Errorf("an empty frame: %q %v", data, err)
	}
}

func TestParseSignal(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int{"TERM": 15, "SIGTERM": 15, "sigkill": 9, "int": 2, "15": 15, "64": 64, "WINCH": 28, "USR2": 12} {
		if got, err := api.ParseSignal(text); got != want || err != nil {
			t.Errorf("%s: %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "0", "65", "-1", "SIG", "TERMINATE", "1e1"} {
		if got, err := api.ParseSignal(text); err == nil {
			t.Errorf("%q: %d", text, got)
		}
	}
}
