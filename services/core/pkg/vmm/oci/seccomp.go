package oci

import (
	"encoding/base64"
	"runtime"
	"slices"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/seccompbpf"
	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// confinement is what a machine's processes may ask of the kernel.
type confinement struct {
	profile *specs.LinuxSeccomp
	program string // the profile compiled, in base64; empty: by the runtime at each start
}

// bpfAnnotation hands crun a compiled filter. It then does not compile the one
// in the configuration, which takes a quarter of the time of its start; one that
// no longer knows the annotation does (crun(1), run.oci.seccomp_bpf_data).
const bpfAnnotation = "run.oci.seccomp_bpf_data"

// confine makes Docker's default system call filter, for the capabilities that
// machines have and the kernel that runs. It holds for the native system call
// table alone: a runtime that builds the filter does so for each table, and the
// 32-bit tables are attack surface that few guests need. A program that uses them
// is killed (libseccomp, seccomp_attr_set(3), SCMP_FLTATR_ACT_BADARCH).
func confine(r *engine) (confinement, error) {
	caps := defaultCapabilities()
	profile, err := seccomp.GetDefaultProfile(&specs.Spec{
		Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}},
		Linux:   &specs.Linux{},
	})
	if err != nil {
		return confinement{}, errors.Wrap(err, errors.Internal, "cannot make the system call filter")
	}
	withoutAIO(profile)
	withoutSubvolumes(profile)
	if len(profile.Architectures) > 1 {
		profile.Architectures = profile.Architectures[:1] // the native one comes first
	}
	c := confinement{profile: profile}
	if r.kind != "crun" {
		return c, nil
	}
	program, err := seccompbpf.Compile(profile, runtime.GOARCH)
	switch {
	case errors.HasCode(err, errors.Unsupported):
		return c, nil // the runtime knows better
	case err != nil:
		return confinement{}, errors.Wrap(err, errors.Internal, "cannot make the system call filter")
	}
	c.program = base64.StdEncoding.EncodeToString(program)
	return c, nil
}

// withoutAIO has io_setup(2) answer like a kernel without it, which programs that
// use it expect: what it reserves comes from one stock for the whole host
// (fs.aio-max-nr), and one machine could leave nothing to the others.
func withoutAIO(profile *specs.LinuxSeccomp) {
	const setup = "io_setup"
	for i, rule := range profile.Syscalls {
		profile.Syscalls[i].Names = slices.DeleteFunc(slices.Clone(rule.Names), func(name string) bool { return name == setup })
	}
	missing := uint(unix.ENOSYS)
	profile.Syscalls = append(profile.Syscalls, specs.LinuxSyscall{Names: []string{setup}, Action: specs.ActErrno, ErrnoRet: &missing})
}

// withoutSubvolumes refuses to make subvolumes and snapshots of btrfs, which
// needs no privilege: what is in one is in nobody's quota, and keeps the volume
// that it is in from being deleted. A rule can only say which requests of
// ioctl(2) there may be, so it lists all others: by a bit in which a request
// differs from all four, or by the whole of its type and number.
func withoutSubvolumes(profile *specs.LinuxSeccomp) {
	const (
		call     = "ioctl"
		magic    = 0x94 // BTRFS_IOCTL_MAGIC, linux/btrfs.h
		typeBits = 8    // _IOC_TYPESHIFT, asm-generic/ioctl.h
		both     = 0xffff
	)
	// SNAP_CREATE, SUBVOL_CREATE, SNAP_CREATE_V2 and SUBVOL_CREATE_V2.
	refused := []uint64{1, 14, 23, 24}
	for i, rule := range profile.Syscalls {
		profile.Syscalls[i].Names = slices.DeleteFunc(slices.Clone(rule.Names), func(name string) bool { return name == call })
	}
	allow := func(mask, value uint64) {
		profile.Syscalls = append(profile.Syscalls, specs.LinuxSyscall{
			Names: []string{call}, Action: specs.ActAllow,
			Args: []specs.LinuxSeccompArg{{Index: 1, Value: mask, ValueTwo: value, Op: specs.OpMaskedEqual}},
		})
	}
	for bit := 7; bit >= 0; bit-- { // of the type; most differ in the first
		mask := uint64(1) << (bit + typeBits)
		allow(mask, ^uint64(magic<<typeBits)&mask)
	}
	const small = 32 // than which the refused numbers are
	for bit := uint64(small); bit <= 0x80; bit <<= 1 {
		allow(bit, bit)
	}
	for n := range uint64(small) {
		if !slices.Contains(refused, n) {
			allow(both, magic<<typeBits|n)
		}
	}
}

// apply puts the confinement into a machine's configuration.
func (c confinement) apply(spec *specs.Spec) {
	spec.Linux.Seccomp = c.profile
	if c.program != "" {
		spec.Annotations = map[string]string{bpfAnnotation: c.program}
	}
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
