#!/bin/bash
# Proves the service in a booted systemd: a Debian 12 tree, booted by systemd-nspawn without a network.
#
#   sudo tests/proofs/booted.sh [PACKAGE.deb]        default: the newest dist/onelook_*+py311_*.deb
#
# Needs root, debootstrap and systemd-container. The tree is made once, in $ONELOOK_PROOF (/var/tmp/onelook-proof),
# with packages from $DEBIAN_MIRROR; each run boots a copy. What is tried is in booted_inside.py. If pip can download
# the wheels of runtime.lock, deploy/install.sh is tried as well.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
place=${ONELOOK_PROOF:-/var/tmp/onelook-proof}
deb=${1:-$(ls -t "$root"/dist/onelook_*+py311_"$(dpkg --print-architecture)".deb | head -1)}
base=$place/bookworm tree=$place/run.$$
[ "$(id -u)" = 0 ] || { echo "This needs root." >&2; exit 2; }
mkdir -p "$place"
trap 'rm -rf "$tree"' EXIT

if [ ! -e "$base.done" ]; then
  echo "Making a Debian 12 tree in $base..."
  rm -rf "$base"
  debootstrap --variant=minbase \
    --include=systemd,systemd-sysv,dbus,procps,python3,python3.11,python3-venv,mosquitto,mosquitto-clients \
    bookworm "$base" "${DEBIAN_MIRROR:-http://deb.debian.org/debian}" > "$place/debootstrap.log"
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

wheels=${ONELOOK_WHEELS:-}
if [ -n "$wheels" ]; then
  cp -a "$wheels" "$proof/wheels"
  mkdir "$proof/source"
  (cd "$root" && cp -a --parents daemon/onelook edge_models/onelook requirements deploy systemd config.yaml README.md \
    LICENSE pyproject.toml "$proof/source/")
fi

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
timeout --kill-after=10 2600 systemd-nspawn -D "$tree" --register=no --keep-unit --private-network --console=pipe \
  -b </dev/zero > "$place/console.log" 2>&1 || true
cat "$proof/report"
grep -q '^all of it held' "$proof/report"
