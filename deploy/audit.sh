#!/bin/sh
# Tells which locked packages have a known weakness, and writes what onelook is made of to dist/onelook.cdx.json, a bill
# of materials in CycloneDX's form, with the hash of each package; it is checked against CycloneDX's own schema.
#
#   deploy/audit.sh [--list insecure.json]
#
# pip-audit asks the index, as PyPI itself can be asked and mirrors may not; a package that cannot be asked about is a
# failure. Where there is only a mirror: --list takes safety-db's file (data/insecure.json of github.com/pyupio/safety-db,
# renewed each month) in the index's place, and says how old it is.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
list=''
case ${1:-} in
  '') ;;
  --list) list=$(realpath "${2:?--list needs a file}") ;;
  *) echo "There is no option $1: see the first lines of $0." >&2; exit 2 ;;
esac
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work"
"$work/bin/python" -m pip -qq --disable-pip-version-check install pip-audit cyclonedx-bom packaging
mkdir -p "$root/dist"
bill=$root/dist/onelook.cdx.json
"$work/bin/cyclonedx-py" requirements --pyproject "$root/pyproject.toml" --output-reproducible --output-format JSON \
  --validate --output-file "$bill" "$root/requirements/runtime.lock"
"$work/bin/python" - "$bill" "$root/requirements/runtime.lock" <<'END'
"""Every locked package has to be in the bill, with its version and a hash."""
import json
import re
import sys
from pathlib import Path

bill = json.loads(Path(sys.argv[1]).read_text())
told = {(part["name"].lower(), part["version"]) for part in bill["components"]
        if any(place.get("hashes") for place in part.get("externalReferences", []))}
locked = {(name.lower(), version) for name, version in
          re.findall(r"^([\w.-]+)==([\w.]+)", Path(sys.argv[2]).read_text(), re.MULTILINE)}
print(f"dist/onelook.cdx.json: {len(bill['components'])} components, CycloneDX {bill['specVersion']}")
sys.exit(f"not in it, or without a hash: {sorted(locked - told)}" if locked - told else 0)
END

failed=0
for lock in runtime demo test bench build tflite-runtime; do
  echo "$lock.lock:"
  if [ -n "$list" ]; then
    "$work/bin/python" - "$list" "$root/requirements/$lock.lock" <<'END' || failed=1
import json
import re
import sys
from datetime import datetime, timezone
from pathlib import Path

from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

known = json.loads(Path(sys.argv[1]).read_text())
age = datetime.fromtimestamp(known.pop("$meta")["timestamp"], timezone.utc)
known = {canonicalize_name(name): specs for name, specs in known.items()}
locked = re.findall(r"^([\w.-]+)==([\w.]+)", Path(sys.argv[2]).read_text(), re.MULTILINE)
weak = [f"{name} {version} is weak: {spec}" for name, version in locked
        for spec in known.get(canonicalize_name(name), []) if SpecifierSet(spec).contains(version, prereleases=True)]
listed = sum(canonicalize_name(name) in known for name, _ in locked)
print(f"{len(locked)} packages, {listed} of them in the list of {age:%Y-%m-%d}, {len(weak)} with a known weakness")
print("\n".join(weak), end="\n" if weak else "")
sys.exit(bool(weak))
END
  else
    "$work/bin/pip-audit" --strict --disable-pip --no-deps --requirement "$root/requirements/$lock.lock" || failed=1
  fi
done
exit $failed
