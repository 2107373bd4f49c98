package oci

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/network"
	"golang.org/x/sys/unix"
)

// scene is what a machine is put on stage with: mounts that are not attached
// anywhere yet, and namespaces by descriptors, for their paths are not there.
type scene struct {
	root          *os.File
	userNS, netNS *os.File // named by paths that the runtime can open
	mounts        []*os.File
	targets       []string // where mounts get attached, in this order
}

// setScene opens everything; close lets go of it once the machine runs.
func (d *Driver) setScene(ctx context.Context, r *machineRecord, p paths, att network.Attachment) (_ *scene, err error) {
	s := new(scene)
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if s.userNS, err = openForOthers(att.UserNS); err != nil {
		return nil, fail(err, "cannot open the machine's namespaces")
	}
	if s.netNS, err = openForOthers(att.NetNS); err != nil {
		return nil, fail(err, "cannot open the machine's namespaces")
	}
	if s.root, err = d.layers.mount(ctx, r.Spec, att); err != nil {
		return nil, err
	}
	if len(r.Spec.Mounts) == 0 {
		return s, nil
	}
	if err := os.Mkdir(p.mounts, 0o711); err != nil && !os.IsExist(err) {
		return nil, fail(err, "cannot make the machine's mounts")
	}
	for i, m := range r.Spec.Mounts {
		target := filepath.Join(p.mounts, strconv.Itoa(i))
		tree, err := openMount(m.Source, target, att)
		if err != nil {
			return nil, fail(err, "cannot make the machine's mounts")
		}
		s.mounts, s.targets = append(s.mounts, tree), append(s.targets, target)
	}
	return s, nil
}

// openForOthers opens a file whose name is then a path by which other
// processes get it, as long as it is open here.
func openForOthers(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return forOthers(fd), nil
}

// forOthers names a descriptor by a path by which other processes get it.
func forOthers(fd int) *os.File {
	return os.NewFile(uintptr(fd), fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd))
}

// openMount makes the mount point of an extra mount, and its mount: mapped
// where the source's file system can, so that IDs in there are the guest's,
// else as it is.
func openMount(source, target string, att network.Attachment) (*os.File, error) {
	info, err := os.Stat(source)
	if err != nil {
		return nil, errors.Wrap(err, errors.NotFound, "a mount's source is not there")
	}
	if info.IsDir() {
		err = os.Mkdir(target, 0o700)
	} else {
		err = os.WriteFile(target, nil, 0o600)
	}
	if err != nil {
		return nil, err
	}
	tree, err := mappedTree(source, att.UserNS)
	if errors.Is(err, unix.EINVAL) {
		return plainTree(source)
	}
	return tree, err
}

// attach mounts everything in the calling thread's mount namespace.
func (s *scene) attach(root string) error {
	if err := attachTree(s.root, root); err != nil {
		return &os.PathError{Op: "move_mount", Path: root, Err: err}
	}
	for i, m := range s.mounts {
		if err := attachTree(m, s.targets[i]); err != nil {
			return &os.PathError{Op: "move_mount", Path: s.targets[i], Err: err}
		}
	}
	return nil
}

func (s *scene) close() {
	for _, f := range append(s.mounts, s.root, s.userNS, s.netNS) {
		if f != nil {
			_ = f.Close()
		}
	}
}
