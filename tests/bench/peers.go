package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// firstOutput runs a command and says how long it took until the first byte
// of its stdout; then it lets it end.
func firstOutput(ctx context.Context, name string, args ...string) (time.Duration, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	if _, err := io.ReadFull(out, make([]byte, 1)); err != nil {
		_ = cmd.Wait()
		return 0, fmt.Errorf("no output: %s", firstLine(stderr.String()))
	}
	took := time.Since(start)
	if _, err := io.Copy(io.Discard, out); err != nil {
		return 0, err
	}
	if err := cmd.Wait(); err != nil {
		return 0, fmt.Errorf("%w: %s", err, firstLine(stderr.String()))
	}
	return took, nil
}

// whole runs a command and says how long it took to its end.
func whole(ctx context.Context, name string, args ...string) (time.Duration, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	start := time.Now()
	out, err := cmd.CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("%w: %s", err, firstLine(string(out)))
	}
	return time.Since(start), nil
}

// docker is an engine of the benchmark's own, in a network namespace of its
// own, so that nothing of the host changes.
type docker struct {
	sock string
	cmd  *exec.Cmd
	dir  string
	run  string
}

const dockerImage = "aetherium-bench"

func startDocker(ctx context.Context, dir, run, rootfs string) (*docker, error) {
	for _, tool := range []string{"dockerd", "docker"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, fmt.Errorf("%s is not installed", tool)
		}
	}
	d := &docker{sock: "unix://" + filepath.Join(dir, "d.sock"), dir: dir, run: run}
	log, err := os.Create(filepath.Join(dir, "dockerd.log"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }()
	d.cmd = exec.Command("unshare", "--net", "--", "sh", "-c", "ip link set lo up; exec dockerd \"$@\"", "dockerd", //nolint:noctx // ended by stop
		"--host="+d.sock, "--data-root="+filepath.Join(dir, "data"), "--exec-root="+run,
		"--pidfile="+filepath.Join(dir, "pid"))
	d.cmd.Stdout, d.cmd.Stderr = log, log
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	if err := d.wait(ctx); err != nil {
		d.stop()
		return nil, err
	}
	tar := exec.CommandContext(ctx, "tar", "-C", rootfs, "--numeric-owner", "-c", ".")
	imp := exec.CommandContext(ctx, "docker", "-H", d.sock, "import", "-", dockerImage)
	if imp.Stdin, err = tar.StdoutPipe(); err != nil {
		return nil, err
	}
	var complaint bytes.Buffer
	imp.Stderr = &complaint
	if err := tar.Start(); err != nil {
		return nil, err
	}
	if err := imp.Run(); err != nil {
		d.stop()
		return nil, fmt.Errorf("docker import: %w: %s", err, firstLine(complaint.String()))
	}
	return d, tar.Wait()
}

// wait until the engine answers, at most half a minute.
func (d *docker) wait(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		out, err := exec.CommandContext(ctx, "docker", "-H", d.sock, "version", "--format", "{{.Server.Version}}").CombinedOutput()
		if err == nil {
			return nil
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("dockerd does not answer: %s", firstLine(string(out)))
		}
	}
}

func (d *docker) stop() {
	_ = d.cmd.Process.Signal(os.Interrupt)
	_ = d.cmd.Wait()
}

// owns reports whether a process, by its directory in /proc, is the engine's or
// in one of its containers.
func (d *docker) owns(dir string) bool {
	return fileHas(dir+"/cmdline", d.dir, d.run) || fileHas(dir+"/cgroup", "/docker/")
}

func (d *docker) args(args ...string) []string { return append([]string{"-H", d.sock}, args...) }

// runcBundle makes an OCI bundle over rootfs by `runc spec`, read-only and
// without a terminal.
func runcBundle(ctx context.Context, dir, rootfs string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, "runc", "spec", "--bundle", dir).CombinedOutput(); err != nil {
		return fmt.Errorf("runc spec: %w: %s", err, firstLine(string(out)))
	}
	file := filepath.Join(dir, "config.json")
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var spec map[string]any
	if err := json.Unmarshal(text, &spec); err != nil {
		return err
	}
	spec["root"] = map[string]any{"path": rootfs, "readonly": true}
	process := spec["process"].(map[string]any)
	process["terminal"] = false
	process["args"] = []string{"echo", "hi"}
	if text, err = json.Marshal(spec); err != nil {
		return err
	}
	return os.WriteFile(file, text, 0o600)
}

// have reports whether a peer's tool is installed, and says so if it is not.
func have(log io.Writer, tool string) bool {
	if _, err := exec.LookPath(tool); err != nil {
		fmt.Fprintf(log, "%s is not installed: left out\n", tool)
		return false
	}
	return true
}

// works tries a peer once and says why it is left out if it does not run here.
func works(ctx context.Context, log io.Writer, c contender) bool {
	if _, err := c.once(ctx); err != nil {
		fmt.Fprintf(log, "%s does not run here, left out: %s\n", c.name, strings.TrimSpace(err.Error()))
		return false
	}
	return true
}
