package vmmtest

import (
	"strconv"
	"strings"
	"testing"
	"time"

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

// testCPULimit measures from outside where the driver can: a kernel of a
// machine's own does not see when it stands still.
func testCPULimit(t *testing.T, b *bed) {
	x := b.machine(t, func(s *vmm.Spec) { s.Resources.MilliCPU = 200 })
	meter, outside := b.Driver.(vmm.Meter)
	usage := func() vmm.Usage {
		if !outside {
			return vmm.Usage{At: time.Now()}
		}
		u, err := meter.Usage(timeout(t), x.id)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	before := usage()
	got := x.run(t, python(`
import time
end = time.monotonic() + 2
while time.monotonic() < end: pass
print(time.process_time())
`))
	after := usage()
	used, err := strconv.ParseFloat(strings.TrimSpace(got.stdout), 64)
	if outside {
		used = (after.CPUTime - before.CPUTime).Seconds()
	}
	// A fifth; twice that is far from the whole that it would take.
	if whole := after.At.Sub(before.At).Seconds(); err != nil || used > 0.45*whole {
		t.Errorf("%.2f s of processor time in %.2f s, %v", used, whole, err)
	}
	if got.end != (domain.ExecutionEnd{}) {
		t.Errorf("%+v", got.end)
	}
}
