#!/bin/bash
# Proves the service in a booted systemd: a Debian or Ubuntu tree, booted by systemd-nspawn without a network.
#
#   sudo tests/proofs/booted.sh [bookworm|trixie|jammy|noble] [PACKAGE.deb]
#   sudo ONELOOK_ARCH=arm64 tests/proofs/booted.sh [bookworm|trixie] [PACKAGE.deb]
#
# Debian 12 and 13 (Raspberry Pi OS is made of the same packages), Ubuntu 22.04 (JetPack 6 is one) and 24.04. PACKAGE is,
# if not given, the newest dist/onelook_*.deb for that system's Python.
#
# Needs root, debootstrap, systemd-container, pip and this tree's test environment (make test); for Ubuntu's,
# ubuntu-archive-keyring. The tree is made once, in $ONELOOK_PROOF (/var/tmp/onelook-proof), with packages from
# $DEBIAN_MIRROR or $UBUNTU_MIRROR; each run boots a copy. What is tried is in booted_inside.py.
#
# ONELOOK_ARCH=arm64 on another kind of machine boots a Debian with its own kernel in QEMU, which emulates a 64-bit ARM
# board. Needs qemu-system-arm, qemu-user-static with its binfmt handlers, and e2fsprogs. It is slow, ends after three
# hours at the latest, and says nothing about speed.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=tests/proofs/machine.sh
. "$root/tests/proofs/machine.sh"
place=${ONELOOK_PROOF:-/var/tmp/onelook-proof}
suite=${1:-bookworm}
packages=systemd,systemd-sysv,dbus,procps,python3,mosquitto,mosquitto-clients
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian} options=()
own=$(dpkg --print-architecture) arch=${ONELOOK_ARCH:-$(dpkg --print-architecture)}
case $suite in
  bookworm) python=3.11 packages=$packages,python3-venv ;;
  trixie) python=3.13 packages=$packages,python3-venv ;;
  jammy) python=3.11 ;;  # its own is 3.10, and install.sh fetches this one
  noble) python=3.12 packages=$packages,python3-venv ;;
  *) echo "There is no $suite here: bookworm, trixie, jammy or noble." >&2; exit 2 ;;
esac
case $suite in jammy|noble)
  mirror=${UBUNTU_MIRROR:-http://archive.ubuntu.com/ubuntu}
  options=("--components=main,universe" --keyring=/usr/share/keyrings/ubuntu-archive-keyring.gpg) ;;
esac
case $arch in
  amd64) machine=x86_64 ;;
  arm64) machine=aarch64 ;;
  *) echo "There is no $arch here: amd64 or arm64." >&2; exit 2 ;;
esac
name=$suite
if [ "$arch" != "$own" ]; then
  name=$suite-$arch packages=$packages,udev,kmod,initramfs-tools,linux-image-$arch options+=(--arch="$arch")
fi
nodot=${python/./}
deb=${2:-$(ls -t "$root"/dist/onelook_*+py"${nodot}"_"$arch".deb | head -1)}
base=$place/$name tree=$place/run.$$
[ "$(id -u)" = 0 ] || { echo "This needs root." >&2; exit 2; }
mkdir -p "$place"
trap 'rm -rf "$tree" "$tree.ext4"' EXIT

