package oci

import (
	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// confine gives the spec Docker's default system call filter, for the
// capabilities the spec's process has and the kernel that runs.
func confine(spec *specs.Spec) error {
	profile, err := seccomp.GetDefaultProfile(spec)
	if err != nil {
		return errors.Wrap(err, errors.Internal, "cannot make the system call filter")
	}
	spec.Linux.Seccomp = profile
	return nil
}

// defaultCapabilities are Docker's. They hold inside the machine's user
// namespace only: root in there is an unprivileged user of the host.
func defaultCapabilities() []string {
	return []string{
		"CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID",
		"CAP_KILL", "CAP_MKNOD", "CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP",
		"CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
	}
}
