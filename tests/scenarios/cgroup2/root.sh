#!/usr/bin/env bash
# root.sh DIR SUITE PACKAGES OWNER: makes DIR/root.img, DIR/vmlinuz and
# DIR/initrd. Needs root. Called by run.sh.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin
out=$1 suite=$2 packages=$3 owner=$4

# A mount namespace of its own: whatever ends badly in here leaves no mount.
[ -n "${IN_NAMESPACE:-}" ] || IN_NAMESPACE=1 exec unshare --mount --propagation private -- "$0" "$@"

tmp=$(mktemp -d "$out/.tmp-XXXXXX")
# --one-file-system: never into what a failed step left mounted in there.
trap 'rm -rf --one-file-system "$tmp"' EXIT
chmod 0755 "$tmp"
root=$tmp/root

# The kernel is unpacked, not installed: installing makes an initrd of its own.
# Beside the root, not over it, where /lib is a link.
# shellcheck disable=SC2016 # expanded in the hook
kernel='chroot "$1" sh -ec "
  mkdir /kernel
  cd /tmp
  image=\$(apt-cache depends linux-image-cloud-amd64 | sed -n \"s/.*Depends: \\(linux-image-[^ ]*\\)/\\1/p\" | head -n 1)
  apt-get -qq -o APT::Sandbox::User=root download \$image
  for deb in *.deb; do dpkg -x \$deb /kernel; rm \$deb; done
"'
mmdebstrap --quiet --variant=minbase --mode=root --include="$packages" --customize-hook="$kernel" \
  --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
  "$suite" "$root"
mkdir -p "$root/aetherium" "$root/data" "$root/template"
modules=$root/kernel/usr/lib/modules
[ -d "$modules" ] || modules=$root/kernel/lib/modules
mv "$modules" "$root/usr/lib/modules"
version=$(basename "$root"/usr/lib/modules/*)
mv "$root/kernel/boot/vmlinuz-$version" "$tmp/vmlinuz"
rm -r "$root/kernel"
depmod -b "$root" "$version"

# A small initrd that finds the root disk and hands over.
ird=$tmp/initrd.d
mkdir -p "$ird"/{bin,dev,proc,new,modules}
cp "$root/bin/busybox" "$ird/bin/busybox"
for module in virtio_ring virtio virtio_pci virtio_blk; do
  modprobe -S "$version" -d "$root" --show-depends "$module" | while read -r kind file _; do
    [ "$kind" = insmod ] || continue # built in
    name=$(basename "$file")
    if [ ! -e "$ird/modules/${name%.xz}" ]; then
      cp "$file" "$ird/modules/"
      [ "${name%.xz}" = "$name" ] || unxz "$ird/modules/$name"
      echo "${name%.xz}" >>"$ird/modules/order"
    fi
  done
done
cat >"$ird/init" <<'INIT'
#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
while read -r m; do insmod "/modules/$m"; done </modules/order
mount -t ext4 /dev/vda /new
mount -t ext4 -o ro /dev/vdb /new/aetherium
mount -o move /dev /new/dev
exec switch_root /new /aetherium/guest.sh
INIT
chmod 0755 "$ird/init"
(cd "$ird" && find . | cpio -o -H newc --quiet) >"$tmp/initrd"

mke2fs -q -t ext4 -d "$root" "$tmp/root.img" 2G
chown "$owner" "$tmp"/{root.img,vmlinuz,initrd}
mv "$tmp/vmlinuz" "$tmp/initrd" "$out/"
mv "$tmp/root.img" "$out/" # last: it says that all is there