if [ ! -e "$base.done" ]; then
  echo "Making a tree of $name in $base..."
  rm -rf "$base"
  script=/usr/share/debootstrap/scripts/$suite
  [ -e "$script" ] || script=/usr/share/debootstrap/scripts/gutsy  # that of every Ubuntu; an older debootstrap lacks names
  INITRD=No debootstrap --variant=minbase --include=$packages "${options[@]}" "$suite" "$base" "$mirror" "$script" \
    > "$place/debootstrap.log" || { tail -n 3 "$place/debootstrap.log" >&2; exit 1; }
  if [ $suite = jammy ]; then
    # Fetched now, for there is no network later; that install.sh asks for them is part of the proof.
    echo "deb $mirror jammy-updates main universe" >> "$base/etc/apt/sources.list"
    chroot "$base" apt-get -qq update
    chroot "$base" apt-get -qq install -y --no-install-recommends --download-only python3.11 python3.11-venv
  fi
  if [ "$arch" != "$own" ]; then
    # For the disk of a virtual machine and no other: all that Debian has takes an emulated processor half an hour.
    sed -i 's/^MODULES=.*/MODULES=list/' "$base/etc/initramfs-tools/initramfs.conf"
    printf 'virtio_pci\nvirtio_blk\next4\n' >> "$base/etc/initramfs-tools/modules"
    chroot "$base" update-initramfs -c -k all
  fi
  touch "$base.done"
fi
cp -a --reflink=auto "$base" "$tree"

proof=$tree/proof
mkdir "$proof"
cp "$root/tests/proofs/booted_inside.py" "$proof/inside.py"
cp "$root/tests/proofs/mjpeg_camera.py" "$root/daemon/onelook/portraits/eileen_collins.jpg" "$proof/"
cp "$deb" "$proof/onelook.deb"
# The next version, with another default config: an upgrade that meets the owner's changes.
dpkg-deb -R "$deb" "$tree/next"
sed -i 's/^Version: .*/&.1/' "$tree/next/DEBIAN/control"
echo '# a remark of the next version' >> "$tree/next/etc/onelook/config.yaml"
(cd "$tree/next" && find . -type f ! -path './DEBIAN/*' -printf '%P\0' | xargs -0 md5sum > DEBIAN/md5sums)
dpkg-deb -Zgzip -z1 --root-owner-group -b "$tree/next" "$proof/next.deb" > /dev/null
rm -rf "$tree/next"

# The same pictures are looked at here and there.
PYTHONPATH=$root/daemon "$root/.venv/bin/python" "$root/tests/clip.py" "$proof/clip"
PYTHONPATH=$root/daemon "$root/.venv/bin/python" -m onelook replay "$proof/clip/" > "$proof/here.jsonl"
cp "$root/deploy/same-events.py" "$proof/"

echo "Fetching the locked wheels, for install.sh..."
platforms=()
for glibc in 28 27 26 24 17 12 5; do platforms+=(--platform "manylinux_2_${glibc}_$machine"); done
for lock in runtime build; do
  python3 "$root/deploy/lock-for.py" "$root/requirements/$lock.lock" "$python" > "$place/$lock.lock"
  python3 -m pip -qq --disable-pip-version-check download --require-hashes --no-deps --only-binary :all: \
    --implementation cp --python-version "$python" --abi "cp$nodot" --abi abi3 --abi none "${platforms[@]}" \
    --platform "manylinux2014_$machine" --platform any --dest "$place/wheels-$arch" -r "$place/$lock.lock"
done
cp -a "$place/wheels-$arch" "$proof/wheels"
mkdir "$proof/source"
(cd "$root" && cp -a --parents daemon/onelook edge_models/onelook requirements deploy systemd config.yaml README.md \
  LICENSE pyproject.toml "$proof/source/")

# The broker is there from the start but disabled: that it is absent at boot is part of the proof.
rm -f "$tree"/etc/systemd/system/multi-user.target.wants/mosquitto.service

report=$place/$name-report
inside="/usr/bin/python3 -u /proof/inside.py"
if [ "$arch" = "$own" ]; then
  last_unit "$tree" "exec $inside 2400 > /proof/report 2>&1" 2500
  echo "Booting it..."
  timeout --kill-after=10 2600 systemd-nspawn -D "$tree" --register=no --keep-unit --private-network --timezone=off \
    --console=pipe -b </dev/zero > "$place/$name-console.log" 2>&1 || true
  cp "$proof/report" "$report"
else
  boot_machine "$arch" "$tree" "$inside 9900 --slow 10" 10000 "$report"
fi
cat "$report"
grep -q '^all of it held' "$report"
