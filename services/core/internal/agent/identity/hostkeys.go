package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

const (
	sshDir   = "etc/ssh"
	keyNames = "ssh_host_*_key"
	rsaBits  = 3072 // ssh-keygen(1)'s default
)

// draw makes a key of the kind that a file's name tells, if that is quickly done.
func draw(name string) (key crypto.Signer, quick bool, err error) {
	switch name {
	case "ssh_host_ed25519_key":
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, true, err
	case "ssh_host_ecdsa_key":
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		return key, true, err
	}
	return nil, false, nil
}

// hostKeys are the files of the SSH host keys that there are.
func (k *Keeper) hostKeys() []string {
	var is unix.Stat_t
	if unix.Stat(k.path(sshDir), &is) != nil {
		return nil // as in most machines, and by less than it takes to match names
	}
	paths, _ := filepath.Glob(filepath.Join(k.path(sshDir), keyNames)) // the pattern is one
	return paths
}

// renewHostKeys replaces the SSH host keys that there are: the old ones go at
// once, whatever becomes of the new. An RSA key takes its time and comes later.
func (k *Keeper) renewHostKeys(hostname string) {
	paths := k.hostKeys()
	if len(paths) == 0 {
		return
	}
	slow, made := "", 0
	for _, path := range paths {
		if err := errors.Join(remove(path), remove(path+".pub")); err != nil {
			k.Log.Warn("an SSH host key of the machine's origin stays", "path", path, "error", err)
		}
		if filepath.Base(path) == "ssh_host_rsa_key" {
			slow = path
		}
		key, quick, err := draw(filepath.Base(path))
		if !quick {
			continue // later, or never: no server needs other kinds any more
		}
		if err == nil {
			err = writeKey(path, key, hostname)
		}
		if err != nil {
			k.Log.Warn("the machine has no new SSH host key", "path", path, "error", err)
			continue
		}
		made++
	}
	if made > 0 { // a server without keys would end
		reloadSSH()
	}
	if slow != "" {
		go k.renewRSA(slow, hostname, k.forks.Load())
	}
}

// renewRSA makes the key of a fork, unless the machine becomes another one
// meanwhile: what was drawn before would be in both.
func (k *Keeper) renewRSA(path, hostname string, fork int64) {
	key, err := rsa.GenerateKey(rand.Reader, rsaBits)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.forks.Load() != fork {
		return
	}
	if _, statErr := os.Lstat(path); statErr == nil {
		return // the guest has made one
	}
	if err == nil {
		err = writeKey(path, key, hostname)
	}
	if err != nil {
		k.Log.Warn("the machine has no new SSH host key", "path", path, "error", err)
		return
	}
	reloadSSH()
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// writeKey writes both halves as ssh-keygen(1) does; the secret one is never
// readable by others.
func writeKey(path string, key crypto.Signer, hostname string) error {
	comment := "root@" + hostname
	block, err := ssh.MarshalPrivateKey(key, comment)
	if err != nil {
		return err
	}
	public, err := ssh.NewPublicKey(key.Public())
	if err != nil {
		return err
	}
	line := strings.TrimSuffix(string(ssh.MarshalAuthorizedKey(public)), "\n") + " " + comment + "\n"
	return errors.Join(
		writeMode(path, pem.EncodeToMemory(block), 0o600),
		writeMode(path+".pub", []byte(line), 0o644),
	)
}

// writeMode makes a file of root's that appears as a whole.
func writeMode(path string, content []byte, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".aetherium-*") // 0600
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Chmod(mode), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}

// reloadSSH has servers read their keys again (sshd(8), SIGHUP). Those that
// serve one connection are children of theirs, and left alone: it would end them.
func reloadSSH() {
	all := servers()
	for pid, parent := range all {
		if _, child := all[parent]; !child {
			_ = syscall.Kill(pid, syscall.SIGHUP)
		}
	}
}

// servers are root's processes that run sshd, with their parents (proc_pid_stat(5)).
func servers() map[int]int {
	found := map[int]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		raw, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		head, tail, ok := strings.Cut(string(raw), " (sshd) ")
		pid, err := strconv.Atoi(head)
		if !ok || err != nil {
			continue
		}
		info, err := os.Stat(filepath.Dir(path))
		if err != nil || info.Sys().(*syscall.Stat_t).Uid != 0 {
			continue
		}
		var state byte
		var parent int
		if _, err := fmt.Sscanf(tail, "%c %d", &state, &parent); err == nil {
			found[pid] = parent
		}
	}
	return found
}
