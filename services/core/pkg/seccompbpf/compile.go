package seccompbpf

import (
	"bytes"
	"encoding/binary"
	"slices"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/elastic/go-seccomp-bpf/arch"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Offsets in struct seccomp_data (linux/seccomp.h).
const (
	offsetNumber = 0
	offsetArch   = 4
	offsetArgs   = 16
)

// x32Bit marks the calls of the x32 ABI, which share amd64's architecture
// (arch/x86/include/uapi/asm/unistd.h).
const x32Bit = 0x40000000

// maxProgram is the kernel's limit on instructions (BPF_MAXINSNS, linux/bpf_common.h).
const maxProgram = 4096

// Compile gives the program for a Go architecture: an array of struct
// sock_filter in the order of this machine's bytes. Calls of other system call
// tables than the architecture's first end the thread, as libseccomp has it
// (seccomp_attr_set(3), SCMP_FLTATR_ACT_BADARCH). Names that the architecture
// does not have are left out; calls that are newer than the profile do not exist
// where it would refuse them. Of several rules for one call an unconditional one
// counts alone, else the first whose conditions hold. Returns Unsupported for
// what cannot be compiled: the runtime may know better.
func Compile(profile *specs.LinuxSeccomp, goarch string) ([]byte, error) {
	table, err := arch.GetInfo(goarch)
	if err != nil {
		return nil, errors.Wrap(err, errors.Unsupported, "no system calls are known of %s", goarch)
	}
	otherwise, err := action(profile.DefaultAction, profile.DefaultErrnoRet)
	if err != nil {
		return nil, err
	}
	calls, err := rulesByCall(profile.Syscalls, table.SyscallNames)
	if err != nil {
		return nil, err
	}
	p := program{
		bpf.LoadAbsolute{Off: offsetArch, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(table.ID), SkipTrue: 1},
		bpf.RetConstant{Val: unix.SECCOMP_RET_KILL_THREAD},
		bpf.LoadAbsolute{Off: offsetNumber, Size: 4},
	}
	ranges := rangesOf(calls, otherwise)
	if goarch == "amd64" {
		ranges = append(ranges, span{from: x32Bit, then: program{bpf.RetConstant{Val: unix.SECCOMP_RET_KILL_THREAD}}})
	}
	p = append(p, bisect(ranges)...)
	if len(p) > maxProgram {
		return nil, errors.New(errors.Unsupported, "the system call filter has %d instructions, and the kernel takes %d", len(p), maxProgram)
	}
	return assemble(p)
}

// program is a piece of one; its jumps stay within it.
type program []bpf.Instruction

func assemble(p program) ([]byte, error) {
	raw, err := bpf.Assemble(p)
	if err != nil {
		return nil, errors.Wrap(err, errors.Unsupported, "the system call filter cannot be made")
	}
	var out bytes.Buffer
	for _, ins := range raw { // struct sock_filter, linux/filter.h
		if err := binary.Write(&out, binary.NativeEndian, ins); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), nil
}

// action is what the kernel takes for an action (seccomp(2)).
func action(a specs.LinuxSeccompAction, errno *uint) (uint32, error) {
	data := uint32(unix.EPERM) // as in the runtime-spec
	if errno != nil {
		data = uint32(*errno) & unix.SECCOMP_RET_DATA
	}
	switch a {
	case specs.ActAllow:
		return unix.SECCOMP_RET_ALLOW, nil
	case specs.ActErrno:
		return unix.SECCOMP_RET_ERRNO | data, nil
	case specs.ActKill, specs.ActKillThread:
		return unix.SECCOMP_RET_KILL_THREAD, nil
	case specs.ActKillProcess:
		return unix.SECCOMP_RET_KILL_PROCESS, nil
	case specs.ActLog:
		return unix.SECCOMP_RET_LOG, nil
	case specs.ActTrap:
		return unix.SECCOMP_RET_TRAP, nil
	}
	return 0, errors.New(errors.Unsupported, "the action %s cannot be compiled", a)
}

// rule is what happens to a call when all conditions hold.
type rule struct {
	then  uint32
	conds []specs.LinuxSeccompArg
}

func rulesByCall(rules []specs.LinuxSyscall, numbers map[string]int) (map[uint32][]rule, error) {
	calls := map[uint32][]rule{}
	for _, r := range rules {
		then, err := action(r.Action, r.ErrnoRet)
		if err != nil {
			return nil, err
		}
		if err := check(r.Args); err != nil {
			return nil, err
		}
		for _, name := range r.Names {
			nr, known := numbers[name]
			if !known {
				continue
			}
			for _, conds := range alternatives(r.Args) {
				calls[uint32(nr)] = append(calls[uint32(nr)], rule{then, conds})
			}
		}
	}
	return calls, nil
}

func check(args []specs.LinuxSeccompArg) error {
	for _, a := range args {
		if a.Index > 5 {
			return errors.New(errors.Unsupported, "system calls have no argument %d", a.Index)
		}
		switch a.Op {
		case specs.OpEqualTo, specs.OpMaskedEqual, specs.OpNotEqual, specs.OpGreaterThan, specs.OpGreaterEqual, specs.OpLessThan, specs.OpLessEqual:
		default:
			return errors.New(errors.Unsupported, "the comparison %s cannot be compiled", a.Op)
		}
	}
	return nil
}

// alternatives are the sets of conditions of which one must hold: all together,
// unless an argument has several, of which any will do; so runtimes read it.
func alternatives(args []specs.LinuxSeccompArg) [][]specs.LinuxSeccompArg {
	seen := map[uint]bool{}
	for _, a := range args {
		if seen[a.Index] {
			var each [][]specs.LinuxSeccompArg
			for i := range args {
				each = append(each, args[i:i+1])
			}
			return each
		}
		seen[a.Index] = true
	}
	return [][]specs.LinuxSeccompArg{args}
}

// span is what happens to the calls from a number up to the next span's.
type span struct {
	from  uint32
	then  program
	plain bool // then is a single return, of ret
	ret   uint32
}

// rangesOf divides all numbers into spans of calls that are treated alike.
func rangesOf(calls map[uint32][]rule, otherwise uint32) []span {
	numbers := make([]uint32, 0, len(calls))
	for nr := range calls {
		numbers = append(numbers, nr)
	}
	slices.Sort(numbers)
	var spans []span
	add := func(s span) {
		if last := len(spans) - 1; last >= 0 && s.plain && spans[last].plain && spans[last].ret == s.ret {
			return // goes on
		}
		spans = append(spans, s)
	}
	plain := func(from, ret uint32) span {
		return span{from: from, then: program{bpf.RetConstant{Val: ret}}, plain: true, ret: ret}
	}
	next := uint32(0)
	for _, nr := range numbers {
		if nr > next {
			add(plain(next, otherwise))
		}
		if at := slices.IndexFunc(calls[nr], func(r rule) bool { return len(r.conds) == 0 }); at >= 0 {
			add(plain(nr, calls[nr][at].then))
		} else {
			add(span{from: nr, then: decide(calls[nr], otherwise)})
		}
		next = nr + 1
	}
	return append(spans, plain(next, unknown(otherwise)))
}

// unknown is what happens to calls with higher numbers than any that the profile
// has: its authors did not know them. Where they would be refused they do not
// exist, for that is what C libraries take as a reason to do without; so does
// runc (opencontainers/runc, libcontainer/seccomp/patchbpf).
func unknown(otherwise uint32) uint32 {
	if otherwise&unix.SECCOMP_RET_ACTION_FULL == unix.SECCOMP_RET_ERRNO {
		return unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	}
	return otherwise
}

// bisect finds the span that the number in the accumulator is in.
func bisect(spans []span) program {
	if len(spans) == 1 {
		return spans[0].then
	}
	mid := len(spans) / 2
	low, high := bisect(spans[:mid]), bisect(spans[mid:])
	var p program
	if len(low) <= 255 {
		p = program{bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: spans[mid].from, SkipTrue: uint8(len(low))}}
	} else { // a conditional jump is that far only
		p = program{
			bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: spans[mid].from, SkipFalse: 1},
			bpf.Jump{Skip: uint32(len(low))},
		}
	}
	return append(append(p, low...), high...)
}

// decide goes through the rules of one call.
func decide(rules []rule, otherwise uint32) program {
	var p program
	for _, r := range rules {
		p = append(p, r.program()...)
	}
	return append(p, bpf.RetConstant{Val: otherwise})
}
