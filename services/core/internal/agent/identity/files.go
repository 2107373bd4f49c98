package identity

import (
	"crypto/rand"
	"encoding/hex"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/guest/etc"
)

const (
	// toldFile holds what the machine's files were made of, across boots.
	toldDir, toldFile = "var/lib/aetherium", "identity"
	maxTold           = 64 << 10

	machineIDFile = "etc/machine-id"
	dbusIDFile    = "var/lib/dbus/machine-id"
)

// told is what was last written into the machine's files: a guest's own changes
// to them stay until the host says otherwise.
type told struct {
	hostname, address, dns, machineID string
}

func (i Identity) told() told {
	t := told{hostname: i.Hostname, machineID: i.MachineID}
	if a := i.address(); a.IsValid() {
		t.address = a.String()
	}
	for _, server := range i.DNS {
		t.dns += server.String() + " "
	}
	return t
}

// String is a line for each, as the file has it that lastTold reads.
func (t told) String() string {
	return t.hostname + "\n" + t.address + "\n" + t.dns + "\n" + t.machineID + "\n"
}

// files writes what the machine's files say of it. A disk that is full, or an
// /etc that the guest made unusable, is the guest's trouble.
func (k *Keeper) files(i Identity) {
	last, known := k.lastTold()
	now := i.told()
	var errs []error
	if !known || last.hostname != now.hostname || last.address != now.address || last.dns != now.dns {
		files := etc.Files(i.Hostname, i.address(), i.DNS)
		if known && last.address == now.address && last.dns == now.dns {
			delete(files, "resolv.conf") // says nothing of the name
		}
		errs = append(errs, k.write("etc", files, known))
	}
	switch {
	case i.MachineID != "" && (i.Fork || !known || last.machineID != i.MachineID):
		errs = append(errs, k.writeMachineID(i.MachineID, known))
	// A machine that goes on as itself was seen to have one.
	case i.MachineID == "" && (i.Fork || k.last == nil && !k.hasMachineID()):
		errs = append(errs, k.writeMachineID(drawID(), known))
	}
	if err := errors.Join(errs...); err != nil {
		k.Log.Warn("the machine's files do not say who it is", "error", err)
		return
	}
	if known && last == now {
		return
	}
	if err := k.write(toldDir, map[string]string{toldFile: now.String()}, known); err != nil {
		k.Log.Warn("what the machine was told is not remembered", "error", err)
		return
	}
	k.last = &now
}

func (k *Keeper) path(name string) string { return filepath.Join("/", k.Root, name) }

// lastTold is what the machine was told last, also before its last boot.
func (k *Keeper) lastTold() (last told, known bool) {
	if k.last != nil {
		return *k.last, true
	}
	f, err := os.Open(k.path(filepath.Join(toldDir, toldFile)))
	if err != nil {
		return told{}, false
	}
	defer func() { _ = f.Close() }()
	text, err := io.ReadAll(io.LimitReader(f, maxTold))
	lines := strings.Split(string(text), "\n")
	if err != nil || len(lines) != 5 {
		return told{}, false
	}
	return told{lines[0], lines[1], lines[2], lines[3]}, true
}

// write has the files in a directory say something else. Those that were written
// before are there to be written to: a template's would be copied first.
func (k *Keeper) write(name string, files map[string]string, before bool) error {
	dir, err := openDir(k.path(name))
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	own := func(f *os.File) error { return f.Chown(0, 0) }
	if before {
		return etc.Update(dir, files, own)
	}
	return etc.Write(dir, files, own)
}

// openDir opens a directory, and makes it if need be. It is not to be waited for,
// and so spared what makes files so.
func openDir(path string) (*os.File, error) {
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC
	fd, err := unix.Open(path, flags, 0)
	if errors.Is(err, unix.ENOENT) {
		if err := os.MkdirAll(path, 0o755); err != nil {
			return nil, err
		}
		fd, err = unix.Open(path, flags, 0)
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// Foresee looks for what a fork looks for, so that the kernel remembers what
// there is, and what there is not.
func (k *Keeper) Foresee() {
	_ = k.hostKeys()
	var is unix.Stat_t
	for _, name := range []string{machineIDFile, dbusIDFile, filepath.Join(toldDir, toldFile)} {
		_ = unix.Lstat(k.path(name), &is) // that it is not there is remembered as well
	}
}

// hasMachineID tells whether the machine has an ID that is one (machine-id(5)).
func (k *Keeper) hasMachineID() bool {
	f, err := os.Open(k.path(machineIDFile))
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }()
	raw, err := io.ReadAll(io.LimitReader(f, 64))
	id := strings.TrimSpace(string(raw))
	return err == nil && id != "" && id != "uninitialized"
}

// writeMachineID writes the ID, and D-Bus's copy where it is a file of its own.
func (k *Keeper) writeMachineID(id string, before bool) error {
	content := strings.ToLower(id) + "\n"
	err := k.write(filepath.Dir(machineIDFile), map[string]string{filepath.Base(machineIDFile): content}, before)
	if info, statErr := os.Lstat(k.path(dbusIDFile)); statErr == nil && info.Mode().IsRegular() {
		err = errors.Join(err, k.write(filepath.Dir(dbusIDFile), map[string]string{filepath.Base(dbusIDFile): content}, before))
	}
	return err
}

// drawID draws a random ID, a UUID of version 4 as machine-id(5) wants it.
func drawID() string {
	id := make([]byte, 16)
	_, _ = rand.Read(id) // never fails
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80
	return hex.EncodeToString(id)
}
