package seccompbpf_test

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/elastic/go-seccomp-bpf/arch"
	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/seccompbpf"
)

// call is struct seccomp_data.
type call struct {
	nr, arch uint32
	args     [6]uint64
}

// machine runs programs as the kernel does.
type machine struct {
	vm   *bpf.VM
	size int
}

func load(t testing.TB, p *specs.LinuxSeccomp) machine {
	t.Helper()
	raw, err := seccompbpf.Compile(p, runtime.GOARCH)
	if err != nil {
		t.Fatal(err)
	}
	ins := make([]bpf.RawInstruction, len(raw)/8)
	if err := binary.Read(bytes.NewReader(raw), binary.NativeEndian, ins); err != nil {
		t.Fatal(err)
	}
	program, whole := bpf.Disassemble(ins)
	if !whole {
		t.Fatal("some instructions are none")
	}
	vm, err := bpf.NewVM(program)
	if err != nil {
		t.Fatal(err)
	}
	return machine{vm, len(ins)}
}

// run decides about a call. The VM reads big endian words, the kernel native ones.
func (m machine) run(t testing.TB, c call) uint32 {
	t.Helper()
	data := make([]byte, 64)
	word := func(at int, v uint32) { binary.BigEndian.PutUint32(data[at:], v) }
	word(0, c.nr)
	word(4, c.arch)
	low, high := 0, 4
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 {
		low, high = 4, 0
	}
	for i, a := range c.args {
		word(16+8*i+low, uint32(a))
		word(16+8*i+high, uint32(a>>32))
	}
	got, err := m.vm.Run(data)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(got)
}

// says is what a profile says about a call, read rule by rule.
func says(p *specs.LinuxSeccomp, name string, args [6]uint64) uint32 {
	conditional := uint32(0)
	decided := false
	for _, r := range p.Syscalls {
		for _, n := range r.Names {
			if n != name {
				continue
			}
			if len(r.Args) == 0 {
				return code(r.Action, r.ErrnoRet)
			}
			if !decided && holds(r.Args, args) {
				conditional, decided = code(r.Action, r.ErrnoRet), true
			}
		}
	}
	if decided {
		return conditional
	}
	return code(p.DefaultAction, p.DefaultErrnoRet)
}

func holds(conds []specs.LinuxSeccompArg, args [6]uint64) bool {
	indexes := map[uint]bool{}
	all, some := true, false
	for _, c := range conds {
		indexes[c.Index] = true
		a, ok := args[c.Index], false
		switch c.Op {
		case specs.OpEqualTo:
			ok = a == c.Value
		case specs.OpNotEqual:
			ok = a != c.Value
		case specs.OpLessThan:
			ok = a < c.Value
		case specs.OpLessEqual:
			ok = a <= c.Value
		case specs.OpGreaterThan:
			ok = a > c.Value
		case specs.OpGreaterEqual:
			ok = a >= c.Value
		case specs.OpMaskedEqual:
			ok = a&c.Value == c.ValueTwo
		}
		all, some = all && ok, some || ok
	}
	if len(indexes) < len(conds) {
		return some
	}
	return all
}

func code(a specs.LinuxSeccompAction, errno *uint) uint32 {
	switch a {
	case specs.ActAllow:
		return unix.SECCOMP_RET_ALLOW
	case specs.ActErrno:
		if errno == nil {
			return unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
		}
		return unix.SECCOMP_RET_ERRNO | uint32(*errno)
	case specs.ActKillProcess:
		return unix.SECCOMP_RET_KILL_PROCESS
	case specs.ActLog:
		return unix.SECCOMP_RET_LOG
	}
	return unix.SECCOMP_RET_KILL_THREAD
}

// interesting are values around those that a profile compares with.
func interesting(p *specs.LinuxSeccomp) []uint64 {
	values := []uint64{0, 1, ^uint64(0), 1 << 32, 1 << 63}
	for _, r := range p.Syscalls {
		for _, a := range r.Args {
			for _, v := range []uint64{a.Value, a.ValueTwo} {
				values = append(values, v, v-1, v+1, v^1<<32, v|1<<40, ^v)
			}
		}
	}
	return values
}

func compare(t *testing.T, p *specs.LinuxSeccomp) {
	t.Helper()
	table, err := arch.GetInfo(runtime.GOARCH)
	if err != nil {
		t.Skip(err)
	}
	newest := 0
	for _, r := range p.Syscalls {
		for _, n := range r.Names {
			newest = max(newest, table.SyscallNames[n])
		}
	}
	m, values, random := load(t, p), interesting(p), rand.New(rand.NewPCG(1, 2))
	for nr := range uint32(600) {
		name, known := table.SyscallNumbers[int(nr)]
		for range 60 {
			c := call{nr: nr, arch: uint32(table.ID)}
			for i := range c.args {
				c.args[i] = values[random.IntN(len(values))]
			}
			want := code(p.DefaultAction, p.DefaultErrnoRet)
			switch {
			case int(nr) > newest && want&unix.SECCOMP_RET_ACTION_FULL == unix.SECCOMP_RET_ERRNO:
				want = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
			case known:
				want = says(p, name, c.args)
			}
			if got := m.run(t, c); got != want {
				t.Fatalf("%s %+v: %#x, want %#x", name, c, got, want)
			}
			c.arch++
			if got := m.run(t, c); got != unix.SECCOMP_RET_KILL_THREAD {
				t.Fatalf("a call of another architecture: %#x", got)
			}
		}
	}
	if runtime.GOARCH == "amd64" {
		for _, nr := range []uint32{1 << 30, 1<<30 + 1, 1<<30 + 520, 1 << 31, 1<<32 - 1} {
			if got := m.run(t, call{nr: nr, arch: uint32(table.ID)}); got != unix.SECCOMP_RET_KILL_THREAD {
				t.Errorf("call %#x of x32: %#x", nr, got)
			}
		}
	}
}

