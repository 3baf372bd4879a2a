"""Whether two replays tell the same: same-events.py HERE.jsonl THERE.jsonl, of the same pictures on two kinds of CPU.

The same people must come and go, be named and described by the same words; numbers may be a rounding apart.
"""

import json
import sys
from pathlib import Path

NEAR = {"time": 0.25, "frame": 2.5, "box": 3.0, "age": 2.0, "age_range": 2.0, "seconds": 0.25}
"""How far numbers may be apart, in their own units; all others are shares of 1."""


def events(file):
    told = {}
    for line in Path(file).read_text().splitlines():
        event = json.loads(line)
        data = event["data"] | {"time": float(event["time"][-7:-1])}
        told.setdefault((event["type"], data.get("track")), []).append(data)
    return told


def compare(a, b, place, apart):
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        for key in a:
            compare(a[key], b[key], key, apart)
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for one, other in zip(a, b):
            compare(one, other, place, apart)
    elif type(a) in (int, float) and type(b) in (int, float):
        apart[place] = max(apart.get(place, 0), abs(a - b))
    elif a != b:
        apart[place] = float("inf")
        print(f"{place}: {a!r} here, {b!r} there")


here, there = map(events, sys.argv[1:])
apart = {"events": 0.0 if here.keys() == there.keys() else float("inf")}
for who in here.keys() & there.keys():
    compare(here[who], there[who], "events", apart)
count = sum(map(len, here.values()))
print(f"{count} events here, {sum(map(len, there.values()))} there; numbers apart by at most:",
      ", ".join(f"{place} {far:.3g}" for place, far in sorted(apart.items()) if far) or "nothing")
sys.exit(not count or any(far > NEAR.get(place, 0.05) for place, far in apart.items()))
