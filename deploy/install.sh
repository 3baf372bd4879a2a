#!/bin/sh
# Installs onelook as a service, from this source tree: Debian 12 and 13, Raspberry Pi OS Bookworm and Trixie,
# Ubuntu 22.04 and 24.04, JetPack 6. Asks nothing; run again, it upgrades or mends; what fails is taken back.
#
#   sudo deploy/install.sh [--dry-run] [--mqtt-password-file FILE] [--wheels FOLDER] [--no-start]
#   sudo deploy/install.sh --uninstall [--purge] [--dry-run]
#
#   --dry-run                  say what would be done, and do nothing
#   --mqtt-password-file FILE  the broker's password, kept as a systemd credential: encrypted where systemd can
#   --wheels FOLDER            take the packages from there and not from the network; filled on a machine alike by
#                              pip download -d FOLDER -r requirements/runtime.lock, and again -r requirements/build.lock
#   --no-start                 leave the service stopped and disabled; an upgrade leaves one so that its owner disabled
#   --uninstall                remove the program and its service; config, gallery and passwords stay
#   --purge                    and those, and the user, too
#
# /opt/onelook is a link to one of /opt/onelook.d/: an upgrade is built beside what runs, tried on the owner's
# config, and switched to at once; if it does not turn ready, the link goes back. Where the owner has to mend something
# first, it stays built: a gallery of another network is only its own command's to migrate.
set -eu
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin  # `su` leaves those out
umask 022  # what is installed is for the service's user to read, whatever root's own files are

root=$(cd "$(dirname "$0")/.." && pwd)
link=/opt/onelook releases=/opt/onelook.d
units=/etc/systemd/system config=/etc/onelook state=/var/lib/onelook
dry='' uninstall='' purge='' password='' wheels='' start=yes

fail() { echo "onelook: $*" >&2; exit 1; }
say() { echo "onelook: $*"; }
done_say() { [ -n "$dry" ] || say "$@"; }  # of what a dry run does not do
# Changes go through here, so that --dry-run is true to what is done.
change() { if [ -n "$dry" ]; then echo "would run: $*"; else "$@"; fi; }
booted() { [ -d /run/systemd/system ]; }

while [ $# -gt 0 ]; do
  case $1 in
    --dry-run) dry=yes ;;
    --uninstall) uninstall=yes ;;
    --purge) purge=yes ;;
    --no-start) start='' ;;
    --mqtt-password-file) [ $# -gt 1 ] || fail "$1 needs a file"; password=$2; shift ;;
    --wheels) [ $# -gt 1 ] || fail "$1 needs a folder"
      wheels=$(cd "$2" 2>/dev/null && pwd) || fail "there is no folder $2 to read wheels from"; shift ;;
    -h|--help) sed -n '2,/^set -eu/{/^#/s/^# \{0,1\}//p}' "$0"; exit 0 ;;
    *) fail "there is no option $1; see --help" ;;
  esac
  shift
done
[ -z "$purge" ] || [ -n "$uninstall" ] || fail "--purge goes with --uninstall"
[ -n "$dry" ] || [ "$(id -u)" = 0 ] || fail "run it as root: sudo $0"
[ -z "$password" ] || [ -r "$password" ] || fail "cannot read $password"
! dpkg-query -W -f '${Status}' onelook 2>/dev/null | grep -q 'ok installed' ||
  fail "the Debian package onelook is installed; remove it first: apt remove onelook"

if [ -n "$uninstall" ]; then
  if booted; then
    [ ! -e "$units/onelook.service" ] || change systemctl disable --now onelook.service || true
    change systemctl stop 'onelook@*.service' || true
  fi
  change rm -rf "$units/onelook.service" "$units/onelook@.service" "$units"/multi-user.target.wants/onelook@*.service \
    "$link" "$releases" /usr/local/bin/onelook
  if [ -n "$purge" ]; then
    change rm -rf "$config" "$state" "$units/onelook.service.d" "$units"/onelook@*.service.d
    change rm -f /etc/credstore/onelook.* /etc/credstore.encrypted/onelook.*
    if getent passwd onelook >/dev/null; then change userdel onelook; fi
    if getent group onelook >/dev/null; then change groupdel onelook || true; fi
  fi
  if booted; then change systemctl daemon-reload; fi
  if [ -n "$dry" ]; then say "nothing is removed: this was a dry run"
  elif [ -n "$purge" ]; then say "all of it is gone"
  else say "removed; $config and $state are still there (--purge)"
  fi
  exit 0
fi

# --- what can go wrong is taken back ---------------------------------------------------------

