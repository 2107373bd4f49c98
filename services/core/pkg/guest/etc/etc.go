// Package etc is what a machine's /etc says of the machine itself: its name,
// its address and whom it asks for names (hostname(5), hosts(5),
// resolv.conf(5)). It says the same whether the host writes the files or the
// guest's agent does.
package etc

import (
	"fmt"
	"net/netip"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// noAddress is Debian's for hosts without an address of their own.
const noAddress = "127.0.1.1"

// Files are the files' contents by their names in /etc. A machine without a
// network has the zero Addr.
func Files(hostname string, own netip.Addr, dns []netip.Addr) map[string]string {
	address := noAddress
	if own.IsValid() {
		address = own.String()
	}
	var resolv strings.Builder
	for _, server := range dns {
		fmt.Fprintf(&resolv, "nameserver %s\n", server)
	}
	return map[string]string{
		"hostname": hostname + "\n",
		"hosts": "127.0.0.1\tlocalhost\n" +
			"::1\tlocalhost ip6-localhost ip6-loopback\n" +
			"ff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n" +
			address + "\t" + hostname + "\n",
		"resolv.conf": resolv.String(),
	}
}

// Update has files of a directory say something else. What is there is written
// to where it can be no other's: it costs the least, and whoever watches a file
// keeps it. Everything else Write replaces.
func Update(dir *os.File, files map[string]string, own func(*os.File) error) error {
	others := map[string]string{}
	for name, content := range files {
		done, err := rewrite(int(dir.Fd()), name, content)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if !done {
			others[name] = content
		}
	}
	return Write(dir, others, own)
}

// rewrite writes to a file that is just as Write makes them, whoever owns it.
func rewrite(at int, name, content string) (done bool, err error) {
	fd, err := unix.Openat2(at, name, &unix.OpenHow{
		Flags:   unix.O_WRONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_NO_XDEV, // what a guest mounted there may never answer
	})
	if err != nil {
		return false, nil //nolint:nilerr // it may be replaced
	}
	defer func() { _ = unix.Close(fd) }()
	var is unix.Stat_t
	if err := unix.Fstat(fd, &is); err != nil || is.Mode != unix.S_IFREG|0o644 || is.Nlink != 1 {
		return false, err
	}
	if n, err := unix.Pwrite(fd, []byte(content), 0); err != nil || n < len(content) {
		return false, err
	}
	if is.Size > int64(len(content)) {
		err = unix.Ftruncate(fd, int64(len(content)))
	}
	return err == nil, err
}

// Write puts new files in the place of whatever has their names in a directory
// that a guest may have filled: no link of it is followed. own gives each file
// to its owner before it is seen.
func Write(dir *os.File, files map[string]string, own func(*os.File) error) error {
	const tmp = ".aetherium-new"
	at := int(dir.Fd())
	for name, content := range files {
		if err := unix.Unlinkat(at, tmp, 0); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("%s: %w", name, err)
		}
		fd, err := unix.Openat(at, tmp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o644)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		f := os.NewFile(uintptr(fd), name)
		_, err = f.WriteString(content)
		err = errors.Join(err, f.Chmod(0o644), own(f), f.Close())
		if err == nil {
			err = unix.Renameat(at, tmp, at, name)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}
