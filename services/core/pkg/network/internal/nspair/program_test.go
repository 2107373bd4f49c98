package nspair

import (
	"bytes"
	"debug/elf"
	"testing"
)

func TestImages(t *testing.T) {
	for arch, want := range holding {
		raw, _ := image(arch)
		f, err := elf.NewFile(bytes.NewReader(raw))
		if err != nil {
			t.Fatalf("%s: %v", arch, err)
		}
		if f.Machine != want.machine || f.Type != elf.ET_EXEC || len(f.Progs) != 1 {
			t.Errorf("%s: %+v", arch, f.FileHeader)
			continue
		}
		p := f.Progs[0]
		code := make([]byte, len(want.code))
		if n, err := p.ReadAt(code, int64(f.Entry-p.Vaddr)); err != nil || !bytes.Equal(code, want.code) {
			t.Errorf("%s: at its entry %x, %d, %v", arch, code, n, err)
		}
		if p.Flags != elf.PF_R|elf.PF_X || p.Filesz != uint64(len(raw)) || p.Vaddr%p.Align != p.Off%p.Align {
			t.Errorf("%s: %+v", arch, p.ProgHeader)
		}
	}
	if _, ok := image("sparc"); ok {
		t.Error("a program for a processor that nobody wrote one for")
	}
}
