package nspair

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"runtime"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/inmemory"
)

// holding is a program for each processor, so small that starting it costs next
// to nothing: unshare(1) and cat(1) together, which can do the same, take three
// times as long as the kernel takes for the namespaces, most of it for their
// libraries. It does
//
//	error = unshare(CLONE_NEWUSER | CLONE_NEWNET)
//	if error == 0 {
//		write(0, stack, 1)
//		read(0, stack, 1)
//	}
//	exit_group(error)
//
// with one socket to talk by, where the read lasts until its maker has had
// enough of it or is gone. The calls' numbers are those of the kernel's
// arch/x86/entry/syscalls/syscall_64.tbl and scripts/syscall.tbl. That of arm64 has been
// seen to run in qemu-aarch64 only.
var holding = map[string]struct {
	machine elf.Machine
	code    []byte
}{
	"amd64": {elf.EM_X86_64, []byte{
		0xbf, 0x00, 0x00, 0x00, 0x50, // mov edi, 0x50000000
		0xb8, 0x10, 0x01, 0x00, 0x00, // mov eax, 272
		0x0f, 0x05, // syscall
		0x85, 0xc0, // test eax, eax
		0x75, 0x17, // jnz end
		0x31, 0xff, // xor edi, edi
		0x48, 0x89, 0xe6, // mov rsi, rsp
		0xba, 0x01, 0x00, 0x00, 0x00, // mov edx, 1
		0xb8, 0x01, 0x00, 0x00, 0x00, // mov eax, 1
		0x0f, 0x05, // syscall
		0x31, 0xc0, // xor eax, eax
		0x0f, 0x05, // syscall
		0x31, 0xc0, // xor eax, eax
		0xf7, 0xd8, // end: neg eax
		0x89, 0xc7, // mov edi, eax
		0xb8, 0xe7, 0x00, 0x00, 0x00, // mov eax, 231
		0x0f, 0x05, // syscall
	}},
	"arm64": {elf.EM_AARCH64, []byte{
		0x00, 0x00, 0xaa, 0x52, // mov w0, #0x50000000
		0x28, 0x0c, 0x80, 0xd2, // mov x8, #97
		0x01, 0x00, 0x00, 0xd4, // svc #0
		0x20, 0x01, 0x00, 0x35, // cbnz w0, end
		0xe1, 0x03, 0x00, 0x91, // mov x1, sp
		0x22, 0x00, 0x80, 0xd2, // mov x2, #1
		0x08, 0x08, 0x80, 0xd2, // mov x8, #64
		0x01, 0x00, 0x00, 0xd4, // svc #0
		0x00, 0x00, 0x80, 0xd2, // mov x0, #0
		0xe8, 0x07, 0x80, 0xd2, // mov x8, #63
		0x01, 0x00, 0x00, 0xd4, // svc #0
		0x00, 0x00, 0x80, 0xd2, // mov x0, #0
		0xe0, 0x03, 0x00, 0x4b, // end: neg w0, w0
		0xc8, 0x0b, 0x80, 0xd2, // mov x8, #94
		0x01, 0x00, 0x00, 0xd4, // svc #0
	}},
}

// image is the program for a processor as an ELF file (elf(5)): a header, one
// segment of all there is, and the code.
func image(arch string) ([]byte, bool) {
	p, ok := holding[arch]
	if !ok {
		return nil, false
	}
	const at = 0x400000 // where programs of these processors are by custom
	var header elf.Header64
	var segment elf.Prog64
	headers := uint64(binary.Size(header) + binary.Size(segment))
	header = elf.Header64{
		Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_EXEC), Machine: uint16(p.machine), Version: uint32(elf.EV_CURRENT), Entry: at + headers,
		Phoff: uint64(binary.Size(header)), Ehsize: uint16(binary.Size(header)), Phentsize: uint16(binary.Size(segment)), Phnum: 1,
	}
	size := headers + uint64(len(p.code))
	segment = elf.Prog64{
		Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Vaddr: at, Paddr: at, Filesz: size, Memsz: size,
		Align: 1 << 16, // the largest page of either
	}
	var out bytes.Buffer
	_ = binary.Write(&out, binary.LittleEndian, header)
	_ = binary.Write(&out, binary.LittleEndian, segment)
	out.Write(p.code)
	return out.Bytes(), true
}

// program is the one for this processor, in memory (memfd_create(2)).
func program() (*os.File, error) {
	raw, ok := image(runtime.GOARCH)
	if !ok {
		return nil, errors.New(errors.Unsupported, "machines' namespaces cannot be made on this processor").
			WithHint("use amd64 or arm64")
	}
	f, err := inmemory.Program("namespaces", bytes.NewReader(raw))
	if err != nil {
		return nil, errors.Wrap(err, errors.Unavailable, "the host refused a program in memory").
			WithHint("check /proc/sys/vm/memfd_noexec")
	}
	return f, nil
}
