package identity

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/guest/etc"
)

const (
	// toldFile holds what the machine's files were made of, across boots.
	toldFile = "var/lib/aetherium/identity.json"
	maxTold  = 64 << 10

	machineIDFile = "etc/machine-id"
	dbusIDFile    = "var/lib/dbus/machine-id"
)

// told is what was last written into the machine's files: a guest's own changes
// to them stay until the host says otherwise.
type told struct {
	Hostname  string       `json:"hostname"`
	Address   netip.Addr   `json:"address"`
	DNS       []netip.Addr `json:"dns"`
	MachineID string       `json:"machine_id"`
}

// files writes what the machine's files say of it. A disk that is full, or an
// /etc that the guest made unusable, is the guest's trouble.
func (k *Keeper) files(i Identity) {
	last, now := k.lastTold(), told{Hostname: i.Hostname, Address: i.address(), DNS: i.DNS, MachineID: i.MachineID}
	var errs []error
	if last == nil || last.Hostname != now.Hostname || last.Address != now.Address || !slices.Equal(last.DNS, now.DNS) {
		errs = append(errs, k.writeEtc(now))
	}
	switch {
	case i.MachineID != "" && (i.Fork || last == nil || last.MachineID != i.MachineID):
		errs = append(errs, k.writeMachineID(i.MachineID))
	case i.MachineID == "" && (i.Fork || !k.hasMachineID()):
		errs = append(errs, k.writeMachineID(drawID()))
	}
	if err := errors.Join(errs...); err != nil {
		k.Log.Warn("the machine's files do not say who it is", "error", err)
		return
	}
	if last == nil || !last.equal(now) {
		if err := k.remember(now); err != nil {
			k.Log.Warn("what the machine was told is not remembered", "error", err)
		}
	}
}

func (t told) equal(o told) bool {
	return t.Hostname == o.Hostname && t.Address == o.Address && t.MachineID == o.MachineID && slices.Equal(t.DNS, o.DNS)
}

func (k *Keeper) path(name string) string { return filepath.Join("/", k.Root, name) }

func (k *Keeper) lastTold() *told {
	f, err := os.Open(k.path(toldFile))
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }()
	var last told
	if json.NewDecoder(io.LimitReader(f, maxTold)).Decode(&last) != nil {
		return nil
	}
	return &last
}

func (k *Keeper) remember(now told) error {
	raw, err := json.Marshal(now)
	if err != nil {
		return err
	}
	return k.replace(toldFile, map[string]string{filepath.Base(toldFile): string(raw) + "\n"})
}

func (k *Keeper) writeEtc(now told) error {
	return k.replace("etc/hostname", etc.Files(now.Hostname, now.Address, now.DNS))
}

// replace puts new files into the directory of the named one.
func (k *Keeper) replace(name string, files map[string]string) error {
	path := filepath.Dir(k.path(name))
	if err := os.MkdirAll(path, 0o755); err != nil {
		return err
	}
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	return etc.Write(dir, files, func(f *os.File) error { return f.Chown(0, 0) })
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
func (k *Keeper) writeMachineID(id string) error {
	content := strings.ToLower(id) + "\n"
	err := k.replace(machineIDFile, map[string]string{filepath.Base(machineIDFile): content})
	if info, statErr := os.Lstat(k.path(dbusIDFile)); statErr == nil && info.Mode().IsRegular() {
		err = errors.Join(err, k.replace(dbusIDFile, map[string]string{filepath.Base(dbusIDFile): content}))
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