work=$(mktemp -d) trial=/run/systemd/system/onelook-check.service
: > "$work/undo"
undo() { [ -n "$dry" ] || { echo "$*" | cat - "$work/undo" > "$work/undo.new"; mv "$work/undo.new" "$work/undo"; }; }
end_trial() {
  [ -e "$trial" ] || return 0
  systemctl stop "${trial##*/}" || true
  rm -rf "$trial" "$trial.d"
  systemctl reset-failed "${trial##*/}" 2>/dev/null || true
  systemctl daemon-reload
}
end() {
  code=$?
  trap - EXIT
  end_trial || true
  if [ $code -ne 0 ] && [ -s "$work/undo" ]; then
    say "it failed; taking back what was done" >&2
    while read -r step; do sh -c "$step" >/dev/null 2>&1 || true; done < "$work/undo"
  fi
  rm -rf "$work"
  exit $code
}
trap end EXIT
trap 'exit 130' INT TERM HUP
keep() { # a copy of a file, to be put back; or its absence
  if [ -e "$1" ]; then cp -a "$1" "$work/$(basename "$1").before"; undo "cp -a '$work/$(basename "$1").before' '$1'"
  else undo "rm -f '$1'"; fi
}

# --- which Python, which runtime -------------------------------------------------------------

lock=$root/requirements/runtime.lock
machine=$(uname -m) pythons="python3.13 python3.12 python3.11 python3 /usr/bin/python3"
none="there is no Python 3.11 to 3.13 with venv: apt install python3-venv"
debians='' pip_options='' venv_options=''
case $machine in
  x86_64|aarch64) ;;
  armv7l)
    # The only runtime for 32 bits, and it has wheels for 3.11 alone. Of what else is locked, PyPI has no 32-bit wheels
    # of these: they come from Debian, older, and are seen in the environment.
    lock=$root/requirements/tflite-runtime.lock pythons="python3.11 /usr/bin/python3.11"
    none="the only TFLite runtime for 32 bits is for Python 3.11: Raspberry Pi OS Bookworm, or any 64-bit system"
    debians="python3-numpy python3-opencv python3-pil python3-yaml python3-cffi-backend"
    pip_options=--no-deps venv_options=--system-site-packages ;;
  *) fail "there is no TFLite runtime for $machine: x86_64, aarch64 or armv7l" ;;
esac
from_apt() {
  say "installing $*"
  change env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=120 update </dev/null
  change env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=120 install -y --no-install-recommends \
    "$@" </dev/null >/dev/null
}
usable() { # new enough, not too new, able to make environments, and in nobody's home, which the service does not see
  "$1" -c 'import sys, venv, ensurepip
sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13) or sys.base_prefix.startswith(("/root/", "/home/")))' 2>/dev/null
}
choose() { for one in $pythons; do if usable "$one"; then python=$(command -v "$one"); return 0; fi; done; return 1; }
if ! choose; then
  want=python3-venv
  if [ -x /usr/bin/python3 ] && ! /usr/bin/python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    want="python3.11 python3.11-venv"  # Ubuntu 22.04 and JetPack 6 have it beside their own 3.10
  fi
  # shellcheck disable=SC2086 # two names
  from_apt $want
  choose || [ -n "$dry" ] || fail "$none"
fi
if [ -n "$debians" ]; then
  # shellcheck disable=SC2086 # names
  dpkg-query -W -f '${Status}\n' $debians 2>&1 | grep -vq 'ok installed' && from_apt $debians
  awk -f "$root/deploy/armv7l.awk" "$lock" > "$work/lock"
  lock=$work/lock
fi

# --- the program -----------------------------------------------------------------------------

version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' "$root/daemon/onelook/__init__.py")
content=$(cd "$root" && { cat "$lock" requirements/build.lock; ${python:-python3} -VV 2>&1
  find daemon/onelook edge_models/onelook -type f ! -name '*.pyc' -exec sha256sum {} + | LC_ALL=C sort; } | sha256sum)
release=$releases/$version-$(echo "$content" | cut -c1-12)
before=$(readlink "$link" 2>/dev/null || true)
[ -L "$link" ] || [ ! -e "$link" ] || fail "$link is there, and is not this installer's: move it away"

if [ -e "$release/complete" ]; then
  say "$version is built already"
