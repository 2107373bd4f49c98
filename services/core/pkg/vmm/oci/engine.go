package oci

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/inmemory"
	runc "github.com/containerd/go-runc"
	"golang.org/x/sys/unix"
)

// engine is the OCI runtime's command line and what is particular about it.
type engine struct {
	path    string
	exe     *os.File // what is run in path's stead, where that is not nil
	root    string   // where the runtime keeps its own state
	kind    string   // runc, crun, runsc
	version string
	// passFD: it can hand an open descriptor to the container's first process.
	passFD bool
}

// findEngine resolves the configured runtime and asks it who it is.
func findEngine(ctx context.Context, cfg *Config) (*engine, error) {
	path, err := exec.LookPath(cfg.Runtime)
	if err != nil {
		return nil, errors.Wrap(err, errors.Unsupported, "the OCI runtime %q is not installed", cfg.Runtime).
			WithHint("install runc, or name another runtime in the configuration")
	}
	if path, err = filepath.Abs(path); err != nil {
		return nil, errors.Wrap(err, errors.Unsupported, "the OCI runtime %q cannot be found", cfg.Runtime)
	}
	r := &engine{path: path, root: cfg.runtimeRoot(), passFD: true}
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return nil, errors.Wrap(err, errors.Unsupported, "the OCI runtime %q does not run", cfg.Runtime)
	}
	first, _, _ := strings.Cut(string(out), "\n")
	r.version = strings.TrimSpace(first)
	switch name := filepath.Base(path); {
	case strings.HasPrefix(r.version, "runsc") || strings.HasPrefix(name, "runsc"):
		r.kind = "runsc"
		help, _ := exec.CommandContext(ctx, path, "help", "run").CombinedOutput()
		r.passFD = bytes.Contains(help, []byte("-pass-fd"))
	case strings.HasPrefix(r.version, "crun") || strings.HasPrefix(name, "crun"):
		r.kind = "crun"
		if r.exe, err = sealedCopy(path); err != nil {
			return nil, errors.Wrap(err, errors.Unsupported, "the OCI runtime %q cannot be read", cfg.Runtime)
		}
	default:
		r.kind = "runc"
	}
	return r, nil
}

// sealedCopy is a program in memory that nobody can change any more. crun makes such a copy of itself
// and begins anew in it at every start, so that a guest that gets hold of
// /proc/self/exe does not hold the host's program (CVE-2019-5736); when it finds
// itself in one already, it does not.
func sealedCopy(path string) (*os.File, error) {
	src, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	return inmemory.Program(filepath.Base(path), src)
}

func (r *engine) close() error {
	if r.exe == nil {
		return nil
	}
	return r.exe.Close()
}

// isolation is what the runtime puts between a machine and its host.
func (r *engine) isolation() domain.Isolation {
	if r.kind == "runsc" {
		return domain.IsolationGVisor
	}
	return domain.IsolationContainer
}

// hidden lists mounts that the runtime must not see. crun refuses to work when
// some controllers are in version 1 and some in version 2 of control groups;
// where both are mounted those that count are in version 1 (systemd calls that
// hybrid), and without the mount of version 2 it finds nothing amiss.
func (r *engine) hidden() []string {
	if r.kind == "crun" {
		return []string{"/sys/fs/cgroup/unified"}
	}
	return nil
}

// client is the command line with a log of its own.
func (r *engine) client(log string) *runc.Runc {
	return &runc.Runc{
		Command: r.path, Root: r.root, Log: log, LogFormat: runc.JSON,
		// A runtime that outlives us in the middle of a start would make a
		// machine after somebody else has cleaned up; and signals to our
		// terminal are not for it.
		PdeathSignal: unix.SIGKILL, Setpgid: true,
	}
}

// run starts a container and returns when its first process runs. The runtime
// is started by a thread that prepare has prepared, and inherits its namespaces;
// so it is done here and not by the client, which uses a thread of its own.
func (r *engine) run(ctx context.Context, p paths, listener *os.File, prepare func() error) error {
	args := []string{"--root", r.root, "--log", p.log, "--log-format", "json", "run", "--detach", "--bundle", p.bundle, "--pid-file", p.pidFile}
	switch r.kind {
	case "runsc":
		args = append(args, "--pass-fd", "3:3")
	default:
		// A session keyring per container costs a quota of the mapped root and
		// serves nothing here; the seccomp profile denies keyctl anyway.
		args = append(args, "--no-new-keyring", "--preserve-fds", "1")
	}
	null, err := nullDevice()
	if err != nil {
		return errors.Wrap(err, errors.Internal, "cannot make the machine's null device")
	}
	defer null.Close()
	cmd := exec.CommandContext(ctx, r.path, append(args, p.container)...)
	if r.exe != nil {
		cmd.Path = r.exe.Name()
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = null, null, null
	cmd.ExtraFiles = []*os.File{listener}
	// With it, a runtime speaks to whoever supervises us.
	cmd.Env = slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, "NOTIFY_SOCKET=") })
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL} // see client
	err = onOwnThread(func() error {
		if err := prepare(); err != nil {
			return fail(err, "cannot mount the machine's root")
		}
		return cmd.Run() // to its end: it is killed when this thread ends
	})
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return errors.Wrap(errors.Join(err, lastLogged(p.log)), errors.Internal, "the OCI runtime could not start the machine")
}

// remove removes what the runtime keeps of a container whose processes have
// ended. Nothing there is success. What runc and crun keep is a directory;
// control group, mounts and namespaces are removed by us, and asking the
// runtime to find that out takes half the time of a start.
func (r *engine) remove(ctx context.Context, p paths) error {
	if r.kind != "runsc" {
		return fail(os.RemoveAll(filepath.Join(r.root, p.container)), "cannot remove the OCI runtime's state")
	}
	log := ""
	if _, err := os.Stat(p.bundle); err == nil {
		log = p.log
	}
	if err := r.client(log).Delete(ctx, p.container, &runc.DeleteOpts{Force: true}); err != nil && ctx.Err() == nil {
		// A container whose state was half written cannot be read by the runtime.
		if err := os.RemoveAll(filepath.Join(r.root, p.container)); err != nil {
			return fail(err, "cannot remove the OCI runtime's state")
		}
	}
	return ctx.Err()
}

// containers lists what the runtime keeps, by our names.
func (r *engine) containers() ([]string, error) {
	entries, err := os.ReadDir(r.root)
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue // crun keeps compiled seccomp filters there
		}
		names = append(names, e.Name())
	}
	return names, nil
}

// lastLogged is the last error in the runtime's log.
func lastLogged(log string) error {
	raw, err := os.ReadFile(log)
	if err != nil {
		return nil //nolint:nilerr // no log, no last error
	}
	var last string
	for line := range bytes.Lines(raw) {
		var entry struct{ Level, Msg string }
		if json.Unmarshal(line, &entry) == nil && entry.Level == "error" {
			last = entry.Msg
		}
	}
	if last == "" {
		return nil
	}
	return errors.Plain(last)
}
