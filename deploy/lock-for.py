"""Prints a lock as another Python on Linux reads it: lock-for.py LOCK 3.13

Only the packages that are for that Python, without their markers: pip heeds those of the Python that it runs on, and
`pip install` asks that one again, so that it needs --ignore-requires-python as well.
"""

import re
import sys
from pathlib import Path

from pip._vendor.packaging.markers import Marker

lock, python = sys.argv[1:]
theirs = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
for block in re.split(r"^(?=[\w.-]+==)", Path(lock).read_text(), flags=re.MULTILINE):
    requirement = re.match(r"([\w.-]+==\S+) ; ([^\\\n]+?)( \\\n)", block)
    if requirement is None:
        sys.stdout.write(block)
    elif Marker(requirement[2]).evaluate(theirs):
        sys.stdout.write(requirement[1] + requirement[3] + block[requirement.end() :])
