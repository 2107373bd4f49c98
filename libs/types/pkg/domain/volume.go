package domain

import (
	"path"
	"strings"
	"time"
)

// Volume is a directory of files that outlives VMs, and that several of them
// can have at the same time.
type Volume struct {
	ID        ID
	ProjectID ID
	Name      string // unique in the project
	WorkerID  ID     // whose disk it is on
	DiskBytes int64  // what it can hold
	// TokenSealed is the envelope-encrypted token that opens its content.
	TokenSealed []byte
	CreatedAt   time.Time
}

const (
	// MaxVolumes bounds the volumes of a project.
	MaxVolumes = 1000
	// MaxMounts bounds the volumes that a VM has.
	MaxMounts = 16

	maxMountPath = 512
)

// ValidateVolumeName checks the name of a volume, which must have one.
func ValidateVolumeName(field, name string) error {
	if name == "" {
		return invalid(field, "a volume needs a name")
	}
	return ValidateName(field, name)
}

// ValidateMounts checks where a VM shall have volumes: at most MaxMounts, each
// below a directory of its own that no other is in, and none where the system is.
func ValidateMounts(field string, mounts []Mount) error {
	if len(mounts) > MaxMounts {
		return invalid(field, "%d volumes, at most %d are allowed", len(mounts), MaxMounts)
	}
	for i, m := range mounts {
		if err := ValidateVolumeName(field, m.Source); err != nil && !IsID(m.Source) {
			return err
		}
		if err := validateTarget(field, m.Target); err != nil {
			return err
		}
		for _, other := range mounts[:i] {
			if other.Target == m.Target {
				return invalid(field, "%q is there twice", m.Target)
			}
			if pathWithin(m.Target, other.Target) || pathWithin(other.Target, m.Target) {
				return invalid(field, "%q and %q are within each other", other.Target, m.Target)
			}
		}
	}
	return nil
}

func validateTarget(field, target string) error {
	switch {
	case len(target) > maxMountPath:
		return invalid(field, "a path has %d bytes, at most %d are allowed", len(target), maxMountPath)
	case !path.IsAbs(target), path.Clean(target) != target, strings.ContainsFunc(target, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return invalid(field, "%q is not an absolute path in its shortest form", clip(target, 64)).WithHint("such as /mnt/data")
	}
	for _, dir := range []string{"/", "/home", "/mnt", "/opt", "/root", "/srv", "/tmp", "/var", "/var/lib", "/var/lib/dpkg", "/var/tmp"} {
		if target == dir {
			return invalid(field, "%q is a directory of the system", target).WithHint("name one below it")
		}
	}
	for _, dir := range []string{
		"/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/opt/aetherium", "/proc", "/run", "/sbin", "/sys", "/usr", "/var/run",
	} {
		if pathWithin(target, dir) {
			return invalid(field, "%q is in a directory of the system", clip(target, 64)).WithHint("name one such as /mnt/data")
		}
	}
	return nil
}

func pathWithin(p, dir string) bool { return p == dir || strings.HasPrefix(p, dir+"/") }
