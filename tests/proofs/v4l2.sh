#!/bin/bash
# Proves that cameras of the kernel (V4L2) are read: a Debian 12 of its own, booted by QEMU, with two drivers' cameras.
#
#   sudo tests/proofs/v4l2.sh [PACKAGE.deb]          default: the newest dist/onelook_*+py311_amd64.deb
#
# The cameras are virtual, their drivers and all between them and us are not: vivid, the kernel's own, draws test
# pictures and can be unplugged; v4l2loopback gives what is written to it, in any pixel format: here faces.
# Needs root, debootstrap, qemu-system-x86 and e2fsprogs. The disk is made once, in $ONELOOK_PROOF
# (/var/tmp/onelook-proof), with packages from $DEBIAN_MIRROR; each run leaves it as it is. The machine is emulated, so
# that it runs anywhere: a quarter of an hour or so; with ONELOOK_ACCEL=kvm, where that works, minutes.
# What is tried is in v4l2_inside.py.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
place=${ONELOOK_PROOF:-/var/tmp/onelook-proof}
deb=${1:-$(ls -t "$root"/dist/onelook_*+py311_amd64.deb | head -1)}
disk=$place/v4l2.ext4 tree=$place/v4l2.tree proof=$place/v4l2.$$
[ "$(id -u)" = 0 ] || { echo "This needs root." >&2; exit 2; }
mkdir -p "$place"
trap 'rm -rf "$proof" "$proof.ext4"' EXIT

if [ ! -e "$disk.done" ]; then
  echo "Making a Debian 12 with a kernel and camera drivers in $disk..."
  rm -rf "$tree"
  debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,udev,kmod,procps,python3,python3.11,mosquitto,\
mosquitto-clients,v4l-utils,linux-image-amd64,linux-headers-amd64,initramfs-tools,v4l2loopback-dkms \
    bookworm "$tree" "${DEBIAN_MIRROR:-http://deb.debian.org/debian}" > "$place/v4l2-debootstrap.log"
  cp "$tree"/boot/vmlinuz-* "$place/v4l2.kernel"
  cp "$tree"/boot/initrd.img-* "$place/v4l2.initrd"
  rm -rf "$tree"/usr/src/* "$tree"/usr/lib/gcc "$tree"/var/cache/apt "$tree"/etc/systemd/system/timers.target.wants
  mkdir -p "$tree/proof" "$tree/etc/systemd/system/default.target.wants"
  ln -s /dev/null "$tree/etc/systemd/system/serial-getty@ttyS0.service"
  mkdir "$tree/etc/systemd/system.conf.d"
  printf '[Manager]\nDefaultTimeoutStartSec=1000\nDefaultTimeoutStopSec=300\n' > "$tree/etc/systemd/system.conf.d/slow.conf"
  cat > "$tree/etc/systemd/system/proof.service" <<'UNIT'
[Unit]
Description=the proof
After=multi-user.target
[Service]
Type=oneshot
ExecStartPre=/bin/mount -o ro /dev/vdb /proof
ExecStart=/bin/sh -c 'stty raw < /dev/ttyS1; exec /usr/bin/python3 -u /proof/inside.py > /dev/ttyS1 2>&1'
ExecStopPost=/bin/systemctl poweroff --no-block
TimeoutStartSec=3000
UNIT
  ln -s ../proof.service "$tree/etc/systemd/system/default.target.wants/proof.service"
  rm -f "$disk"
  mke2fs -q -t ext4 -d "$tree" "$disk" 3G
  rm -rf "$tree"
  touch "$disk.done"
fi

mkdir "$proof"
cp "$root/tests/proofs/v4l2_inside.py" "$proof/inside.py"
cp "$root/tests/proofs/v4l2_camera.py" "$root/tests/clip.py" "$root/daemon/onelook/portraits/eileen_collins.jpg" "$proof/"
# The same package, not compressed: an emulated processor is slow at that.
dpkg-deb -R "$deb" "$proof/unpacked"
dpkg-deb -Znone --root-owner-group -b "$proof/unpacked" "$proof/onelook.deb" > /dev/null
rm -rf "$proof/unpacked"
mke2fs -q -t ext4 -d "$proof" "$proof.ext4" 1G

echo "Booting it..."
timeout --kill-after=10 3000 qemu-system-x86_64 -accel "${ONELOOK_ACCEL:-tcg}" -cpu max -smp "${ONELOOK_CPUS:-2}" -m 2048 \
  -nodefaults -display none -no-reboot -kernel "$place/v4l2.kernel" -initrd "$place/v4l2.initrd" \
  -append "root=/dev/vda rw console=ttyS0 panic=-1" \
  -drive "file=$disk,format=raw,if=virtio,snapshot=on" -drive "file=$proof.ext4,format=raw,if=virtio,readonly=on" \
  -serial "file:$place/v4l2-console.log" -serial stdio < /dev/null | tee "$place/v4l2-report"
grep -q '^all of it held' "$place/v4l2-report"
