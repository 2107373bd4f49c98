package kernel

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/microvm"
)

// format is part of what a built kernel is named by: it changes with what is
// made of the same kernel and agent.
const format = "aetherium kernel 2"

// The files of a built kernel.
const (
	fileImage  = "vmlinuz"
	fileELF    = "vmlinux"
	fileInitrd = "initrd"
)

// Build makes what guests boot, of a kernel and the agent's binary, in a
// directory below cache that is named by the contents of both; what is there
// already is not made again. It is whole or not there at all, whenever the
// process is killed, and several may make it at once.
// Returns InvalidArgument, Unsupported, NoSpace.
func Build(ctx context.Context, from Source, agent, cache string) (microvm.Kernel, error) {
	image, err := os.ReadFile(from.Image)
	if err != nil {
		return microvm.Kernel{}, errors.Wrap(err, errors.InvalidArgument, "the kernel cannot be read").WithHint(noKernel)
	}
	release, err := version(image)
	if err != nil {
		return microvm.Kernel{}, err
	}
	program, err := os.ReadFile(agent)
	if err != nil {
		return microvm.Kernel{}, errors.Wrap(err, errors.Unsupported, "the guest agent is not installed")
	}
	if !isELF(program) {
		return microvm.Kernel{}, errors.New(errors.InvalidArgument, "the guest agent is not a program")
	}
	list, err := modules(from.Modules)
	if err != nil {
		return microvm.Kernel{}, err
	}
	if err := ctx.Err(); err != nil {
		return microvm.Kernel{}, err
	}
	initrd := initramfs(program, list)
	sum := sha256.New()
	for _, part := range [][]byte{[]byte(format), image, initrd} {
		fmt.Fprintf(sum, "%d\n", len(part))
		sum.Write(part)
	}
	dir := filepath.Join(cache, hex.EncodeToString(sum.Sum(nil))[:32])
	k := microvm.Kernel{
		Version: release,
		Image:   filepath.Join(dir, fileImage), ELF: filepath.Join(dir, fileELF), Initrd: filepath.Join(dir, fileInitrd),
	}
	if _, err := os.Stat(dir); err == nil {
		return k, nil
	}
	elf, err := vmlinux(image)
	if err != nil {
		return microvm.Kernel{}, err
	}
	if err := write(dir, map[string][]byte{fileImage: image, fileELF: elf, fileInitrd: initrd}); err != nil {
		return microvm.Kernel{}, errors.Wrap(err, errors.NoSpace, "the kernel for guests cannot be written to %s", cache)
	}
	return k, nil
}

// initramfs is the archive that the kernel unpacks as the guest's first root.
func initramfs(agent []byte, list []module) []byte {
	var a archive
	for _, dir := range []string{"dev", "modules", "proc", "sys"} {
		a.dir(dir)
	}
	// The kernel opens the first for the agent, which starts with nothing else;
	// Go's runtime opens the second in place of what is not open, or gives up.
	a.char("dev/console", 0o600, 5, 1)
	a.char("dev/null", 0o666, 1, 3)
	a.file("init", 0o755, agent)
	a.file("modules/order", 0o644, order(list))
	for _, m := range list {
		a.file("modules/"+m.name+".ko", 0o644, m.content)
		if m.signature != nil {
			a.file("modules/"+m.name+".sig", 0o644, m.signature)
		}
	}
	return a.bytes()
}

// write makes a directory with files, all at once.
func write(dir string, files map[string][]byte) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), ".new-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	for name, content := range files {
		if err := writeFile(filepath.Join(tmp, name), content); err != nil {
			return err
		}
	}
	if err := os.Chmod(tmp, 0o755); err != nil {
		return err
	}
	err = os.Rename(tmp, dir)
	if _, there := os.Stat(dir); there == nil {
		return nil // another was faster
	}
	return err
}

func writeFile(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
}
