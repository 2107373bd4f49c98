package kernel

import (
	"bytes"
	"fmt"
)

// archive is a cpio archive as the kernel unpacks it ("newc";
// Documentation/driver-api/early-userspace/buffer-format.rst). Nothing in it
// but its files is from the machine that it was made on.
type archive struct {
	buf   bytes.Buffer
	inode int
}

// The kinds of files.
const (
	modeDir  = 0o040000
	modeChar = 0o020000
	modeFile = 0o100000
)

// bytes ends the archive.
func (a *archive) bytes() []byte {
	a.inode = -1
	a.add("TRAILER!!!", 0, 0, 0, nil)
	a.pad(512)
	return a.buf.Bytes()
}

func (a *archive) dir(name string) { a.add(name, modeDir|0o755, 0, 0, nil) }

func (a *archive) char(name string, perm, major, minor int) {
	a.add(name, modeChar|perm, major, minor, nil)
}

func (a *archive) file(name string, perm int, content []byte) {
	a.add(name, modeFile|perm, 0, 0, content)
}

func (a *archive) add(name string, mode, major, minor int, content []byte) {
	a.inode++
	links := 1
	fmt.Fprintf(&a.buf, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
		a.inode, mode, 0, 0, links, 0, len(content), 0, 0, major, minor, len(name)+1, 0)
	a.buf.WriteString(name)
	a.buf.WriteByte(0)
	a.pad(4)
	a.buf.Write(content)
	a.pad(4)
}

func (a *archive) pad(to int) {
	for a.buf.Len()%to != 0 {
		a.buf.WriteByte(0)
	}
}
