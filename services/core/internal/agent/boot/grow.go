package boot

import (
	"encoding/binary"
	"os"
	"unsafe"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"golang.org/x/sys/unix"
)

// resizeFS makes a mounted ext4 file system larger: EXT4_IOC_RESIZE_FS of linux/ext4.h.
const resizeFS = 0x40086610

// grow makes a mounted file system as large as its drive, which may have become
// larger since it was mounted last.
func grow(drive string, mounted *os.File) error {
	f, err := os.Open(drive)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	var size uint64
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.BLKGETSIZE64, uintptr(unsafe.Pointer(&size))); errno != 0 {
		return os.NewSyscallError("BLKGETSIZE64", errno)
	}
	super := make([]byte, 1024)
	if _, err := f.ReadAt(super, 1024); err != nil {
		return err
	}
	little := binary.LittleEndian
	shift := little.Uint32(super[24:]) // of the size of a block, from 1 KiB
	if shift > 6 {
		return errors.New(errors.Internal, "the file system's blocks are of no known size")
	}
	blocks := uint64(little.Uint32(super[4:]))
	if little.Uint32(super[0x60:])&0x80 != 0 { // there are more bits of it: INCOMPAT_64BIT
		blocks |= uint64(little.Uint32(super[0x150:])) << 32
	}
	wanted := size >> (10 + shift)
	if wanted <= blocks {
		return nil
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, mounted.Fd(), resizeFS, uintptr(unsafe.Pointer(&wanted))); errno != 0 {
		return os.NewSyscallError("EXT4_IOC_RESIZE_FS", errno)
	}
	return nil
}
