package firecracker

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"golang.org/x/sys/unix"
)

// host is what was found out about this host.
type host struct {
	binary, jailer program
	version        release
	cpu            string
}

// String is the engine's version: memory is restored only where it is the same.
func (h *host) String() string { return h.version.String() + " kvm " + h.cpu }

// program is one that was found, and its file, to see that another was installed.
type program struct {
	path string
	file os.FileInfo
}

func findProgram(name string) (program, error) {
	path, err := find(name)
	if err != nil {
		return program{}, err
	}
	file, err := os.Stat(path)
	if err != nil {
		return program{}, errors.Wrap(err, errors.Unsupported, "%s is not installed", filepath.Base(name))
	}
	return program{path, file}, nil
}

// is reports whether a program is still the one that was looked at.
func (p program) is(now program) bool {
	return p.path == now.path && os.SameFile(p.file, now.file) && p.file.ModTime().Equal(now.file.ModTime()) && p.file.Size() == now.file.Size()
}

// release is a version of Firecracker.
type release struct{ major, minor, patch int }

func (r release) String() string { return fmt.Sprintf("%d.%d.%d", r.major, r.minor, r.patch) }

func (r release) atLeast(major, minor int) bool {
	return r.major > major || r.major == major && r.minor >= minor
}

// oldest is the first release that the engine is made for.
const oldestMajor, oldestMinor = 1, 12

// check refuses releases that cannot be worked with. In the guests of 1.16.0 and
// 1.16.1 nothing can be reached any more after they stood still without being
// saved (Firecracker's change 6100 mends it).
func (r release) check() error {
	switch {
	case !r.atLeast(oldestMajor, oldestMinor):
		return errors.New(errors.Unsupported, "firecracker %s is too old", r).WithHint("install 1.12 or newer")
	case r == release{1, 16, 0} || r == release{1, 16, 1}:
		return errors.New(errors.Unsupported, "firecracker %s does not hear guests any more that were paused", r).
			WithHint("install another release: 1.12 to 1.15, or one after 1.16.1")
	}
	return nil
}

// Version finds Firecracker, its jailer and KVM. It is the monitor's version
// and the processor, of which both a memory snapshot is. Returns Unsupported.
func (e *Engine) Version(ctx context.Context) (string, error) {
	h, err := e.host(ctx)
	if err != nil {
		return "", err
	}
	return h.String(), nil
}

// host finds out what there is, and again when other programs are installed. What
// fails is tried again.
func (e *Engine) host(ctx context.Context) (*host, error) {
	e.looking.Lock()
	defer e.looking.Unlock()
	h := new(host)
	var err error
	if h.binary, err = findProgram(e.cfg.Binary); err != nil {
		return nil, err
	}
	if h.jailer, err = findProgram(e.cfg.Jailer); err != nil {
		return nil, err
	}
	if e.found != nil && e.found.binary.is(h.binary) && e.found.jailer.is(h.jailer) {
		return e.found, nil
	}
	if !strings.Contains(filepath.Base(h.binary.path), "firecracker") {
		return nil, errors.New(errors.Unsupported, "the jailer starts only programs whose name has \"firecracker\" in it").
			WithField("binary")
	}
	if h.version, err = releaseOf(ctx, h.binary.path); err != nil {
		return nil, err
	}
	jailer, err := releaseOf(ctx, h.jailer.path)
	switch {
	case err != nil:
		return nil, err
	case jailer != h.version:
		return nil, errors.New(errors.Unsupported, "firecracker is %s and its jailer %s", h.version, jailer).
			WithHint("install both from one release")
	}
	if err := h.version.check(); err != nil {
		return nil, err
	}
	if err := checkKVM(); err != nil {
		return nil, err
	}
	if h.cpu, err = processor(); err != nil {
		return nil, err
	}
	e.found = h
	return h, nil
}

var releasePattern = regexp.MustCompile(`\bv(\d+)\.(\d+)\.(\d+)`)

func releaseOf(ctx context.Context, path string) (release, error) {
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return release{}, errors.Wrap(err, errors.Unsupported, "%s cannot be run", filepath.Base(path))
	}
	return parseRelease(string(out))
}

func parseRelease(text string) (release, error) {
	line, _, _ := strings.Cut(text, "\n")
	m := releasePattern.FindStringSubmatch(line)
	if m == nil {
		return release{}, errors.New(errors.Unsupported, "firecracker does not tell its version")
	}
	var n [3]int
	for i := range n {
		n[i], _ = strconv.Atoi(m[i+1]) // digits; an absurd number is too new or too old
	}
	return release{n[0], n[1], n[2]}, nil
}

// checkKVM asks KVM for the version of its API, which is 12 for good. Whether
// guests run is seen only when one does.
func checkKVM() error {
	const getVersion, stable = 0xae00, 12 // KVM_GET_API_VERSION of linux/kvm.h
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return errors.Wrap(err, errors.Unsupported, "this host has no KVM").
			WithHint("enable virtualisation (in a virtual machine: nested virtualisation) and load kvm_intel or kvm_amd")
	}
	defer f.Close()
	v, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), getVersion, 0)
	if errno != 0 || v != stable {
		return errors.New(errors.Unsupported, "this host's KVM does not answer")
	}
	return nil
}

// processor names the processor with its features: a guest's kernel decided at
// boot which of them to use.
func processor() (string, error) {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return "", errors.Wrap(err, errors.Unsupported, "cannot tell which processor this is")
	}
	defer f.Close()
	facts := map[string]string{}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		key, value, _ := strings.Cut(lines.Text(), ":")
		if key = strings.TrimSpace(key); key == "" {
			break // the first processor's
		}
		facts[key] = strings.TrimSpace(value)
	}
	sum := sha256.Sum256([]byte(facts["flags"] + facts["Features"]))
	return fmt.Sprintf("%s/%s/%s/%s/%s", facts["vendor_id"], facts["cpu family"], facts["model"], facts["stepping"],
		hex.EncodeToString(sum[:4])), nil
}
