package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// drives: those that can be read alone are written to by no means. Their devices
// are had from sysfs, for /dev may have none.
func drives([]string) {
	sizes, _ := filepath.Glob("/sys/class/block/*/ro")
	for _, path := range sizes {
		name := filepath.Base(filepath.Dir(path))
		ro, _ := os.ReadFile(path)
		number, _ := os.ReadFile(filepath.Dir(path) + "/dev")
		var major, minor uint32
		if _, err := fmt.Sscanf(string(number), "%d:%d", &major, &minor); err != nil || strings.TrimSpace(string(ro)) != "1" {
			continue
		}
		node := "/tmp/drive-" + name
		if err := unix.Mknod(node, unix.S_IFBLK|0o600, int(unix.Mkdev(major, minor))); err != nil {
			breach("drives", "%v", err)
			continue
		}
		was, _ := readDrive(node)
		attempt("write to "+name, func() error { return writeDrive(node, was) })
		attempt("write to "+name+" that was said to be writable", func() error {
			f, err := os.Open(node)
			if err != nil {
				return err
			}
			if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.BLKROSET, 0); err != nil {
				note("%v", err)
			}
			_ = f.Close()
			return writeDrive(node, was)
		})
		is, err := readDrive(node)
		check("what is on "+name, err == nil && bytes.Equal(was, is), "it is something else")
	}
}

const block = 4096

func readDrive(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	_ = unix.IoctlSetInt(int(f.Fd()), unix.BLKFLSBUF, 0) // not what is remembered of it
	raw := make([]byte, block)
	_, err = io.ReadFull(f, raw)
	return raw, err
}

func writeDrive(path string, was []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	other := bytes.Repeat([]byte("intruder"), block/8)
	if bytes.Equal(other, was) {
		return nil
	}
	_, err = f.Write(other)
	return errors.Join(err, f.Sync(), f.Close())
}

// begun says so, and returns when that was heard: what comes then may be the
// machine's end.
func begun() {
	fmt.Println("begun")
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// ports writes junk to those of a machine's devices.
func ports([]string) {
	runtime.LockOSThread() // the right is a thread's
	const iopl = 172       // of amd64, which alone has such ports
	if runtime.GOARCH == "amd64" {
		if _, _, errno := unix.RawSyscall(iopl, 3, 0, 0); errno != 0 {
			breach("ports", "%v", errno)
			return
		}
	}
	begun()
	// What QEMU and Firecracker have of a PC: timers and interrupts, keyboard and
	// reset, the clock, serial lines, a channel to firmware, with DMA, and power.
	for round := 0; ; round++ {
		for _, at := range []uint16{0x510, 0x511, 0x514, 0x518, 0x3f8, 0x3f9, 0x3fb, 0x70, 0x71, 0x501, 0x402, 0x600, 0x604, 0x608, 0x61, 0x43, 0x40, 0x92, 0xb2, 0x64, 0x60} {
			for _, junk := range []byte{0xff, 0x00, 0xa5, byte(round), 0x80, 0x01} {
				out(at, junk)
			}
		}
	}
}

// crash is the kernel's end.
func crash([]string) {
	begun()
	_ = os.WriteFile("/proc/sys/kernel/sysrq", []byte("1"), 0)
	_ = os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0)
}
