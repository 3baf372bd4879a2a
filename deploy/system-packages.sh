#!/bin/sh
# Installs what the tests need of the system, where this user may; says what will be skipped where not.
set -u
want="mosquitto gir1.2-gst-rtsp-server-1.0 python3-gi gstreamer1.0-plugins-base gstreamer1.0-plugins-good \
gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly gstreamer1.0-libav systemd libseccomp2 prometheus shellcheck faketime"
command -v dpkg-query >/dev/null || { echo "Not a Debian system: tests that need mosquitto or GStreamer may be skipped."; exit 0; }
missing=""
for package in $want; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q "ok installed" || missing="$missing $package"
done
[ -z "$missing" ] && exit 0
if [ "$(id -u)" = 0 ]; then sudo=""
elif sudo -n true 2>/dev/null; then sudo="sudo -n"
else
  echo "Not installed, and this user may not:$missing. Tests that need them are skipped and say so."
  exit 0
fi
echo "Installing for the tests:$missing"
apt="$sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=120"
$apt update </dev/null && $apt install -y --no-install-recommends $missing </dev/null >/dev/null \
  || echo "apt could not install:$missing. Tests that need them are skipped and say so."
# Debian starts these when it installs them; the tests bring their own, and nothing shall be left running. Those that
# were here before are the owner's.
for service in mosquitto prometheus; do
  case " $missing " in *" $service "*) $sudo systemctl disable --now "$service" >/dev/null 2>&1 ;; esac
done
exit 0
