package boot

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// End ends the machine, whatever of it there is, and does not return. What was
// written is on the disk. A restart is what ends every monitor at once; to power
// off is more than some of them know.
func (m *Machine) End() {
	unix.Sync()
	if m != nil && m.disk != nil {
		// Where something still writes, the journal brings it in order.
		_ = unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
		_ = unix.Mount("", "/proc/self/fd/"+strconv.Itoa(int(m.disk.Fd())), "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
	}
	for _, how := range []int{unix.LINUX_REBOOT_CMD_RESTART, unix.LINUX_REBOOT_CMD_POWER_OFF} {
		_ = unix.Reboot(how)
	}
	os.Exit(1) // the kernel knows no end; its panic is one
}
