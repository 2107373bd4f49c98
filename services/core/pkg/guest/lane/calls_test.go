package lane_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	guestv1 "github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/aetherium/guest/v1"
	"github.com/aetherium/aetherium/services/core/pkg/guest/lane"
)

const anyLimit = 1 << 20

func TestCalls(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	host := lane.NewCaller(a)
	long := bytes.Repeat([]byte("0123456789abcdef"), 20_000) // more than what room is made for at once
	go func() {
		from := bufio.NewReader(b)
		if said := make([]byte, len(lane.Hello)); true {
			_, _ = io.ReadFull(from, said)
			if string(said) != lane.Hello {
				t.Errorf("it begins with %q", said)
			}
		}
		agent := lane.NewCallee(b, from)
		if m, message, err := agent.Next(); m != lane.Assume || string(message) != "who" || err != nil {
			t.Errorf("%d, %q, %v", m, message, err)
		}
		_ = agent.Answer(&guestv1.AssumeResponse{})
		if m, message, err := agent.Next(); m != lane.Configure || !bytes.Equal(message, long) || err != nil {
			t.Errorf("%d, %d bytes, %v", m, len(message), err)
		}
		_ = agent.Refuse(connect.CodeNotFound, "no such user")
		if m, _, err := agent.Next(); m != lane.Watch || err != nil {
			t.Errorf("%d, %v", m, err)
		}
		_ = agent.Answer(nil)
		_ = agent.Answer(&guestv1.WatchResponse{Execution: &guestv1.ExecutionInfo{ExecutionId: strings.Repeat("x", 300_000)}})
		_ = b.Close()
	}()
	call := func(m lane.Method, message []byte) ([]byte, error) {
		t.Helper()
		if err := host.Call(m, message); err != nil {
			t.Fatal(err)
		}
		return host.Answer(anyLimit)
	}
	if got, err := call(lane.Assume, []byte("who")); err != nil || len(got) != 0 {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := call(lane.Configure, long); connect.CodeOf(err) != connect.CodeNotFound || !connect.IsWireError(err) || !strings.Contains(err.Error(), "no such user") {
		t.Errorf("%v", err)
	}
	if got, err := call(lane.Watch, nil); err != nil || len(got) != 0 {
		t.Errorf("%q, %v", got, err)
	}
	var m guestv1.WatchResponse
	if got, err := host.Answer(anyLimit); err != nil || proto.Unmarshal(got, &m) != nil || len(m.GetExecution().GetExecutionId()) != 300_000 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if _, err := host.Answer(anyLimit); !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %v", err)
	}
}

func callFrame(kind byte, length uint32, payload string) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{kind}, length), payload...)
}

// What an agent may answer is bounded before there is memory for it.
func TestAnswersOutOfBounds(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		says []byte
		is   func(error) bool
	}{
		"too long":            {callFrame(1, anyLimit+1, ""), func(err error) bool { return errors.HasCode(err, errors.GuestFault) }},
		"as long as can be":   {callFrame(1, 1<<32-1, ""), func(err error) bool { return errors.HasCode(err, errors.GuestFault) }},
		"an unknown kind":     {callFrame(9, 0, ""), func(err error) bool { return errors.HasCode(err, errors.GuestFault) }},
		"a call":              {callFrame(4, 1, "\x01"), func(err error) bool { return errors.HasCode(err, errors.GuestFault) }},
		"an error without":    {callFrame(3, 2, "ab"), func(err error) bool { return errors.HasCode(err, errors.GuestFault) }},
		"half a header":       {[]byte{1, 0}, func(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) }},
		"half a message":      {callFrame(1, 100, "half"), func(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) }},
		"no message":          {callFrame(1, 100, ""), func(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) }},
		"nothing":             {nil, func(err error) bool { return errors.Is(err, io.EOF) }},
		"HTTP, as older ones": {[]byte("HTTP/1.1 400 Bad Request\r\n\r\n"), func(err error) bool { return errors.Is(err, lane.ErrOlder) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b := pair(t)
			go func() { _, _ = b.Write(c.says); _ = b.Close() }()
			if got, err := lane.NewCaller(a).Answer(anyLimit); !c.is(err) {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
}

func TestCallsOutOfBounds(t *testing.T) {
	t.Parallel()
	for name, says := range map[string][]byte{
		"no method":      callFrame(4, 0, ""),
		"too long":       callFrame(4, 8<<20+1, "\x01"),
		"another kind":   callFrame(1, 1, "\x01"),
		"half a message": callFrame(4, 9, "\x01half"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, _ := pair(t)
			if m, _, err := lane.NewCallee(a, bytes.NewReader(says)).Next(); err == nil {
				t.Errorf("taken for a call of %d", m)
			}
		})
	}
}
