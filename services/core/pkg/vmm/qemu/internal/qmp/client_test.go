package qmp_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/qemu/internal/qmp"
	"golang.org/x/sys/unix"
)

const greeting = `{"QMP": {"version": {}, "capabilities": []}}` + "\n"

// pair makes the two ends of a connection.
func pair(t *testing.T) (ours, theirs *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socket")
		conn, err := net.FileConn(f)
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		t.Cleanup(func() { conn.Close() })
		ends[i] = conn.(*net.UnixConn)
	}
	return ends[0], ends[1]
}

// monitor answers each command with what answer says, and greets.
func monitor(conn net.Conn, answer func(command string, id int) string) {
	defer conn.Close()
	if _, err := conn.Write([]byte(greeting)); err != nil {
		return
	}
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		var c struct {
			Execute string `json:"execute"`
			ID      int    `json:"id"`
		}
		if json.Unmarshal(lines.Bytes(), &c) != nil {
			return
		}
		text := fmt.Sprintf(`{"return": {}, "id": %d}`+"\n", c.ID)
		if c.Execute != "qmp_capabilities" {
			text = answer(c.Execute, c.ID)
		}
		if _, err := conn.Write([]byte(text)); err != nil {
			return
		}
	}
}

func open(t *testing.T, answer func(command string, id int) string) *qmp.Client {
	t.Helper()
	ours, theirs := pair(t)
	go monitor(theirs, answer)
	c, err := qmp.Open(t.Context(), ours)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestDo(t *testing.T) {
	t.Parallel()
	c := open(t, func(command string, id int) string {
		if command == "bad" {
			return fmt.Sprintf(`{"error": {"class": "GenericError", "desc": "no"}, "id": %d}`+"\n", id)
		}
		return fmt.Sprintf(`{"event": "STOP", "data": {"n": 1}}
{"return": "left over", "id": %d}
{"event": "RESUME"}
{"return": {"status": "running"}, "id": %d}
`, id-1, id)
	})
	var status struct{ Status string }
	if err := c.Do(t.Context(), "query-status", nil, &status); err != nil || status.Status != "running" {
		t.Errorf("%+v, %v", status, err)
	}
	if e, err := c.Next(t.Context(), "RESUME"); err != nil || e.Name != "RESUME" {
		t.Errorf("%+v, %v", e, err)
	}
	var refused *qmp.Refusal
	if err := c.Do(t.Context(), "bad", nil, nil); !errors.As(err, &refused) || refused.Text != "no" || !errors.HasCode(err, errors.Internal) {
		t.Errorf("refused: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Next(ctx, "STOP"); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	// It can be used again.
	if err := c.Do(t.Context(), "query-status", nil, &status); err != nil {
		t.Error(err)
	}
}

// A monitor that was taken over gets nowhere.
func TestHostile(t *testing.T) {
	t.Parallel()
	for name, say := range map[string]string{
		"garbage":          "}{\n",
		"a long line":      strings.Repeat("x", 3<<20),
		"events for ever":  strings.Repeat(`{"event": "STOP"}`+"\n", 1000),
		"another's answer": strings.Repeat(`{"return": {}, "id": 99}`+"\n", 1000),
		"another type":     `{"return": {"status": 7}, "id": 2}` + "\n",
		"an id of its own": `{"id": "x"}` + "\n",
	} {
		c := open(t, func(string, int) string { return say })
		var status struct{ Status string }
		if err := c.Do(t.Context(), "query-status", nil, &status); !errors.HasCode(err, errors.GuestFault) {
			t.Errorf("%s: %v", name, err)
		}
	}
	ours, theirs := pair(t)
	theirs.Close()
	if _, err := qmp.Open(t.Context(), ours); !errors.HasCode(err, errors.Conflict) {
		t.Errorf("one that ends: %v", err)
	}
	ours, _ = pair(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := qmp.Open(ctx, ours); !errors.Is(err, context.Canceled) {
		t.Errorf("one that says nothing: %v", err)
	}
	if _, err := qmp.Dial(t.Context(), "/nowhere"); !errors.HasCode(err, errors.Conflict) {
		t.Errorf("nobody: %v", err)
	}
}
