package seccompbpf

import (
	"encoding/binary"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/net/bpf"
)

// failed marks a jump to behind the rule whose condition does not hold; met one
// to the rule's next condition. Both are real offsets only in the end: a piece of
// a rule has far less than this many instructions.
const (
	failed = 255
	met    = 254
)

// program returns the rule's action if its conditions hold, and else goes on
// behind itself.
func (r rule) program() program {
	var p program
	for _, c := range r.conds {
		piece := condition(c)
		resolve(piece, met, len(piece))
		p = append(p, piece...)
	}
	p = append(p, bpf.RetConstant{Val: r.then})
	resolve(p, failed, len(p))
	return p
}

// resolve makes the jumps to a mark ones to a place.
func resolve(p program, mark uint8, to int) {
	for i, ins := range p {
		j, ok := ins.(bpf.JumpIf)
		if !ok {
			continue
		}
		if j.SkipTrue == mark {
			j.SkipTrue = uint8(to - i - 1)
		}
		if j.SkipFalse == mark {
			j.SkipFalse = uint8(to - i - 1)
		}
		p[i] = j
	}
}

// condition compares an argument, 64 bits of which BPF has 32 at a time: the
// upper half decides, and where it is equal the lower does.
func condition(c specs.LinuxSeccompArg) program {
	high, low := halves(c.Index)
	value, mask := c.Value, ^uint64(0)
	if c.Op == specs.OpMaskedEqual {
		mask, value = c.Value, c.ValueTwo
	}
	vh, vl := uint32(value>>32), uint32(value)
	jump := func(cond bpf.JumpTest, v uint32, yes, no uint8) bpf.Instruction {
		return bpf.JumpIf{Cond: cond, Val: v, SkipTrue: yes, SkipFalse: no}
	}
	switch c.Op {
	case specs.OpEqualTo:
		return program{high, jump(bpf.JumpEqual, vh, 0, failed), low, jump(bpf.JumpEqual, vl, 0, failed)}
	case specs.OpMaskedEqual:
		and := func(m uint32) bpf.Instruction { return bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: m} }
		return program{
			high, and(uint32(mask >> 32)), jump(bpf.JumpEqual, vh, 0, failed),
			low, and(uint32(mask)), jump(bpf.JumpEqual, vl, 0, failed),
		}
	case specs.OpNotEqual:
		return program{high, jump(bpf.JumpEqual, vh, 0, met), low, jump(bpf.JumpEqual, vl, failed, 0)}
	case specs.OpGreaterThan:
		return program{high, jump(bpf.JumpGreaterThan, vh, met, 0), jump(bpf.JumpEqual, vh, 0, failed), low, jump(bpf.JumpGreaterThan, vl, 0, failed)}
	case specs.OpGreaterEqual:
		return program{high, jump(bpf.JumpGreaterThan, vh, met, 0), jump(bpf.JumpEqual, vh, 0, failed), low, jump(bpf.JumpGreaterOrEqual, vl, 0, failed)}
	case specs.OpLessThan:
		return program{high, jump(bpf.JumpGreaterThan, vh, failed, 0), jump(bpf.JumpEqual, vh, 0, met), low, jump(bpf.JumpGreaterOrEqual, vl, failed, 0)}
	default: // OpLessEqual
		return program{high, jump(bpf.JumpGreaterThan, vh, failed, 0), jump(bpf.JumpEqual, vh, 0, met), low, jump(bpf.JumpGreaterThan, vl, failed, 0)}
	}
}

// halves load the upper and the lower half of an argument.
func halves(index uint) (high, low bpf.Instruction) {
	at := uint32(offsetArgs + 8*index)
	first, second := bpf.LoadAbsolute{Off: at, Size: 4}, bpf.LoadAbsolute{Off: at + 4, Size: 4}
	if binary.NativeEndian.Uint16([]byte{1, 0}) == 1 {
		return second, first
	}
	return first, second
}
