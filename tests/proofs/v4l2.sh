#!/bin/bash
# Proves that cameras of the kernel (V4L2) are read: a Debian 12 of its own, booted by QEMU, with two drivers' cameras.
#
#   sudo tests/proofs/v4l2.sh [PACKAGE.deb]          default: the newest dist/onelook_*+py311_amd64.deb
#
# The cameras are virtual; their drivers, and all that is between them and us, are not. vivid, the kernel's own, draws
# test pictures, and can be unplugged; v4l2loopback gives what is written to it, in any pixel format: here, faces.
# Needs root, debootstrap, qemu-system-x86 and e2fsprogs. The tree is made once, in $ONELOOK_PROOF
# (/var/tmp/onelook-proof), with packages from $DEBIAN_MIRROR; each run boots a copy. The machine is emulated, so that
# it runs everywhere, and slowly: a quarter of an hour. ONELOOK_ACCEL=kvm is quicker where that works.
# What is tried is in v4l2_inside.py.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=tests/proofs/machine.sh
. "$root/tests/proofs/machine.sh"
place=${ONELOOK_PROOF:-/var/tmp/onelook-proof}
deb=${1:-$(ls -t "$root"/dist/onelook_*+py311_amd64.deb | head -1)}
base=$place/v4l2 tree=$place/v4l2.$$
[ "$(id -u)" = 0 ] || { echo "This needs root." >&2; exit 2; }
mkdir -p "$place"
trap 'rm -rf "$tree" "$tree.ext4"' EXIT

if [ ! -e "$base.done" ]; then
  echo "Making a Debian 12 tree with a kernel and camera drivers in $base..."
  rm -rf "$base"
  debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,udev,kmod,procps,python3,python3.11,mosquitto,\
mosquitto-clients,v4l-utils,linux-image-amd64,linux-headers-amd64,initramfs-tools,v4l2loopback-dkms \
    bookworm "$base" "${DEBIAN_MIRROR:-http://deb.debian.org/debian}" > "$place/v4l2-debootstrap.log" || \
    { tail -n 3 "$place/v4l2-debootstrap.log" >&2; exit 1; }
  rm -rf "$base"/usr/src/* "$base"/usr/lib/gcc "$base"/var/cache/apt  # v4l2loopback is compiled by now
  touch "$base.done"
fi
cp -a --reflink=auto "$base" "$tree"

mkdir -p "$tree/proof"
cp "$root/tests/proofs/v4l2_inside.py" "$root/tests/proofs/v4l2_camera.py" "$root/tests/clip.py" \
  "$root/daemon/onelook/portraits/eileen_collins.jpg" "$tree/proof/"
echo "Installing $deb..."
cp "$deb" "$tree/onelook.deb"
chroot "$tree" dpkg --install /onelook.deb > /dev/null
rm "$tree/onelook.deb"
chroot "$tree" systemctl --quiet disable onelook mosquitto  # started when their time has come
report=$place/v4l2-report
boot_machine amd64 "$tree" "/usr/bin/python3 -u /proof/v4l2_inside.py" 3500 "$report"
cat "$report"
grep -q '^all of it held' "$report"
