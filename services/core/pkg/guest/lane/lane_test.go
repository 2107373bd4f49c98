package lane_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	guestv1 "github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/aetherium/guest/v1"
	"github.com/aetherium/aetherium/services/core/pkg/guest/lane"
)

func pair(t testing.TB) (host, agent net.Conn) {
	t.Helper()
	host, agent = net.Pipe()
	t.Cleanup(func() { _, _ = host.Close(), agent.Close() })
	return host, agent
}

func TestBothWays(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	host, agent := lane.NewHost(a), lane.NewAgent(b, b)
	go func() {
		_ = host.Send(&guestv1.AttachRequest{Request: &guestv1.AttachRequest_Ack_{Ack: &guestv1.AttachRequest_Ack{Offset: 77}}})
	}()
	if m, err := agent.Receive(); err != nil || m.GetAck().GetOffset() != 77 {
		t.Fatalf("%v, %v", m, err)
	}
	whole := bytes.Repeat([]byte("0123456789abcdef"), lane.MaxOutput/16)
	go func() {
		_ = agent.Send(&guestv1.AttachResponse{Response: &guestv1.AttachResponse_Started_{Started: &guestv1.AttachResponse_Started{Pid: 5}}})
		_ = agent.SendOutput(7, guestv1.Stream_STREAM_STDERR, copy(agent.Room(), "err"))
		_ = agent.SendOutput(1<<40, guestv1.Stream_STREAM_PTY, copy(agent.Room(), whole))
		_ = agent.SendError(connect.CodeAborted, strings.Repeat("long ", 10_000))
		_ = b.Close()
	}()
	if m, err := host.Receive(); err != nil || m.GetStarted().GetPid() != 5 {
		t.Fatalf("%v, %v", m, err)
	}
	if m, err := host.Receive(); err != nil || m.GetOutput().GetOffset() != 7 ||
		m.GetOutput().GetStream() != guestv1.Stream_STREAM_STDERR || string(m.GetOutput().GetData()) != "err" {
		t.Fatalf("%v, %v", m, err)
	}
	if m, err := host.Receive(); err != nil || m.GetOutput().GetOffset() != 1<<40 || !bytes.Equal(m.GetOutput().GetData(), whole) {
		t.Fatalf("%d bytes, %v", len(m.GetOutput().GetData()), err)
	}
	_, err := host.Receive()
	if connect.CodeOf(err) != connect.CodeAborted || !connect.IsWireError(err) {
		t.Errorf("%v", err)
	}
	if _, err := host.Receive(); !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %v", err)
	}
}

func frame(kind byte, length uint32, payload string) string {
	return string(binary.BigEndian.AppendUint32([]byte{kind}, length)) + payload
}

// What is out of bounds is refused by its header, before anything is read or
// memory is taken for it.
func TestFramesOutOfBounds(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"an unknown kind":     frame(9, 1, "x"),
		"no kind":             frame(0, 0, ""),
		"output too long":     frame(2, lane.MaxOutput+10, ""),
		"output too short":    frame(2, 8, "12345678"),
		"a message too long":  frame(1, 1<<31, ""),
		"no message":          frame(1, 3, "\xff\xff\xff"),
		"an error too short":  frame(3, 3, "123"),
		"an error too long":   frame(3, 1<<20, ""),
		"cut off in a header": "\x02\x00",
		"cut off in a frame":  frame(2, 100, "123456789abc"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b := pair(t)
			_ = a.SetDeadline(time.Now().Add(10 * time.Second))
			go func() {
				_, _ = io.WriteString(b, text)
				if strings.HasPrefix(name, "cut off") {
					_ = b.Close()
				}
			}()
			m, err := lane.NewHost(a).Receive()
			if err == nil || errors.Is(err, io.EOF) || connect.IsWireError(err) {
				t.Errorf("%v, %v", m, err)
			}
			var late net.Error
			if errors.As(err, &late) && late.Timeout() {
				t.Error("it waited for more")
			}
		})
	}
}

// FuzzReceive: whatever an agent sends, the host gets messages within bounds
// or an error.
func FuzzReceive(f *testing.F) {
	f.Add([]byte(frame(1, 0, "")))
	f.Add([]byte(frame(2, 12, "\x01\x00\x00\x00\x00\x00\x00\x00\x00abc")))
	f.Add([]byte(frame(3, 6, "\x00\x00\x00\x0ano")))
	f.Fuzz(func(t *testing.T, data []byte) {
		a, b := pair(t)
		go func() { _, _ = b.Write(data); _ = b.Close() }()
		h := lane.NewHost(a)
		for {
			m, err := h.Receive()
			if err != nil {
				return
			}
			if len(m.GetOutput().GetData()) > lane.MaxOutput {
				t.Fatal("too much output")
			}
		}
	})
}
