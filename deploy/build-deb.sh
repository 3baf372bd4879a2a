#!/bin/sh
# Builds dist/onelook_VERSION_ARCH.deb, with Debian's own tools:
#
#   deploy/build-deb.sh [amd64|arm64] [3.11|3.12|3.13]
#
# 3.11 is for Debian 12, Raspberry Pi OS Bookworm and Ubuntu 22.04 (JetPack 6), 3.12 for Ubuntu 24.04, 3.13 for
# Debian 13 and Raspberry Pi OS Trixie. Any machine builds for either architecture: nothing is compiled.
#
# The Python packages of requirements/runtime.lock are unpacked here, at build time, into a virtual environment
# below /usr/lib/onelook, and not by pip on the board: so the package installs without a network, the same bytes
# for everybody, each file dpkg's own (to verify, upgrade, remove), and a power cut leaves no half-made environment.
# The price is one package for each Python.
#
# Built from a git checkout its version has the newest commit's time, as 0.1.0+git20261128.0953: a later one upgrades.
#
# Needs: apt install debhelper dpkg-dev python3-venv; lintian, to be checked as well (minutes; LINT=no leaves it out).
set -eu
case ${1:-} in -h|--help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "$0"; exit 0 ;; esac
arch=${1:-amd64} python=${2:-3.11}
root=$(cd "$(dirname "$0")/.." && pwd)
case $arch in
  amd64) machine=x86_64 ;;
  arm64) machine=aarch64 ;;
  *) echo "No packages for $arch: amd64 or arm64." >&2; exit 2 ;;
esac
case $python in 3.11|3.12|3.13) ;; *) echo "No packages for Python $python: 3.11, 3.12 or 3.13." >&2; exit 2 ;; esac
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
payload=$work/onelook/payload
site=$payload/usr/lib/onelook/lib/python$python/site-packages

echo "Fetching the packages of runtime.lock for Python $python on $machine..."
python3 -m venv "$work/tools"
pip="$work/tools/bin/python -m pip --quiet --disable-pip-version-check"
$pip install --require-hashes --only-binary :all: -r "$root/requirements/build.lock"
platforms=""
for glibc in 28 27 26 24 17 12 5; do platforms="$platforms --platform manylinux_2_${glibc}_$machine"; done
nodot=$(echo "$python" | tr -d .)
"$work/tools/bin/python" "$root/deploy/lock-for.py" "$root/requirements/runtime.lock" "$python" > "$work/lock"
# shellcheck disable=SC2086 # words on purpose
$pip install --require-hashes --no-deps --ignore-requires-python --only-binary :all: --no-compile --target "$site" \
  --implementation cp --python-version "$python" --abi "cp$nodot" --abi abi3 --abi none \
  $platforms --platform "manylinux2014_$machine" --platform any -r "$work/lock"
PIP_NO_INDEX=1 $pip wheel --no-deps --no-build-isolation --wheel-dir "$work/wheel" "$root"
$pip install --no-index --no-deps --no-compile --target "$site" --upgrade "$work"/wheel/onelook-*.whl

# For people who develop with these packages: their programs, tests, headers, and compilers for other makers' chips.
rm -rf "${site:?}/bin" "$site"/ai_edge_litert/vendors "$site"/tqdm/completion.sh
find "$site" -type d -name tests -prune -exec rm -rf {} +
find "$site" -type f \( -name '*.pyi' -o -name '*.pxd' -o -name '*.h' -o -name '*.c' \) -delete
chmod -R u=rwX,go=rX "$site"
find "$site" -type f -exec chmod a-x {} +

echo "Laying out the tree..."
environment=$payload/usr/lib/onelook
install -d "$environment/bin" "$payload/usr/bin" "$payload/etc/onelook" "$payload/usr/share/doc/onelook"
printf 'home = /usr/bin\ninclude-system-site-packages = false\nversion = %s\n' "$python" > "$environment/pyvenv.cfg"
ln -s "/usr/bin/python$python" "$environment/bin/python$python"
ln -s "python$python" "$environment/bin/python"
cat > "$environment/bin/onelook" <<'END'
#!/usr/lib/onelook/bin/python -I
import sys

from onelook.__main__ import main

sys.exit(main())
END
chmod 755 "$environment/bin/onelook"
ln -s ../lib/onelook/bin/onelook "$payload/usr/bin/onelook"
install -m 644 "$root/config.yaml" "$payload/etc/onelook/config.yaml"
install -m 644 "$root/README.md" "$payload/usr/share/doc/onelook/README.md"
install -d "$payload/usr/share/onelook"
cp "$root"/deploy/alerts.yaml "$root"/deploy/prometheus.yaml "$root"/deploy/dashboard.json "$payload/usr/share/onelook/"
install -d "$payload/usr/lib/systemd/system"

cp -a "$root/deploy/debian" "$work/onelook/debian"
cd "$work/onelook"
units() { sed -e 's#/opt/onelook/bin/onelook#/usr/bin/onelook#; s#/opt/onelook/#/usr/share/doc/onelook/#' "$root/systemd/$1"; }
units onelook.service > debian/onelook.service
units onelook@.service > "$payload/usr/lib/systemd/system/onelook@.service"  # its instances are the owner's to enable
sed -i "s/@PYTHON@/python$python/" debian/control
version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' "$root/daemon/onelook/__init__.py")
# A checkout may be another user's than who builds; a folder that is none may lie in some other checkout.
commit=$([ ! -e "$root/.git" ] || TZ=UTC git -c safe.directory="$root" -C "$root" log -1 --format=%cd \
  --date=format-local:%Y%m%d.%H%M 2>/dev/null) || true
changes() { # a section of our changelog, an entry a line
  awk -v heading="## $1" '/^#/ { wanted = $0 == heading || index($0, heading " ") == 1; next }
    !wanted || !NF { next }
    /^- / { if (entry) print entry; entry = substr($0, 3); next }
    { sub(/^ */, ""); entry = entry " " $0 }
    END { if (entry) print entry }' "$root/CHANGELOG.md"
}
{
  echo "onelook ($version${commit:++git$commit}-1+py$nodot) stable; urgency=medium"
  echo
  { changes Unreleased; changes "$version"; } | while IFS= read -r entry; do
    echo "$entry" | fold -s -w 74 | sed '1s/^/  * /; 2,$s/^/    /; s/ *$//'
  done
  echo
  echo " -- onelook maintainers <maintainers@onelook.invalid>  $(LC_ALL=C date -R -d "@${SOURCE_DATE_EPOCH:-$(date +%s)}")"
} > debian/changelog

echo "Packing..."
DEB_BUILD_OPTIONS=nocheck dpkg-buildpackage --build=binary --host-arch "$arch" --no-check-builddeps \
  --unsigned-changes --unsigned-buildinfo > "$work/log" 2>&1 || { tail -30 "$work/log" >&2; exit 1; }
mkdir -p "$root/dist"
cp "$work"/onelook_*_"$arch".deb "$root/dist/"
built=$root/dist/$(basename "$work"/onelook_*_"$arch".deb)
if [ "${LINT:-yes}" = yes ] && command -v lintian >/dev/null; then
  echo "Checking with lintian..."
  lintian --fail-on error --tag-display-limit 5 "$built"
fi
echo "$built"