// Docker's profile, with the capabilities that machines have and with all.
func TestDockersProfile(t *testing.T) {
	t.Parallel()
	for _, caps := range [][]string{{"CAP_CHOWN", "CAP_SYS_CHROOT"}, {"CAP_SYS_ADMIN", "CAP_BPF", "CAP_SYS_PTRACE"}} {
		p, err := seccomp.GetDefaultProfile(&specs.Spec{
			Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: caps}}, Linux: &specs.Linux{},
		})
		if err != nil {
			t.Fatal(err)
		}
		compare(t, p)
		if size := load(t, p).size; size > 400 {
			t.Errorf("%d instructions", size)
		}
	}
}

// Every comparison, alone and together with others.
func TestComparisons(t *testing.T) {
	t.Parallel()
	errno := func(n uint) *uint { return &n }
	const large = 0x1234_5678_9abc_def0
	arg := func(i uint, op specs.LinuxSeccompOperator, v, v2 uint64) specs.LinuxSeccompArg {
		return specs.LinuxSeccompArg{Index: i, Op: op, Value: v, ValueTwo: v2}
	}
	p := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, DefaultErrnoRet: errno(13)}
	add := func(a specs.LinuxSeccompAction, name string, args ...specs.LinuxSeccompArg) {
		p.Syscalls = append(p.Syscalls, specs.LinuxSyscall{Names: []string{name, "no_such_call"}, Action: a, Args: args})
	}
	add(specs.ActAllow, "read", arg(0, specs.OpEqualTo, large, 0))
	add(specs.ActAllow, "write", arg(1, specs.OpNotEqual, large, 0))
	add(specs.ActAllow, "close", arg(2, specs.OpLessThan, large, 0))
	add(specs.ActAllow, "fstat", arg(3, specs.OpLessEqual, large, 0))
	add(specs.ActAllow, "lseek", arg(4, specs.OpGreaterThan, large, 0))
	add(specs.ActAllow, "mmap", arg(5, specs.OpGreaterEqual, large, 0))
	add(specs.ActAllow, "mprotect", arg(0, specs.OpMaskedEqual, 0xff00_0000_00ff, 0x1200_0000_0034))
	add(specs.ActAllow, "munmap", arg(0, specs.OpEqualTo, 1, 0), arg(1, specs.OpNotEqual, 1, 0), arg(2, specs.OpGreaterThan, 0, 0))
	add(specs.ActAllow, "brk", arg(0, specs.OpEqualTo, 1, 0), arg(0, specs.OpEqualTo, large, 0)) // any
	add(specs.ActKillProcess, "ioctl", arg(1, specs.OpEqualTo, large, 0))                        // in order
	add(specs.ActLog, "ioctl", arg(0, specs.OpEqualTo, large, 0))
	add(specs.ActAllow, "ioctl", arg(2, specs.OpNotEqual, large, 0))
	add(specs.ActKillProcess, "pread64", arg(1, specs.OpEqualTo, large, 0))
	add(specs.ActLog, "pread64") // counts alone
	add(specs.ActKillThread, "getpid")
	compare(t, p)
	p.DefaultAction = specs.ActLog
	compare(t, p)
}

func TestRefused(t *testing.T) {
	t.Parallel()
	allow := specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActAllow}
	with := func(change func(*specs.LinuxSyscall)) *specs.LinuxSeccomp {
		s := allow
		change(&s)
		return &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{s}}
	}
	for name, tc := range map[string]struct {
		profile *specs.LinuxSeccomp
		arch    string
	}{
		"an architecture":   {with(func(*specs.LinuxSyscall) {}), "pdp11"},
		"a default action":  {&specs.LinuxSeccomp{DefaultAction: specs.ActTrace}, "amd64"},
		"an action":         {with(func(s *specs.LinuxSyscall) { s.Action = specs.ActNotify }), "amd64"},
		"an argument":       {with(func(s *specs.LinuxSyscall) { s.Args = []specs.LinuxSeccompArg{{Index: 6, Op: specs.OpEqualTo}} }), "amd64"},
		"a comparison":      {with(func(s *specs.LinuxSyscall) { s.Args = []specs.LinuxSeccompArg{{Op: "SCMP_CMP_LIKE"}} }), "amd64"},
		"a comparison's no": {with(func(s *specs.LinuxSyscall) { s.Args = []specs.LinuxSeccompArg{{}} }), "amd64"},
	} {
		if _, err := seccompbpf.Compile(tc.profile, tc.arch); !errors.HasCode(err, errors.Unsupported) {
			t.Errorf("%s that cannot be compiled: %v", name, err)
		}
	}
	if raw, err := seccompbpf.Compile(with(func(*specs.LinuxSyscall) {}), "arm64"); err != nil || len(raw) == 0 || len(raw)%8 != 0 {
		t.Errorf("for arm64: %d bytes, %v", len(raw), err)
	}
}
