package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/aetherium/aetherium/services/core/pkg/guest/bootline"
)

// floor is the least that QEMU takes to a line from a machine like ours: with
// the same command line as the monitor of one of ours, but for what the server
// speaks with it by and its sandbox, the same kernel, the same initrd with a
// shell and a script as init besides, and the same root with a disk on top.
type floor struct {
	dir   string
	tuned []string // of QEMU and itself
	plain []string // as one starts it who has not looked where the time goes
	disk  string   // is written to
	base  string   // what the disk is at first
}

// needed are the modules that our agent loads before it is heard.
func needed() []string {
	return []string{"virtio_mmio", "virtio_blk", "virtio_console", "overlay", "erofs"}
}

// newFloor looks at one of ours that runs: modules is its /proc/modules, root
// the image of its template, base an empty disk of the size of its.
func newFloor(dir string, pid int, modules, root, base string) (*floor, error) {
	path, err := exec.LookPath("busybox")
	if err != nil {
		return nil, fmt.Errorf("busybox is not installed: %w", err)
	}
	busybox, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	// Its monitor was shown them under these names.
	files := map[string][]byte{"kernel": nil, "initrd": nil}
	for name := range files {
		if files[name], err = os.ReadFile(fmt.Sprintf("/proc/%d/root/%s", pid, name)); err != nil {
			return nil, err
		}
	}
	f := &floor{dir: dir, disk: filepath.Join(dir, "disk"), base: base}
	var script cpio
	script.add("bin", 0o040755, "")
	script.add("bin/busybox", 0o100755, string(busybox))
	for _, name := range []string{"sh", "mount", "insmod", "mkdir", "sleep"} {
		script.add("bin/"+name, 0o120777, "/bin/busybox")
	}
	for _, name := range []string{"lower", "disk", "new"} {
		script.add(name, 0o040755, "")
	}
	script.add("run", 0o100755, bootScript(modules))
	files["initrd"] = append(files["initrd"], script.end()...)
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return nil, err
		}
	}
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return nil, err
	}
	f.tuned = bareArgs(strings.Split(strings.TrimSuffix(string(raw), "\x00"), "\x00"), map[string]string{
		"/kernel": filepath.Join(dir, "kernel"), "/initrd": filepath.Join(dir, "initrd"), "/drive0": root, "/drive1": f.disk,
	})
	f.plain = plainArgs(f.tuned)
	return f, nil
}

// plainArgs is a command line with the same devices, kernel and initrd, and
// nothing that is there for speed.
func plainArgs(args []string) []string {
	out := slices.Clone(args)
	for i := range len(out) - 1 {
		switch out[i] {
		case "-machine":
			out[i+1] = "microvm,x-option-roms=off,rtc=on,auto-kernel-cmdline=on"
		case "-accel":
			out[i+1] = "tcg"
		case "-cpu":
			out[i+1] = "max"
		case "-append":
			// Without the latter a kernel stands still at times, waiting for emulated timers.
			needed := []string{"console", "quiet", "reboot", "panic", "rdinit", "tsc_early_khz", "tsc", "no_timer_check"}
			words := slices.DeleteFunc(strings.Fields(out[i+1]), func(w string) bool {
				name, _, _ := strings.Cut(w, "=")
				return !slices.Contains(needed, name)
			})
			out[i+1] = strings.Join(words, " ")
		}
	}
	return out
}

// bareArgs is a monitor's command line with other files, and without what the
// monitor is spoken with by and confined with. The agent's port is stdout.
func bareArgs(args []string, files map[string]string) []string {
	var out []string
	for i := 0; i < len(args); i++ {
		value := ""
		if i+1 < len(args) {
			value = args[i+1]
		}
		switch args[i] {
		case "-sandbox", "-mon":
			i++
			continue
		case "-chardev":
			i++
			if strings.Contains(value, "id=qmp") {
				continue
			}
			if strings.Contains(value, "id=agent") {
				value = "stdio,id=agent,signal=off"
			}
			out = append(out, "-chardev", value)
			continue
		case "-append":
			i++
			words := slices.DeleteFunc(strings.Fields(value), func(w string) bool { return strings.HasPrefix(w, bootline.Param) })
			out = append(out, "-append", strings.Join(append(words, "rdinit=/run"), " "))
			continue
		}
		word := args[i]
		for name, path := range files {
			if word == name {
				word = path
			}
			word = strings.Replace(word, "filename="+name+",", "filename="+path+",", 1)
		}
		out = append(out, word)
	}
	return out
}

// bootScript loads what is needed of the modules that a machine of ours has
// loaded, in its order, shows the root with the disk on top, and says so.
func bootScript(modules string) string {
	users := map[string][]string{}
	var order []string // the last loaded first
	for lines := bufio.NewScanner(strings.NewReader(modules)); lines.Scan(); {
		if words := strings.Fields(lines.Text()); len(words) > 3 {
			order = append(order, words[0])
			users[words[0]] = strings.Split(strings.Trim(words[3], ",-"), ",")
		}
	}
	var keep func(name string) bool
	keep = func(name string) bool {
		return slices.Contains(needed(), name) || slices.ContainsFunc(users[name], keep)
	}
	script := "#!/bin/sh\nmount -t devtmpfs dev /dev\n"
	for _, name := range slices.Backward(order) {
		if keep(name) {
			script += "insmod /modules/" + name + ".ko\n"
		}
	}
	return script + `mount -t erofs -o ro /dev/vda /lower
mount -t ext4 /dev/vdb /disk
mkdir /disk/upper /disk/work
mount -t overlay -o lowerdir=/lower,upperdir=/disk/upper,workdir=/disk/work overlay /new
port=
until [ -c "$port" ]; do for port in /dev/vport*p1; do :; done; done
echo hi >"$port"
exec sleep 3600
`
}

// once boots and says how long it took to the line.
func (f *floor) once(args []string) func(context.Context) (time.Duration, error) {
	return func(ctx context.Context) (time.Duration, error) { return f.boot(ctx, args) }
}

func (f *floor) boot(ctx context.Context, args []string) (took time.Duration, err error) {
	if out, err := exec.CommandContext(ctx, "cp", "--sparse=always", "--reflink=auto", f.base, f.disk).CombinedOutput(); err != nil {
		return 0, fmt.Errorf("%w: %s", err, firstLine(string(out)))
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	// Stdio is a terminal of QEMU's: its end must not be told.
	if _, err = cmd.StdinPipe(); err != nil {
		return 0, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	line := make([]byte, len("hi\n"))
	if _, err := io.ReadFull(out, line); err != nil || string(line) != "hi\n" {
		return 0, fmt.Errorf("QEMU said %q: %w: %s", line, err, firstLine(stderr.String()))
	}
	return time.Since(start), nil
}

// cpio is an archive that a kernel unpacks ("newc").
type cpio struct {
	buf   bytes.Buffer
	inode int
}

func (c *cpio) add(name string, mode int, content string) {
	c.inode++
	fmt.Fprintf(&c.buf, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
		c.inode+1<<16, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name)+1, 0, name)
	c.pad(4)
	c.buf.WriteString(content)
	c.pad(4)
}

func (c *cpio) pad(to int) {
	for c.buf.Len()%to != 0 {
		c.buf.WriteByte(0)
	}
}

func (c *cpio) end() []byte {
	c.add("TRAILER!!!", 0, "")
	c.pad(512)
	return c.buf.Bytes()
}
