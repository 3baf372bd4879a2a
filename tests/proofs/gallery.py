"""Kill -9 at random moments while a gallery is changed: it opens each time, with the old state or the new.

    PYTHONPATH=daemon:. python tests/proofs/gallery.py [--times 200] [--seed 1]

A child enrols, forgets, notes, keeps strangers and changes the key, and says before each what it will do and after
it that it is done; it is killed at a random moment of the first quarter of a second. What it said to be done must
be so, what it had not begun must not, and what it was at may be either, but nothing by halves. Prints a line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from onelook.gallery import Gallery, Note, Stranger

MODEL = "a1" * 32
PHOTOS = 3


def change(home: Path, say: int, seed: int) -> None:
    """Changes the gallery without end, one thing after another."""
    from datetime import UTC, datetime  # noqa: PLC0415 - after the fork, as all that the child does

    dice, chance = random.Random(seed), np.random.default_rng(seed)  # noqa: S311
    with Gallery.open(home / "gallery.db", home / "gallery.key", MODEL) as gallery:
        for turn in range(10_000):
            here = [person.name for person in gallery.people()]
            what = dice.choice(["enroll", "enroll", "enroll", "forget", "note", "stranger", "rotate"])
            if what in ("forget", "note", "rotate") and not here:
                what = "enroll"
            name = f"{seed}-{turn}" if what == "enroll" else dice.choice(here) if here else ""
            os.write(say, f"begin {what} {name}\n".encode())
            if what == "enroll":
                with gallery.transaction():
                    for photo in range(PHOTOS):
                        gallery.add(name, chance.standard_normal(256), 0.9, f"{photo}.jpg")
            elif what == "forget":
                gallery.forget(name, alike=0.9)
            elif what == "note":
                gallery.annotate(name, Note(purpose=f"turn {turn}", consent="yes"))
            elif what == "stranger":
                now, look = datetime.now(UTC), chance.standard_normal(256).astype(np.float32)
                gallery.keep_stranger(Stranger("door", now, now, look / np.linalg.norm(look), 0.5), most=20)
            else:
                gallery.rotate()
            os.write(say, f"done {what} {name}\n".encode())


def one_kill(home: Path, seed: int, seconds: float, known: set[str]) -> tuple[set[str], str]:
    """Lets a child change the gallery and kills it; who must be there then, and what it was at."""
    hear, say = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(hear)
        try:
            change(home, say, seed)
        finally:
            os._exit(1)  # it ends by being killed, or not at all
    os.close(say)
    with os.fdopen(hear) as told:
        first = told.readline()  # it is at work
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        lines = [first.strip(), *(line.strip() for line in told)]
    assert os.WIFSIGNALED(status), "the child ended by itself"
    at = ""
    for line in lines:
        word, what, name = [*line.split(" ", 2), ""][:3]
        at = f"{what} {name}" if word == "begin" else ""
        if word == "done" and what == "enroll":
            known = known | {name}
        if word == "done" and what == "forget":
            known = known - {name}
    return known, at


def kills(folder: Path, times: int, seed: int = 1) -> dict[str, int]:
    """Kills `times` children; every third begins with an empty folder. What the kills hit, by what it was at."""
    dice = random.Random(seed)  # noqa: S311
    hit: dict[str, int] = {}
    known: set[str] = set()
    home = folder / "first"
    for time_ in range(times):
        if time_ % 3 == 0:
            home, known = folder / str(time_), set()
            home.mkdir()
        known, at = one_kill(home, seed * 1_000_000 + time_, dice.uniform(0, 0.25), known)
        what, _, name = at.partition(" ")
        hit[what or "between"] = hit.get(what or "between", 0) + 1
        hit["left a journal"] = hit.get("left a journal", 0) + (home / "gallery.db-journal").exists()
        with Gallery.open(home / "gallery.db", home / "gallery.key", MODEL) as gallery:
            people = {person.name: len(person.templates) for person in gallery.people()}
            open_question = {name} if what in ("enroll", "forget") else set()
            assert people.keys() - open_question == known - open_question, (at, people.keys() ^ known)
            assert set(people.values()) <= {PHOTOS}, people
            gallery.strangers()
            known = set(people)
    return hit


def main() -> None:
    """Prints what was hit; raises where anything was lost, or half done."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--times", type=int, default=200)
    ask.add_argument("--seed", type=int, default=1)
    options = ask.parse_args()
    with TemporaryDirectory() as folder:
        hit = kills(Path(folder), options.times, options.seed)
    sys.stdout.write(json.dumps({"kills": options.times, "hit": hit}) + "\n")


if __name__ == "__main__":
    main()
