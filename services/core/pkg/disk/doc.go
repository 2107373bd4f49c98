// Package disk keeps the volumes that machines write to, on a file system that
// can do two things really: share blocks copy on write, and refuse a volume
// more than its limit.
//
// XFS with reflink and project quotas is the first choice (xfs(5), FICLONE in
// ioctl_ficlonerange(2)); where the kernel has no XFS quotas it is btrfs with
// one subvolume per volume and quota groups: simple quotas on Linux 6.7 and
// later, else the classic ones (btrfs-quota(5)). When the data directory's own
// file system has neither, the pool is a sparse file in it, mounted through a
// loop device, and guarded against the disk around it being full.
//
// A volume is a directory that only root may enter. What guests write into it
// is never followed: every walk uses descriptors and does not follow links.
package disk
