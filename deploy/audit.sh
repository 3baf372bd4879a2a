#!/bin/sh
# Asks the index whether any locked package has a known weakness, and writes what onelook is made of to
# dist/onelook.cdx.json, a bill of materials in CycloneDX's form, with the hash of each package. Needs an index that
# tells weaknesses, as PyPI itself does and mirrors may not; a package that cannot be asked about is a failure.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work"
"$work/bin/python" -m pip --quiet --disable-pip-version-check install pip-audit cyclonedx-bom
mkdir -p "$root/dist"
"$work/bin/cyclonedx-py" requirements --pyproject "$root/pyproject.toml" --output-reproducible --output-format JSON \
  --output-file "$root/dist/onelook.cdx.json" "$root/requirements/runtime.lock"
echo "dist/onelook.cdx.json: $(grep -c '"bom-ref"' "$root/dist/onelook.cdx.json") components"
failed=0
for lock in runtime demo test build tflite-runtime; do
  echo "$lock.lock:"
  "$work/bin/pip-audit" --strict --disable-pip --no-deps --requirement "$root/requirements/$lock.lock" || failed=1
done
exit $failed
