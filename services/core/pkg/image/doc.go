// Package image builds root filesystems, the directories that VMs are made
// from, and keeps them.
//
// A build's source is an OCI image, a root filesystem archive, a directory or
// Debian packages (domain.TemplateSource). Whatever the source, the result is
// finished the same way: mount points, the user `user` with sudo, a sane login
// environment. Builds are immutable; drivers use them as overlay lower
// directories, through ID-mapped mounts, so files belong to the very IDs
// (0..65535) that the image gives them.
//
// # What is trusted
//
// Images, archives and directories are not trusted: nothing in them is run on
// the host, their paths are confined to the build by the kernel (package
// tree), device nodes are left out, and their counts and sizes are bounded.
// They hold setuid programs that belong to the host's root as long as no VM
// maps them, so the store's directory is 0700: no local user can reach them.
//
// Debian packages are different: mmdebstrap installs them in a chroot, and
// their maintainer scripts run as the host's root there (mode "root"), in
// mount, PID, IPC and UTS namespaces of their own that end with the build. This
// is the trust that installing the same packages on the host takes, no more:
// only packages that Debian's archive key signs are installed; callers choose
// names, which are checked (no paths, no options), never a mirror or a key.
//
// # On disk
//
//	<dir>/<build-id>/rootfs     the tree
//	<dir>/<build-id>/manifest   one line per entry; its SHA-256 is the build's digest
//	<dir>/<build-id>/meta.json  the Result
//	<dir>/.tmp-*                builds under way: each holds a lock on its directory
//	<dir>/.trash-*              on their way out
//
// A build is made under a temporary name and renamed when complete and synced,
// so that a crash leaves a complete build or rubbish that the next Open sweeps.
package image