else
  say "building $version with ${python:-python3} in $release (a minute or more)"
  set --  # the options are read; a folder's name may have spaces
  [ -z "$wheels" ] || set -- --no-index "--find-links=$wheels"
  [ -d "$releases" ] || undo "rmdir '$releases'"
  undo "rm -rf '$release'"
  change install -d -m 755 "$releases"
  change rm -rf "$release"
  # shellcheck disable=SC2086 # nothing, or a word
  change "${python:-python3}" -m venv $venv_options "$release"
  pip="$release/bin/python -m pip --quiet --disable-pip-version-check --no-cache-dir"
  # shellcheck disable=SC2086 # words on purpose
  {
    change $pip install --require-hashes $pip_options --only-binary :all: "$@" -r "$lock"
    # Built where the tree is not written to, with a build tool that is as locked as the rest.
    change "${python:-python3}" -m venv "$work/build"
    change "$work/build/bin/python" -m pip --quiet --disable-pip-version-check --no-cache-dir install \
      --require-hashes --only-binary :all: "$@" -r "$root/requirements/build.lock"
    change "$work/build/bin/python" -m pip --quiet --disable-pip-version-check wheel --no-index --no-deps \
      --no-build-isolation --wheel-dir "$work/wheel" "$root"
    change $pip install --no-index --no-deps "$work"/wheel/onelook-*.whl
  }
  change install -m 644 "$root/README.md" "$release/README.md"
  change touch "$release/complete"
fi

# --- who it runs as, and with what -----------------------------------------------------------

if ! getent passwd onelook >/dev/null; then
  undo "userdel onelook; groupdel onelook"
  change useradd --system --user-group --no-create-home --home-dir "$state" --shell /usr/sbin/nologin onelook
fi
if getent group video >/dev/null; then change usermod --append --groups video onelook; fi
if [ ! -d "$config" ]; then
  undo "rm -rf '$config'"
  change install -d -m 750 -o root -g onelook "$config"
fi
if [ ! -e "$config/config.yaml" ]; then
  undo "rm -f '$config/config.yaml'"
  change install -m 640 -o root -g onelook "$root/config.yaml" "$config/config.yaml"
fi

systemd=$(systemctl --version 2>/dev/null | sed -n '1s/^systemd \([0-9]*\).*/\1/p')
systemd=${systemd:-0}
if [ -n "$password" ]; then
  if [ "$systemd" -ge 250 ] && command -v systemd-creds >/dev/null; then
    stored=/etc/credstore.encrypted/onelook.mqtt-password
    keep "$stored"
    change install -d -m 700 /etc/credstore.encrypted
    # The owner's editor puts a newline at the end; it is no part of the password, and onelook knows.
    change systemd-creds encrypt --name=mqtt-password "$password" "$stored.new"
    change chmod 600 "$stored.new"  # newer ones of systemd leave it readable, encrypted as it is
    change mv "$stored.new" "$stored"
  else
    stored=/etc/credstore/onelook.mqtt-password
    keep "$stored"
    change install -d -m 700 /etc/credstore
    change install -m 600 "$password" "$stored"
  fi
fi

# --- tried on the owner's config, then switched to ---------------------------------------------

# As that user, so that what `check` creates is the service's own.
earlier=yes
[ -d "$state" ] || { earlier=''; undo "rm -rf '$state'"; }
change install -d -m 700 -o onelook -g onelook "$state"
# And as a service of its own within all that the unit, and the owner's drop-ins, give and forbid the real one: systemd
# itself reads them, so that whatever form it understands is understood, and no secret stands in the process list.
check="$release/bin/onelook check --config $config/config.yaml"
service_of() { awk '/^ *\[/ { wanted = /\[Service\]/ } wanted' "$1"; }  # not what it needs, or calls when it fails
try_config() {
  # shellcheck disable=SC2086 # words on purpose
  if ! booted; then change setpriv --reuid=onelook --regid=onelook --init-groups $check; return; fi
  if [ -n "$dry" ]; then echo "would run, as the service would: $check"; return; fi
  (
    umask 077  # a drop-in may hold secrets
    rm -rf "$trial.d"
    mkdir "$trial.d"
    service_of "$root/systemd/onelook.service" > "$trial"
    for one in /run/systemd/system/onelook.service.d/*.conf "$units"/onelook.service.d/*.conf; do
      [ ! -e "$one" ] || service_of "$one" > "$trial.d/${one##*/}"
    done
    cat > "$trial.d/~check.conf" <<END  # the last in order
[Service]
Type=oneshot
Restart=no
RemainAfterExit=no
RuntimeDirectoryPreserve=yes
$(printf 'Exec%s=\n' Condition StartPre Start StartPost Stop StopPost)
ExecStart=$check
StandardOutput=file:$work/said
StandardError=file:$work/faults
END
  ) || return 1
  systemctl daemon-reload
  code=0
  systemctl start "${trial##*/}" 2>/dev/null || {
    code=$(systemctl show --property=ExecMainStatus --value "${trial##*/}")
    [ "$code" != 0 ] || code=1  # systemd itself would not start it
  }
  end_trial
  [ ! -e "$work/said" ] || cat "$work/said"
  [ ! -e "$work/faults" ] || cat "$work/faults" >&2
  return "$code"
}
code=0
try_config || code=$?
case $code in
  0) ;;
  78)
    [ -n "$earlier" ] || fail "mend $config/config.yaml and run this again; nothing is changed"
    sed -i "\|^rm -rf '$release'\$|d" "$work/undo"
    fail "mend it and run this again; what was installed before is not changed. A gallery of another network is" \
      "migrated by $release/bin/onelook gallery migrate --config $config/config.yaml FOLDER" ;;
  *) fail "$config/config.yaml could not be tried (exit status $code; journalctl --unit=onelook-check may say why);" \
    "nothing is changed" ;;
