package vmmtest

import (
	"strconv"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

var limitTests = []behaviour{
	{"memory", limits, testMemoryLimit},
	{"processes", limits, testPIDLimit},
	{"disk", diskLimit, testDiskLimit},
	{"CPU", limits, testCPULimit},
}

func testMemoryLimit(t *testing.T, b *bed) {
	x := b.machine(t, func(s *vmm.Spec) { s.Resources.MemoryBytes = 128 << 20 })
	bystander := x.start(t, shell("echo up; exec sleep 1000"))
	x.follow(t, bystander).until("up")
	got := x.run(t, python("x = []\nwhile True: x.append(b'x' * (1 << 20))"))
	if got.end.Signal != 9 || got.end.ExitCode != 137 {
		t.Errorf("the hog ended with %+v", got.end)
	}
	// The agent lives.
	if got := x.sh(t, "echo alive"); got != "alive" {
		t.Errorf("%q", got)
	}
	if m, ok := b.Driver.(vmm.Meter); ok {
		if u, err := m.Usage(timeout(t), x.id); err != nil || u.MemoryLimit != 128<<20 || u.OOMKills < 1 {
			t.Errorf("%+v, %v", u, err)
		}
	}
}

func testPIDLimit(t *testing.T, b *bed) {
	x := b.machine(t, func(s *vmm.Spec) { s.Resources.PIDs = 64 })
	// It forks until it cannot, tells how far it came, and ends all of them.
	got := x.run(t, python(`
import os, signal, sys, time
n = 0
while n < 1000:
    try:
        if os.fork() == 0:
            time.sleep(1000)
    except OSError:
        break
    n += 1
print(n, flush=True)
os.killpg(0, signal.SIGKILL)
`))
	n, err := strconv.Atoi(strings.TrimSpace(got.stdout))
	if err != nil || n < 1 || n > 64 {
		t.Errorf("%d processes, %v; it said %q", n, err, got.stderr)
	}
	if got := x.sh(t, "echo alive"); got != "alive" {
		t.Errorf("%q", got)
	}
}

func testDiskLimit(t *testing.T, b *bed) {
	const limit = 64 << 20
	x := b.machine(t, func(s *vmm.Spec) { s.Resources.DiskBytes = limit })
	got := x.run(t, python(`
import os
n = 0
try:
    with open("big", "wb") as f:
        while n < (1 << 30):
            n += f.write(os.urandom(1 << 20))
            f.flush()
            os.fsync(f.fileno())
except OSError as e:
    print(n, e.errno, flush=True)
else:
    print(n, 0, flush=True)
`))
	fields := strings.Fields(got.stdout)
	if len(fields) != 2 {
		t.Fatalf("%+v", got)
	}
	written, _ := strconv.ParseInt(fields[0], 10, 64)
	if fields[1] != "28" && fields[1] != "122" { // ENOSPC, EDQUOT
		t.Errorf("error number %s", fields[1])
	}
	if written > limit+limit/4 || written < limit/4 {
		t.Errorf("%d bytes were written, the limit is %d", written, limit)
	}
	x.sh(t, "rm big; sync; echo again > small; cat small")
}

func testCPULimit(t *testing.T, b *bed) {
	x := b.machine(t, func(s *vmm.Spec) { s.Resources.MilliCPU = 200 })
	got := x.run(t, python(`
import time
end = time.monotonic() + 2
while time.monotonic() < end: pass
print(time.process_time())
`))
	used, err := strconv.ParseFloat(strings.TrimSpace(got.stdout), 64)
	// A fifth of two seconds; twice that is far from the two it would take.
	if err != nil || used > 0.9 {
		t.Errorf("%.2f s of processor time in 2 s, %v", used, err)
	}
	if got.end != (domain.ExecutionEnd{}) {
		t.Errorf("%+v", got.end)
	}
}
