package oci

import (
	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// confine gives the spec Docker's default system call filter, for the
// capabilities the spec's process has and the kernel that runs. It holds for
// the native system call table alone: the runtime builds the filter anew for
// each table and each start, which is most of what it costs, and the 32-bit
// tables are attack surface that few guests need. A program that uses them is
// killed (libseccomp, seccomp_attr_set(3), SCMP_FLTATR_ACT_BADARCH).
func confine(spec *specs.Spec) error {
	profile, err := seccomp.GetDefaultProfile(spec)
	if err != nil {
		return errors.Wrap(err, errors.Internal, "cannot make the system call filter")
	}
	if len(profile.Architectures) > 1 {
		profile.Architectures = profile.Architectures[:1] // the native one comes first
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
