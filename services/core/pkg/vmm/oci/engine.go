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
	runc "github.com/containerd/go-runc"
	"golang.org/x/sys/unix"
)

// engine is the OCI runtime's command line and what is particular about it.
type engine struct {
	path    string
	root    string // where the runtime keeps its own state
	kind    string // runc, crun, runsc
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
	default:
		r.kind = "runc"
	}
	return r, nil
}

// isolation is what the runtime puts between a machine and its host.
func (r *engine) isolation() domain.Isolation {
	if r.kind == "runsc" {
		return domain.IsolationGVisor
	}
	return domain.IsolationContainer
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
