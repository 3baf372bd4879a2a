# tflite-runtime.lock without what PyPI has no 32-bit wheels of; Debian's own are taken in their place.
/^[a-z]/ { split($1, name, "=="); theirs = name[1] ~ /^(numpy|opencv-python-headless|pillow|pyyaml|cffi|pycparser)$/ }
!theirs