esac

# Whoever disabled the service wants it so.
why=''
if [ -n "$start" ] && [ -n "$before" ] && booted &&
   [ "$(systemctl is-enabled onelook.service 2>/dev/null)" = disabled ]; then
  start='' why=", as it was disabled before"
fi

# Taken back from the last line to the first: link and units as they were, then the service that ran before.
if booted; then
  [ -z "$before" ] || [ -z "$start" ] || undo "systemctl restart onelook"
  undo "systemctl daemon-reload"
fi
for unit in onelook.service onelook@.service; do
  keep "$units/$unit"
  change install -m 644 "$root/systemd/$unit" "$units/$unit"
done
if [ -n "$before" ]; then undo "ln -sfn '$before' '$link'"; else
  undo "rm -f '$link' /usr/local/bin/onelook"
  if booted; then undo "systemctl disable --now onelook"; fi
fi
change ln -sfn "$release" "$link.new"
change mv -T "$link.new" "$link"
change install -d /usr/local/bin
change ln -sfn "$link/bin/onelook" /usr/local/bin/onelook

if ! booted; then
  done_say "systemd does not run here: installed, not started"
elif [ -z "$start" ]; then
  change systemctl daemon-reload
  done_say "installed, not started$why: systemctl enable --now onelook"
else
  change systemctl daemon-reload
  change systemctl reset-failed onelook.service 2>/dev/null || true
  change systemctl enable --quiet onelook.service
  # Type=notify: this returns once it is ready, or has failed.
  change systemctl restart onelook.service || {
    journalctl --unit=onelook --lines=10 --no-pager --output=cat >&2 || true
    fail "the service did not turn ready"
  }
  if [ -z "$dry" ]; then
    [ "$(systemctl show --property=ActiveState --value onelook.service)" = active ] || fail "the service has ended again"
    say "the service is ready: $(systemctl show --property=StatusText --value onelook.service)"
  fi
fi
: > "$work/undo"
# Those that run: what they run from is about to go.
down() { [ -n "$dry" ] || systemctl list-units --plain --no-legend --state=failed 'onelook@*.service' | awk '{ print $1 }'; }
if booted; then
  change systemctl try-restart 'onelook@*.service' || say "not every onelook@NAME turned ready: journalctl -u 'onelook@*'" >&2
  for unit in $(down); do
    name=${unit#onelook@} name=${name%.service}
    say "onelook@$name is down: journalctl -u onelook@$name says why. A gallery of another network is migrated by" \
      "onelook gallery migrate --config $config/$name.yaml FOLDER; then: systemctl start onelook@$name" >&2
  done
fi
# A package that was removed before has the config on its list still, and dpkg would take it away when that is purged.
# So it is purged now, and the config put back; nothing else goes, for its script heeds the link (one of old does not).
if dpkg-query -W -f '${Status}' onelook 2>/dev/null | grep -q ' config-files$' &&
   grep -qs "$link" /var/lib/dpkg/info/onelook.postrm; then
  change cp -a "$config/config.yaml" "$config/config.yaml.kept"
  change dpkg --purge onelook || true
  change mv "$config/config.yaml.kept" "$config/config.yaml"
fi
if [ -n "$dry" ]; then say "nothing is changed: this was a dry run"; exit 0; fi
# One that still runs, as with --no-start, goes with the next installation.
in_use() { grep -qsaF "$1/" /proc/[0-9]*/cmdline; }
for old in "$releases"/*; do [ "$old" = "$release" ] || in_use "$old" || rm -rf "$old"; done
say "its config is $config/config.yaml; after a change: systemctl restart onelook"
