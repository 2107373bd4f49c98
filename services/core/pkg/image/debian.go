package image

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

const (
	// DefaultSuite is the Debian release of packages where a source names none.
	DefaultSuite = "bookworm"

	maxPackages = 500
	tailLines   = 20 // of output kept to explain a failure
)

// Debian policy §5.6.7 (names), §5.6.12 (versions). apt also takes paths,
// patterns and a trailing "-" (remove): none of them has this form.
var (
	packageForm = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]{0,126}[a-z0-9+.](:[a-z0-9-]{1,32})?(=[A-Za-z0-9.+:~-]{1,128})?$`)
	suiteForm   = regexp.MustCompile(`^[a-z][a-z0-9-]{1,31}$`)
)

// everyPackage is what any system of packages gets on top of Debian's minimal
// one: TLS, and root for the user.
var everyPackage = []string{"ca-certificates", "sudo"}

func checkPackages(suite string, packages []string) error {
	if suite != "" && !suiteForm.MatchString(suite) {
		return errors.New(errors.InvalidArgument, "%.64q is not a Debian release", suite).WithField("source.suite").WithHint("such as bookworm or trixie")
	}
	if len(packages) > maxPackages {
		return errors.New(errors.InvalidArgument, "%d packages are more than %d", len(packages), maxPackages).WithField("source.packages")
	}
	for _, p := range packages {
		if !packageForm.MatchString(p) || strings.Contains(p, "..") {
			return errors.New(errors.InvalidArgument, "%.140q is not a Debian package name", p).WithField("source.packages")
		}
	}
	return nil
}

// fromPackages installs Debian packages by mmdebstrap(1) into the tree.
func (b *build) fromPackages(ctx context.Context, suite string, packages []string) error {
	if suite == "" {
		suite = DefaultSuite
	}
	if err := checkPackages(suite, packages); err != nil {
		return err
	}
	program, err := exec.LookPath("mmdebstrap")
	if err != nil {
		return errors.Wrap(err, errors.Unsupported, "mmdebstrap is not installed on this node").
			WithHint("run scripts/install-deps.sh, or build from an OCI image or an archive")
	}
	args := []string{
		"--mode=root", "--format=directory", "--variant=minbase",
		"--include=" + strings.Join(append(append([]string{}, everyPackage...), packages...), ","),
		// As in Debian's slim images: what people read is not what programs need.
		"--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-include=/usr/share/doc/*/copyright",
		"--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/info/*",
		"--dpkgopt=path-exclude=/usr/share/locale/*", "--dpkgopt=path-include=/usr/share/locale/locale.alias",
		"--aptopt=Acquire::Languages \"none\"", "--aptopt=Acquire::Retries \"3\"",
		suite, b.root,
	}
	if b.cfg.DebianMirror != "" {
		args = append(args, b.cfg.DebianMirror)
	}
	b.say("packages", "installing %d packages on a minimal Debian %s", len(packages)+len(everyPackage), suite)
	out, err := b.helper(ctx, program, args)
	if err != nil {
		return packagesError(ctx, err, out)
	}
	return nil
}

// helper runs a program of the host and logs its output line by line. It and
// all that it starts live in PID and mount namespaces of their own, so that
// they end together, with ctx or with this process, and leave no mount.
func (b *build) helper(ctx context.Context, program string, args []string) (tail []string, err error) {
	scratch, err := os.MkdirTemp(b.tmp, "scratch-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(scratch)
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = "/"
	cmd.Env = append(passedOn("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SOURCE_DATE_EPOCH"),
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "HOME=/root", "TMPDIR="+scratch)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:   syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS,
		Unshareflags: syscall.CLONE_NEWNS, // with private propagation
		Pdeathsig:    syscall.SIGKILL,
	}
	cmd.WaitDelay = 10 * time.Second
	pr, pw := io.Pipe()
	cmd.Stdout, cmd.Stderr = pw, pw
	logged := make(chan struct{})
	go func() {
		defer close(logged)
		sc := bufio.NewScanner(pr)
		sc.Buffer(make([]byte, 4<<10), 256<<10)
		sc.Split(splitLines)
		for sc.Scan() {
			line := strings.TrimSpace(printable(sc.Text()))
			if line == "" {
				continue
			}
			b.say("packages", "%s", strings.TrimPrefix(line, "I: "))
			if tail = append(tail, line); len(tail) > tailLines {
				tail = tail[1:]
			}
		}
		_, _ = io.Copy(io.Discard, pr) // past an endless line the program must not block
	}()
	// Pdeathsig goes off when the thread that started the child ends, so it
	// must not end before: prctl(2), PR_SET_PDEATHSIG.
	runtime.LockOSThread()
	err = cmd.Run()
	runtime.UnlockOSThread()
	_ = pw.Close()
	<-logged
	return tail, err
}

func passedOn(names ...string) []string {
	var env []string
	for _, n := range names {
		if v, ok := os.LookupEnv(n); ok {
			env = append(env, n+"="+v)
		}
	}
	return env
}

// splitLines ends lines at \n and at the \r of progress displays.
func splitLines(data []byte, atEOF bool) (int, []byte, error) {
	if i := bytes.IndexAny(data, "\r\n"); i >= 0 {
		return i + 1, data[:i], nil
	}
	if atEOF && len(data) > 0 {
		return len(data), data, nil
	}
	return 0, nil, nil
}

// packagesError makes sense of mmdebstrap's last words.
func packagesError(ctx context.Context, err error, tail []string) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if !errors.As(err, new(*exec.ExitError)) {
		return errors.Wrap(err, errors.Unsupported, "mmdebstrap cannot be run on this node")
	}
	said := ""
	for _, l := range tail {
		if strings.HasPrefix(l, "E: ") && !strings.HasPrefix(l, "E: mmdebstrap failed") {
			said = strings.TrimPrefix(l, "E: ")
			break // the first is the cause
		}
	}
	all := strings.Join(tail, "\n")
	cause := errors.Plain(err.Error() + ": " + all)
	switch {
	case strings.Contains(all, "Unable to locate package"), strings.Contains(all, "has no installation candidate"),
		strings.Contains(all, "was not found"):
		return errors.Wrap(cause, errors.InvalidArgument, "a Debian package does not exist: %s", said).WithField("source.packages")
	case strings.Contains(all, "No space left on device"):
		return errors.Wrap(cause, errors.NoSpace, "the disk of the image store is full")
	case strings.Contains(all, "does not have a Release file"), strings.Contains(all, "Could not resolve"),
		strings.Contains(all, "Could not connect"), strings.Contains(all, "Failed to fetch"), strings.Contains(all, "Temporary failure"):
		return errors.Wrap(cause, errors.Unavailable, "the Debian mirror does not serve this: %s", said).
			WithHint("check the release's name and the network, then try again")
	}
	return errors.Wrap(cause, errors.Internal, "the Debian packages cannot be installed: %s", said)
}
