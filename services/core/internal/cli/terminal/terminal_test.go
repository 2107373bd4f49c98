package terminal_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/internal/cli/terminal"
)

// panicking has this test binary make its terminal raw and panic in a goroutine.
const panicking = "TERMINAL_TEST_PANIC"

func TestMain(m *testing.M) {
	if os.Getenv(panicking) != "" {
		t := terminal.Of(os.Stdin)
		if err := t.Raw(); err != nil {
			fmt.Println(err)
			os.Exit(9)
		}
		fmt.Print("raw")
		t.Go(func() { panic("in a goroutine") })
		select {}
	}
	os.Exit(m.Run())
}

func modes(t *testing.T, f *os.File) unix.Termios {
	t.Helper()
	m, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return *m
}

func openPTY(t *testing.T) (master, tty *os.File) {
	t.Helper()
	master, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = tty.Close(), master.Close() })
	return master, tty
}

func TestRawAndBack(t *testing.T) {
	t.Parallel()
	_, tty := openPTY(t)
	before := modes(t, tty)
	term := terminal.Of(tty)
	for range 2 { // twice is once
		if err := term.Raw(); err != nil {
			t.Fatal(err)
		}
	}
	if !term.IsRaw() || modes(t, tty) == before {
		t.Error("it is not raw")
	}
	term.Restore()
	term.Restore()
	term.Renew()
	if term.IsRaw() || modes(t, tty) != before {
		t.Error("it is not as it was")
	}
	var none *terminal.Terminal
	none.Restore()
	if none.IsRaw() || terminal.Of(&bytes.Buffer{}) != nil || terminal.Of((*os.File)(nil)) != nil {
		t.Error("no terminal is a terminal")
	}
}

func TestRenewAfterTheShellChangedModes(t *testing.T) {
	t.Parallel()
	_, tty := openPTY(t)
	before := modes(t, tty)
	term := terminal.Of(tty)
	if err := term.Raw(); err != nil {
		t.Fatal(err)
	}
	raw := modes(t, tty)
	if err := unix.IoctlSetTermios(int(tty.Fd()), unix.TCSETS, &before); err != nil {
		t.Fatal(err)
	}
	term.Renew()
	if modes(t, tty) != raw {
		t.Error("it is not raw again")
	}
	term.Restore()
	if modes(t, tty) != before {
		t.Error("it is not as it was")
	}
}

func TestPanicRestores(t *testing.T) {
	t.Parallel()
	master, tty := openPTY(t)
	before := modes(t, tty)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), panicking+"=1")
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := make([]byte, 3)
	if _, err := io.ReadFull(master, said); err != nil || string(said) != "raw" {
		t.Fatalf("%q, %v", said, err)
	}
	if err := cmd.Wait(); err == nil || !strings.Contains(stderr.String(), "in a goroutine") {
		t.Errorf("it did not panic: %v, %s", err, stderr.String())
	}
	if modes(t, tty) != before {
		t.Error("a panic left the terminal raw")
	}
}

func TestSize(t *testing.T) {
	t.Parallel()
	master, tty := openPTY(t)
	term := terminal.Of(tty)
	if size, ok := term.Size(); ok {
		t.Errorf("a window of no size has one: %v", size)
	}
	if err := pty.Setsize(master, &pty.Winsize{Cols: 132, Rows: 50}); err != nil {
		t.Fatal(err)
	}
	if size, ok := term.Size(); !ok || size.Cols != 132 || size.Rows != 50 {
		t.Errorf("%v, %v", size, ok)
	}
}

func TestKeys(t *testing.T) {
	t.Parallel()
	const p, q = "\x10", "\x11"
	for _, tc := range []struct {
		in, out  string
		detached bool
	}{
		{"words", "words", false},
		{"before" + p + q + "after", "before", true},
		{p + "x" + q, p + "x" + q, false},
		{p + p + q, p, true},
		{q + p, q + p, false},
		{p, p, false},
		{p + p + p + "x", p + p + p + "x", false},
		{"", "", false},
	} {
		for name, r := range map[string]io.Reader{"at once": strings.NewReader(tc.in), "byte by byte": iotest.OneByteReader(strings.NewReader(tc.in))} {
			got, err := io.ReadAll(terminal.NewKeys(r))
			if string(got) != tc.out || errors.Is(err, terminal.ErrDetached) != tc.detached || (err != nil && !tc.detached) {
				t.Errorf("%q %s: %q, %v", tc.in, name, got, err)
			}
		}
	}
}
