// Package machine looks after the machine as a whole: what it uses, its clock,
// its random numbers, and its file systems before a snapshot.
package machine

import (
	"bufio"
	"encoding/binary"
	"os"
	"strings"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// clockTolerance is the difference to the host's clock that is left alone: a
// step disturbs programs more than it helps.
const clockTolerance = 100 * time.Millisecond

// Clock sets the machine's clock.
type Clock struct{}

// Set sets the clock if it is off. A machine that shares its host's clock has
// no right to, and no need.
func (*Clock) Set(now time.Time) {
	if d := time.Until(now); d > -clockTolerance && d < clockTolerance || now.Unix() <= 0 {
		return
	}
	ts, err := unix.TimeToTimespec(now)
	if err == nil {
		_ = unix.ClockSettime(unix.CLOCK_REALTIME, &ts)
	}
}

// Random is the kernel's random number generator. Its device stays open once it
// was: what goes on from memory need not find it again, where all that is done
// first is slow.
type Random struct {
	mu   sync.Mutex
	fd   int
	open bool
}

// Add mixes bytes from the host into the kernel's random numbers and
// has it reseed (random(4)): two machines restored from one snapshot must not
// draw the same keys. They count as what they are, random in every bit, so that
// a kernel that just booted has enough. Without the right to, the bytes are
// mixed in only.
func (r *Random) Add(seed []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.open {
		// Not an os.File, which would be waited for by epoll.
		fd, err := unix.Open("/dev/urandom", unix.O_WRONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return errors.Wrap(err, errors.Internal, "the machine has no /dev/urandom")
		}
		r.fd, r.open = fd, true
	}
	if credit(r.fd, seed) != nil { // needs CAP_SYS_ADMIN
		if _, err := unix.Write(r.fd, seed); err != nil {
			return errors.Wrap(err, errors.Internal, "entropy cannot be added")
		}
	}
	_ = unix.IoctlSetInt(r.fd, unix.RNDRESEEDCRNG, 0) // needs CAP_SYS_ADMIN; containers share the host's
	return nil
}

// credit adds bytes by RNDADDENTROPY, whose argument is struct rand_pool_info.
func credit(random int, seed []byte) error {
	info := make([]byte, 8, 8+len(seed))
	binary.NativeEndian.PutUint32(info, uint32(len(seed))*8) // bits
	binary.NativeEndian.PutUint32(info[4:], uint32(len(seed)))
	info = append(info, seed...)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(random), unix.RNDADDENTROPY, uintptr(unsafe.Pointer(&info[0])))
	if errno != 0 {
		return errno
	}
	return nil
}

// Sync writes the machine's file systems to disk, each by syncfs(2): sync(2)
// would write those of the whole host where the kernel is shared.
func Sync() {
	for _, dir := range mountPoints() {
		fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			continue
		}
		_ = unix.Syncfs(fd)
		_ = unix.Close(fd)
	}
}

const maxMounts = 256

// mountPoints are the directories on which file systems with a disk behind
// them are mounted for writing (proc_pid_mountinfo(5)).
func mountPoints() []string {
	dirs := []string{"/"}
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return dirs
	}
	defer func() { _ = f.Close() }()
	lines := bufio.NewScanner(f)
	for lines.Scan() && len(dirs) < maxMounts {
		before, after, ok := strings.Cut(lines.Text(), " - ")
		place, kind := strings.Fields(before), strings.Fields(after)
		if !ok || len(place) < 6 || len(kind) < 1 || place[4] == "/" || strings.HasPrefix(place[5], "ro") {
			continue
		}
		switch kind[0] {
		case "ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "overlay", "vfat", "zfs", "bcachefs":
			dirs = append(dirs, unescape(place[4]))
		}
	}
	return dirs
}

// unescape undoes the octal escapes of mountinfo.
func unescape(path string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(path)
}
