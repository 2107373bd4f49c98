package vmmtest

import (
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

var terminalTests = []behaviour{
	{"size and resize", nil, testTerminalSize},
	{"interrupt by the keyboard", nil, testInterrupt},
	{"end of file by the keyboard", nil, testTerminalEOF},
	{"no terminal, no size", nil, testNoTerminal},
}

func onTerminal(script string) domain.Command {
	c := shell(script)
	c.PTY = &domain.PTYSize{Cols: 90, Rows: 30}
	return c
}

func testTerminalSize(t *testing.T, b *bed) {
	x := b.machine(t)
	id := x.start(t, onTerminal(`test -t 0 && test -t 1 && echo terminal; stty size; read line; stty size; echo "got $line"`))
	f := x.follow(t, id)
	f.until("30 90")
	if err := x.session.Resize(timeout(t), id, domain.PTYSize{Cols: 132, Rows: 50}); err != nil {
		t.Fatal(err)
	}
	if err := x.session.WriteStdin(timeout(t), id, -1, []byte("typed\n")); err != nil {
		t.Fatal(err)
	}
	f.until("50 132")
	got := f.rest()
	if all := f.text.String() + got.pty; !strings.Contains(all, "terminal") || !strings.Contains(all, "got typed") || got.end.ExitCode != 0 {
		t.Errorf("it said %q and ended with %+v", all, got.end)
	}
}

func testInterrupt(t *testing.T, b *bed) {
	x := b.machine(t)
	// No child of the shell: bash loses an interrupt between its fork and exec.
	id := x.start(t, onTerminal("echo ready; exec sleep 1000"))
	f := x.follow(t, id)
	f.until("ready")
	if err := x.session.WriteStdin(timeout(t), id, -1, []byte{3}); err != nil { // ^C
		t.Fatal(err)
	}
	if got := f.rest(); got.end.ExitCode != 130 && got.end.Signal != 2 {
		t.Errorf("%+v", got.end)
	}
}

func testTerminalEOF(t *testing.T, b *bed) {
	x := b.machine(t)
	id := x.start(t, onTerminal("cat >/dev/null; echo finished"))
	if err := x.session.WriteStdin(timeout(t), id, -1, []byte("text\n")); err != nil {
		t.Fatal(err)
	}
	if err := x.session.CloseStdin(timeout(t), id); err != nil {
		t.Fatal(err)
	}
	if got := x.follow(t, id).rest(); !strings.Contains(got.pty, "finished") {
		t.Errorf("%+v", got)
	}
}

func testNoTerminal(t *testing.T, b *bed) {
	x := b.machine(t)
	c := shell("test -t 1 || echo none; cat")
	c.Stdin = true
	id := x.start(t, c)
	if err := x.session.Resize(timeout(t), id, domain.PTYSize{Cols: 80, Rows: 24}); !errors.HasCode(err, errors.InvalidArgument) {
		t.Errorf("resize: %v", err)
	}
	if err := x.session.CloseStdin(timeout(t), id); err != nil {
		t.Fatal(err)
	}
	if got := x.follow(t, id).rest(); got.stdout != "none\n" {
		t.Errorf("%+v", got)
	}
}
