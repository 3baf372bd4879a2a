#!/bin/bash
# Proves the service in a booted systemd: a Debian or Ubuntu tree, booted by systemd-nspawn without a network.
#
#   sudo tests/proofs/booted.sh [bookworm|trixie|jammy|noble] [PACKAGE.deb]
#
# Debian 12 and 13 (Raspberry Pi OS is made of the same packages), Ubuntu 22.04 (JetPack 6 is one) and 24.04. PACKAGE is,
# if not given, the newest dist/onelook_*.deb for that system's Python.
#
# Needs root, debootstrap, systemd-container and pip; for Ubuntu's, ubuntu-archive-keyring. The tree is made once, in
# $ONELOOK_PROOF (/var/tmp/onelook-proof), with packages from $DEBIAN_MIRROR or $UBUNTU_MIRROR; each run boots a copy.
# What is tried is in booted_inside.py.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
place=${ONELOOK_PROOF:-/var/tmp/onelook-proof}
suite=${1:-bookworm}
packages=systemd,systemd-sysv,dbus,procps,python3,mosquitto,mosquitto-clients
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian} options=()
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
nodot=${python/./}
deb=${2:-$(ls -t "$root"/dist/onelook_*+py"${nodot}"_"$(dpkg --print-architecture)".deb | head -1)}
base=$place/$suite tree=$place/run.$$
[ "$(id -u)" = 0 ] || { echo "This needs root." >&2; exit 2; }
mkdir -p "$place"
trap 'rm -rf "$tree"' EXIT

if [ ! -e "$base.done" ]; then
  echo "Making a tree of $suite in $base..."
  rm -rf "$base"
  script=/usr/share/debootstrap/scripts/$suite
  [ -e "$script" ] || script=/usr/share/debootstrap/scripts/gutsy  # that of every Ubuntu; an older debootstrap lacks names
  debootstrap --variant=minbase --include=$packages "${options[@]}" "$suite" "$base" "$mirror" "$script" \
    > "$place/debootstrap.log"
  if [ $suite = jammy ]; then
    # Fetched now, for there is no network later; that install.sh asks for them is part of the proof.
    echo "deb $mirror jammy-updates main universe" >> "$base/etc/apt/sources.list"
    chroot "$base" apt-get -qq update
    chroot "$base" apt-get -qq install -y --no-install-recommends --download-only python3.11 python3.11-venv
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

echo "Fetching the locked wheels, for install.sh..."
platforms=()
for glibc in 28 27 26 24 17 12 5; do platforms+=(--platform "manylinux_2_${glibc}_$(uname -m)"); done
for lock in runtime build; do
  python3 "$root/deploy/lock-for.py" "$root/requirements/$lock.lock" "$python" > "$place/$lock.lock"
  python3 -m pip -qq --disable-pip-version-check download --require-hashes --no-deps --only-binary :all: \
    --implementation cp --python-version "$python" --abi "cp$nodot" --abi abi3 --abi none "${platforms[@]}" \
    --platform "manylinux2014_$(uname -m)" --platform any --dest "$place/wheels" -r "$place/$lock.lock"
done
cp -a "$place/wheels" "$proof/wheels"
mkdir "$proof/source"
(cd "$root" && cp -a --parents daemon/onelook edge_models/onelook requirements deploy systemd config.yaml README.md \
  LICENSE pyproject.toml "$proof/source/")

# The broker is there from the start but disabled: that it is absent at boot is part of the proof.
rm -f "$tree"/etc/systemd/system/multi-user.target.wants/mosquitto.service
rm -f "$tree"/etc/systemd/system/timers.target.wants/*
cat > "$tree/etc/systemd/system/proof.service" <<'UNIT'
[Unit]
Description=the proof
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/usr/bin/python3 -u /proof/inside.py
StandardOutput=file:/proof/report
StandardError=file:/proof/report
ExecStopPost=/bin/systemctl poweroff --no-block
TimeoutStartSec=2500
UNIT
mkdir -p "$tree/etc/systemd/system/default.target.wants"
ln -s ../proof.service "$tree/etc/systemd/system/default.target.wants/proof.service"

echo "Booting it..."
timeout --kill-after=10 2600 systemd-nspawn -D "$tree" --register=no --keep-unit --private-network --timezone=off --console=pipe \
  -b </dev/zero > "$place/console.log" 2>&1 || true
cat "$proof/report"
grep -q '^all of it held' "$proof/report"
