"""Gallery: the enrolled people, one SQLite file in which everything about a person is sealed.

Names, photos' names and templates are AES-256-GCM ciphertext: a stolen card tells how many
people are enrolled, not who. All of it is opened into memory once; the file is read again
only after somebody has changed it.

No write-ahead log, on purpose: a gallery is changed a few times a week, one file is what an
owner can copy or carry away, and no second file keeps bytes of a person who was forgotten.
"""

from __future__ import annotations

import base64
import json
import logging
import math
import sqlite3
import unicodedata
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import numpy as np
from cryptography.exceptions import InvalidTag

from onelook.cohort import NOBODY, Cohort
from onelook.errors import BusyError, GalleryError
from onelook.face import Floats
from onelook.key import Key, Seal, alone
from onelook.match import Match
from onelook.nearest import Nearest
from onelook.private import open_to_others, uncreatable, write_private

log = logging.getLogger(__name__)

WORD = b"onelook gallery"
"""Sealed with the key, so that a wrong one is told from damage."""
APPLICATION_ID = 0x31_4C_4F_4F
"""Marks an SQLite file as a gallery ("1LOO")."""
PATIENCE_MS = 5000
"""How long a change waits for another process's change to end."""
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        # One sealed word that tells a wrong key from a damaged row.
        "CREATE TABLE lock (sealed BLOB NOT NULL)",
        # AUTOINCREMENT: a number is never given twice. So no old ciphertext fits a new
        # person, and what is new since the last look is told by its number.
        "CREATE TABLE person (id INTEGER PRIMARY KEY AUTOINCREMENT, sealed BLOB NOT NULL)",
        """CREATE TABLE template (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            person INTEGER NOT NULL REFERENCES person (id),
            model TEXT NOT NULL,
            sealed BLOB NOT NULL
        )""",
    ),
    (
        # What a person agreed to. A changed note is a new row, so that it is seen as templates are.
        """CREATE TABLE note (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            person INTEGER NOT NULL REFERENCES person (id),
            sealed BLOB NOT NULL
        )""",
        # Tracks of people whom nobody has enrolled, kept for a while where the owner wants that.
        "CREATE TABLE stranger (id INTEGER PRIMARY KEY AUTOINCREMENT, model TEXT NOT NULL, sealed BLOB NOT NULL)",
    ),
)
"""Entry n: the statements that lead from schema n to n + 1. Only ever append."""


NEVER = datetime.max.replace(tzinfo=UTC)
"""`Note.until` that takes an earlier one back."""


class GalleryBusyError(GalleryError, BusyError):
    """Another process is writing."""


@dataclass(frozen=True, slots=True, eq=False)
class Template:
    """What is kept of one photo."""

    embedding: Floats = field(repr=False)
    """(D,) unit length."""
    quality: float
    """0 to 1; its weight beside the person's other templates."""
    source: str
    """Where it came from: the photo's file name."""
    sha256: str | None
    """Of the photo's bytes, hexadecimal; none where there was no photo."""
    model: str
    """Stamp of the model that made it (`ModelSpec.stamp`), a sha256 in hexadecimal."""
    added: datetime
    """UTC."""


@dataclass(frozen=True, slots=True)
class Note:
    """On what ground a person is enrolled. For `annotate`, None leaves what stood there; "" and NEVER take it back."""

    purpose: str | None = None
    """What the templates are kept for."""
    consent: str | None = None
    """How and when the person agreed, in the owner's words."""
    until: datetime | None = None
    """UTC; then the person is forgotten. None: for as long as the gallery's lifetime says."""


@dataclass(frozen=True, slots=True, eq=False)
class Person:
    """One enrolled person."""

    name: str
    templates: tuple[Template, ...]
    """At least one; oldest first."""
    note: Note = Note()

    @property
    def first(self) -> datetime:
        """When the person was enrolled, UTC."""
        return self.templates[0].added

    @property
    def last(self) -> datetime:
        """When the newest template was added, UTC."""
        return self.templates[-1].added


@dataclass(frozen=True, slots=True, eq=False)
class Stranger:
    """A track of somebody who is not enrolled."""

    stream: str
    first: datetime
    """UTC; when the track began."""
    last: datetime
    """UTC; when it was last seen."""
    embedding: Floats = field(repr=False)
    """(D,) unit length: the mean of the track's faces."""
    quality: float
    """0 to 1: of the mean."""
    crop: bytes | None = field(default=None, repr=False)
    """JPEG of the face, only where the owner wants it kept."""
    number: int = 0
    """Its place in the gallery; 0 before it is stored."""
    model: str = ""
    """sha256 of the model that made the embedding; the gallery's own if empty."""
    until: datetime | None = None
    """UTC; when it is to be destroyed, as its keeper said when storing it. None in galleries of 0.9.2 and before."""


def clean_name(name: str) -> str:
    """The name as it is kept: trimmed, and in one Unicode form (folders on macOS come in another).

    Raises GalleryError unless it has 1 to 64 characters, all of which are seen in a line
    rather than control, break or reverse it.
    """
    clean = unicodedata.normalize("NFC", name).strip()
    for letter in clean:
        # The two joiners are invisible too, but Persian and Indic names are spelled with them.
        if unicodedata.category(letter) in {"Cc", "Cf", "Cs", "Zl", "Zp"} and letter not in "\u200c\u200d":
            raise GalleryError(f"The name {clean!a} holds the unprintable character U+{ord(letter):04X}.")
    if not 1 <= len(clean) <= 64:
        raise GalleryError(f"A name has 1 to 64 characters, and {clean[:20]!r} has {len(clean)}.")
    return clean


class Gallery:
    """The enrolled people. Made by `Gallery.open`, used from one thread, closed at the end.

    A file that does not exist is an empty gallery. Looking never writes: the file and its key
    come into being, readable by their owner alone, with the first `add`.
    """

    def __init__(self, path: Path, key_file: Path, model_sha: str | None = None, cohort: Cohort = NOBODY) -> None:
        """Only remembers where things are; `open` reads them."""
        self.path = path
        self.key = Key(key_file)
        self.model_sha = model_sha
        self._cohort = cohort
        self._db: sqlite3.Connection | None = None
        self._inode: tuple[int, int] | None = None
        self._version: int | None = None  # PRAGMA data_version that the memory agrees with
        self._seal: Seal | None = None
        self._memory = _Memory()
        self._stale = False
        self._compared: dict[str, tuple[Template, ...]] = {}  # whose means _nearest has; the memory, unless stale
        self._nearest = Nearest()
        self._agreement: dict[str, float] = {}  # lengths of those means, see `Match.agreement`
        self._common: dict[str, float] = {}  # what those means have in common with many others
        self._looked: float | None = None
        self._rehearsing = False
        self.on_forgotten: list[Callable[[str, Sequence[Template]], object]] = []
        """All told of everybody who was enrolled at the last look and is no more, and how they looked."""

    @classmethod
    def open(cls, path: Path, key_file: Path, model_sha: str | None = None, cohort: Cohort = NOBODY) -> Self:
        """Reads the gallery at `path`. Its key: the systemd credential `gallery-key`, else `key_file`.

        `model_sha` is the stamp of the model whose embeddings will be added and matched (`ModelSpec.stamp`);
        without one, people can only be listed and forgotten. `cohort`: of the same model.

        Raises GalleryError: key missing, wrong, short or open to others; file open to others,
        damaged, no gallery, of a newer schema, or holding another model's templates.
        """
        gallery = cls(path, key_file, model_sha, cohort)
        try:
            gallery.key.read()  # so that a bad key is told now and not by the first `add`
            gallery._sync(PATIENCE_MS)
        except GalleryError:
            gallery.close()
            raise
        return gallery

    def close(self) -> None:
        """Lets go of the file. Whatever was added is stored already."""
        self._disconnect()
        self._recall(_Memory())

    def __enter__(self) -> Self:
        """The gallery itself."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Closes it."""
        self.close()

    def people(self) -> list[Person]:
        """Everybody, by name, as of `open`, the last `refresh` that saw a change, or our own change."""
        people = sorted(self._memory.people.items(), key=lambda item: (item[0].casefold(), item[0]))
        notes = self._memory.notes_by_name()
        return [Person(name, templates, notes.get(name, Note())) for name, templates in people]

    def templates(self, name: str) -> tuple[Template, ...]:
        """What is kept of one person, oldest first; empty if nobody of that name is enrolled."""
        return self._memory.people.get(clean_name(name), ())

    def match(self, embeddings: Floats) -> list[Match]:
        """The nearest person for each row of `embeddings`, (N, D) of unit length.

        A person is the mean of their templates, weighted by quality, not the best of them.
        With "best", every further photo is a further chance for a stranger to resemble it;
        the mean keeps what the photos agree on. `Match.agreement` tells how much of them that
        is: a mean is nearer to everybody than one photo, see `ModelSpec.similarities`.
        """
        if self.model_sha is None:
            raise ValueError("a gallery opened without a model has nothing to compare with")
        if not self._memory.people:
            return [Match(None, -1.0, math.inf, 1.0, 0)] * len(embeddings)
        if self._stale:
            self._compare()
        rows, cosines, margins = self._nearest.find(embeddings)
        names = [self._nearest.names[row] for row in rows.tolist()]
        common = (self._cohort.commonness(embeddings) + [self._common[name] for name in names]) / 2
        similarities = np.clip(cosines - common, -1, 1).tolist()
        return [
            Match(name, similarity, ahead, self._agreement[name], len(self._nearest))
            for name, similarity, ahead in zip(names, similarities, margins.tolist(), strict=True)
        ]

    def similarity(self, one: Floats, other: Floats) -> float:
        """Of two faces, or means of several, (D,) of unit length: as `match` tells it."""
        return float(one @ other - self._cohort.commonness(np.stack([one, other])).mean())

    def _compare(self) -> None:
        """Brings the means that faces are compared with up to the memory: of many people, only of who changed."""
        before, now = self._compared, self._memory.people
        changed = {name: kept for name, kept in now.items() if before.get(name) != kept}
        if changed:
            means, lengths = _means(list(changed.values()))
            self._nearest.put(dict(zip(changed, means, strict=True)))
            self._agreement.update(zip(changed, lengths, strict=True))
            self._common.update(zip(changed, self._cohort.commonness(means).tolist(), strict=True))
        self._compared, self._stale = dict(now), False

    def _let_go(self) -> None:
        """Drops the means of who is not in the memory any more: at once, not with the next face."""
        gone = self._compared.keys() - self._memory.people.keys()
        self._nearest.drop(gone)
        for name in gone:
            del self._compared[name], self._agreement[name], self._common[name]

    def refresh(self, time: float) -> bool:
        """Picks up what other processes have changed; True if anything was. Looks once a second.

        `time` is the frame's, in seconds. A file that has vanished is an empty gallery: who
        removes it wants nobody recognised. Never waits for a writer: it looks again a second
        later. Raises GalleryError as `open` does; what was known then stays in memory.
        """
        if self._looked is not None and 0 <= time - self._looked < 1:
            return False
        self._looked = time
        try:
            return self._sync(patience_ms=0)
        except GalleryBusyError:
            return False

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """What is added within is stored together or, whatever happens, not at all.

        Keep it short: other processes that want to change the gallery wait for its end.
        Raises GalleryError if the file cannot be written.
        """
        if self._rehearsing or (self._db is not None and self._db.in_transaction):
            yield
            return
        self._sync(PATIENCE_MS)
        if self._db is None:
            self._create_file()
            self._sync(PATIENCE_MS)
        db, before = self._connected(), self._memory
        try:
            with self._sentences():
                db.execute("BEGIN IMMEDIATE")
                if _pragma(db, "user_version") == 0:
                    self._found(db)
                self._load(db)  # of two that add at once, the second sees what the first did
            yield
            with self._sentences():
                db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            self._recall(before)
            self._seal = self._version = None  # read all of it again at the next look
            raise

    @contextmanager
    def rehearsal(self) -> Iterator[None]:
        """What is added within is known until its end, and never stored: to see what would come of it."""
        before = self._memory
        self._recall(before.only(before.rows))
        self._rehearsing = True
        try:
            yield
        finally:
            self._rehearsing = False
            self._recall(before)

    def add(
        self, name: str, embedding: Floats, quality: float, source: str, sha256: str | None = None
    ) -> bool:
        """Stores one template (D,) for good when it returns; a person comes into being with the first.

        `source` says where it came from (the photo's file name), `sha256` of which bytes.
        Returns False, and stores nothing, if this photo of this person is there already.
        Raises GalleryError for a bad name or a file that cannot be written.
        """
        name = clean_name(name)
        length = float(np.linalg.norm(embedding))
        if self.model_sha is None or np.ndim(embedding) != 1 or not 0 < length < math.inf:
            raise ValueError("a template needs a model and one finite vector of some length")
        template = Template(
            embedding=np.asarray(embedding, np.float32) / np.float32(length),
            quality=min(max(float(quality), 0.0), 1.0),
            source=source,
            sha256=sha256,
            model=self.model_sha,
            added=datetime.now(UTC).replace(microsecond=0),
        )
        with self.transaction():
            memory = self._memory
            if sha256 is not None and any(old.sha256 == sha256 for old in memory.people.get(name, ())):
                return False
            if self._rehearsing:
                self._memory.add(-1 - len(memory.rows), name, -1, template)
                self._stale = True
                return True
            db = self._connected()
            with self._sentences():
                person = memory.numbers.get(name)
                if person is None:
                    person = _next_number(db, "person")
                    sealed = self._sealed(json.dumps({"name": name}).encode(), "person", person)
                    db.execute("INSERT INTO person VALUES (?, ?)", (person, sealed))
                number = _next_number(db, "template")
                sealed = self._sealed(_packed(template), "template", number, person, template.model)
                row = (number, person, template.model, sealed)
                db.execute("INSERT INTO template VALUES (?, ?, ?, ?)", row)
            memory.add(number, name, person, template)
            self._stale = True
        return True

    def export(self, name: str) -> dict[str, object]:
        """All that is kept of a person, for them to see; templates as base64 of little-endian float32.

        Raises GalleryError if nobody of that name is enrolled.
        """
        name = clean_name(name)
        person = next((person for person in self.people() if person.name == name), None)
        if person is None:
            raise GalleryError(f"Nobody named {name} is enrolled.")
        note = person.note
        return {
            "name": name,
            "purpose": note.purpose,
            "consent": note.consent,
            "until": None if note.until is None else note.until.isoformat(),
            "templates": [
                {
                    "source": template.source,
                    "sha256": template.sha256,
                    "quality": template.quality,
                    "added": template.added.isoformat(),
                    "model": template.model,
                    "embedding": base64.b64encode(template.embedding.astype("<f4").tobytes()).decode(),
                }
                for template in person.templates
            ],
        }

    def annotate(self, name: str, note: Note) -> None:
        """Stores on what ground somebody is enrolled; what `note` does not tell stays as it stood there, see `Note`.

        Raises GalleryError if nobody of that name is enrolled or the file cannot be written.
        """
        name = clean_name(name)
        with self.transaction():
            db, memory = self._connected(), self._memory
            person = memory.numbers.get(name)
            if person is None:
                raise GalleryError(f"Nobody named {name} is enrolled.")
            with self._sentences():
                old = next((kept for whose, kept in memory.notes.values() if whose == person), Note())
                purpose = old.purpose if note.purpose is None else note.purpose.strip() or None
                consent = old.consent if note.consent is None else note.consent.strip() or None
                until = old.until if note.until is None else note.until
                note = Note(purpose, consent, None if until == NEVER else until)
                db.execute("DELETE FROM note WHERE person = ?", (person,))
                number = _next_number(db, "note")
                about = {
                    "purpose": note.purpose,
                    "consent": note.consent,
                    "until": None if note.until is None else note.until.isoformat(),
                }
                sealed = self._sealed(json.dumps(about).encode(), "note", number, person)
                db.execute("INSERT INTO note VALUES (?, ?, ?)", (number, person, sealed))
            memory.notes = {key: kept for key, kept in memory.notes.items() if kept[0] != person}
            memory.notes[number] = person, note

    def renew(self, name: str, templates: Sequence[Template]) -> None:
        """Puts `templates` in the place of all that is kept of a person: other photos, or another model's.

        Raises GalleryError if nobody of that name is enrolled or the file cannot be written.
        """
        name = clean_name(name)
        with self.transaction():
            db, memory = self._connected(), self._memory
            person = memory.numbers.get(name)
            if person is None or not templates:
                raise GalleryError(f"Nobody named {name} is enrolled, or there is nothing to renew them with.")
            new = memory.only({number for number, (whose, _) in memory.rows.items() if whose != name}, keep=name)
            with self._sentences():
                db.execute("DELETE FROM template WHERE person = ?", (person,))
                for template in templates:
                    number = _next_number(db, "template")
                    sealed = self._sealed(_packed(template), "template", number, person, template.model)
                    db.execute("INSERT INTO template VALUES (?, ?, ?, ?)", (number, person, template.model, sealed))
                    new.add(number, name, person, template)
            self._recall(new)

    def forget(self, name: str, *, alike: float | None = None) -> int:
        """Removes a person; returns how many templates that were, 0 if nobody of that name is enrolled.

        alike: strangers of at least this similarity go too, as they may be tracks of the same person.

        No byte of them is left in the gallery's files: rows are overwritten with zeros as they
        go, the file is then written anew without the gaps, and read to see that it is true. (What a
        drive keeps of blocks that it has freed is beyond any program's reach; there it is ciphertext.)
        Raises GalleryError if the file cannot be written, or if anything was found left; then run it again.
        """
        name = clean_name(name)
        self._sync(PATIENCE_MS)
        if self._db is None:
            return 0
        gone = self._remove([name], alike)
        return gone.get(name, 0)

    def expire(self, lifetime: timedelta | None = None, now: datetime | None = None) -> dict[str, int]:
        """Destroys what has outlived its time as `forget` does; gives how many templates of whom.

        lifetime: the most that a template is kept; none: no limit but the people's own (`Note.until`). now: UTC.
        """
        now = now or datetime.now(UTC)
        self._sync(PATIENCE_MS)
        memory = self._memory
        left = {name for name, note in memory.notes_by_name().items() if note.until is not None and note.until <= now}
        over = {
            number
            for number, (name, template) in memory.rows.items()
            if name in left or (lifetime is not None and template.added + lifetime <= now)
        }
        if self._db is None or not over:
            return {}
        kept = {name for number, (name, _) in memory.rows.items() if number not in over}
        partly = [number for number in over if memory.rows[number][0] in kept]
        gone = self._remove([name for name in memory.people if name not in kept], None, partly)
        for name, count in gone.items():
            log.info("%d templates had outlived their time%s", count, "" if name in kept else ", and their person")
        return gone

    def _remove(self, names: Sequence[str], alike: float | None, rows: Sequence[int] = ()) -> dict[str, int]:
        """Destroys people, and single templates by their numbers; how many templates of whom."""
        gone: dict[str, int] = {}
        with self.transaction():
            db, memory = self._connected(), self._memory
            doomed = [number for number, (name, _) in memory.rows.items() if name in names or number in rows]
            people = [memory.numbers[name] for name in names if name in memory.numbers]
            for number in doomed:
                name = memory.rows[number][0]
                gone[name] = gone.get(name, 0) + 1
            strangers: list[int] = []
            if alike is not None and names and doomed:
                looks = np.stack([memory.rows[number][1].embedding for number in doomed])
                models = {memory.rows[number][1].model for number in doomed}
                strangers = [
                    each.number
                    for each in self._strangers(db)
                    if each.model in models and float((looks @ each.embedding).max()) >= alike
                ]
            with self._sentences():
                pieces: list[bytes] = []
                for table, column, numbers in (
                    ("template", "id", doomed),
                    ("note", "person", people),
                    ("person", "id", people),
                    ("stranger", "id", strangers),
                ):
                    pieces += _removed(db, table, column, numbers)
            self._recall(memory.only(memory.rows.keys() - set(doomed)))
        # Before anything can fail: the next try would find nobody to tell of.
        self._tell_forgotten(memory)
        with self._sentences():
            self._connected().execute("VACUUM")
        self._prove_gone(pieces)
        return gone

    def _tell_forgotten(self, before: _Memory) -> None:
        """Of who was in the memory `before`, and is not now."""
        for name in before.people.keys() - self._memory.people.keys():
            for tell in self.on_forgotten:
                tell(name, before.people[name])

    def _prove_gone(self, pieces: Sequence[bytes]) -> None:
        """Raises GalleryError if the gallery's files still hold any of the sealed `pieces`."""
        for file in (self.path, self.path.with_name(self.path.name + "-journal")):
            try:
                raw = file.read_bytes()
            except FileNotFoundError:
                continue
            except OSError as error:
                raise GalleryError(f"The gallery {file} cannot be read: {error.strerror}.") from error
            if any(piece[at : at + 16] in raw for piece in pieces for at in range(0, len(piece) - 15, 256)):
                raise GalleryError(f"{file} still holds bytes of what was to be destroyed: run the same again.")

    # --- strangers ----------------------------------------------------------------------------

    def keep_stranger(self, stranger: Stranger, *, most: int = 500) -> None:
        """Stores a track of somebody unknown; of more than `most` the oldest go.

        Raises GalleryError if the file cannot be written.
        """
        model = stranger.model or self.model_sha
        if model is None:
            raise ValueError("a stranger's embedding needs a model")
        about = {
            "stream": stranger.stream,
            "first": stranger.first.isoformat(),
            "last": stranger.last.isoformat(),
            "quality": stranger.quality,
            "crop": len(stranger.crop or b""),
            "until": None if stranger.until is None else stranger.until.isoformat(),
        }
        plain = json.dumps(about).encode() + b"\n" + (stranger.crop or b"") + stranger.embedding.astype("<f4").tobytes()
        with self.transaction():
            db = self._connected()
            with self._sentences():
                number = _next_number(db, "stranger")
                sealed = self._sealed(plain, "stranger", number, model)
                db.execute("INSERT INTO stranger VALUES (?, ?, ?)", (number, model, sealed))
                oldest = "SELECT id FROM stranger ORDER BY id DESC LIMIT -1 OFFSET ?"
                db.execute(f"DELETE FROM stranger WHERE id IN ({oldest})", (most,))  # noqa: S608

    def strangers(self) -> list[Stranger]:
        """All that are kept, oldest first."""
        self._sync(PATIENCE_MS)
        if self._db is None:
            return []
        return self._strangers(self._db)

    def _strangers(self, db: sqlite3.Connection) -> list[Stranger]:
        with self._sentences():
            if _pragma(db, "user_version") == 0:  # created, and not yet written to
                return []
            rows = db.execute("SELECT id, model, sealed FROM stranger ORDER BY id").fetchall()
        if not rows:
            return []
        seal, kept = self._seal or self._unlock(db), []
        for number, model, sealed in rows:
            about, _, rest = self._unsealed(seal, sealed, "stranger", number, model).partition(b"\n")
            told = json.loads(about)
            kept.append(
                Stranger(
                    stream=told["stream"],
                    first=datetime.fromisoformat(told["first"]),
                    last=datetime.fromisoformat(told["last"]),
                    embedding=np.frombuffer(rest[told["crop"] :], "<f4").astype(np.float32),
                    quality=told["quality"],
                    crop=rest[: told["crop"]] or None,
                    number=number,
                    model=model,
                    until=datetime.fromisoformat(told["until"]) if told.get("until") else None,
                )
            )
        return kept

    def drop_strangers(self, numbers: Sequence[int]) -> int:
        """Destroys strangers by their numbers; how many."""
        self._sync(PATIENCE_MS)
        if self._db is None or not numbers:
            return 0
        with self.transaction(), self._sentences():
            pieces = _removed(self._connected(), "stranger", "id", numbers)
        return len(pieces)

    def expire_strangers(self, lifetime: timedelta, streams: Collection[str], now: datetime | None = None) -> int:
        """Destroys those that have outlived their time; how many. now: UTC.

        lifetime: of strangers seen on `streams`, and of all that do not say their own (`Stranger.until`). Others who
        share the gallery may keep theirs for longer.
        """
        now = now or datetime.now(UTC)
        self._sync(PATIENCE_MS)
        numbers = [] if self._db is None else [
            each.number
            for each in self._strangers(self._db)
            if (each.until is not None and each.until < now)
            or ((each.stream in streams or each.until is None) and each.last < now - lifetime)
        ]
        return self.drop_strangers(numbers)

    # --- the key ------------------------------------------------------------------------------

    def rotate(self, new_key: Path | None = None) -> int:
        """Seals everything anew under a new key; gives how many rows.

        new_key: a file with the key to be used from now on, which the owner then puts in the old one's place
        (needed where systemd hands the key over); none: one is made, and is in `key.file` when this returns.
        Interrupted at any moment, the gallery opens, with the old key or the new. The old one stays beside it, in
        `key.old`, as another gallery may have it too. Raises GalleryError.
        """
        if self.key.handed_over and new_key is None:
            raise GalleryError(
                f"The key comes from systemd ({self.key.path}), where onelook cannot put another: give the file "
                f"with the new key, and put it in the credential's place afterwards."
            )
        self._sync(PATIENCE_MS)
        if self._db is None or _pragma(self._db, "user_version") == 0:  # the latter: created, and not yet written to
            raise GalleryError(f"There is no gallery {self.path} yet, and so no key to change.")
        with alone(self.path.parent) as free:
            if not free:
                raise GalleryBusyError(f"The key of the gallery {self.path} is being changed by another process.")
            return self._rotate(new_key)

    def _rotate(self, new_key: Path | None) -> int:
        self._sync(PATIENCE_MS)  # another may have changed it just before
        fresh = Seal(self.key.prepare(new_key))
        count = 0
        with self.transaction():
            db, seal = self._connected(), self._seal or self._unlock(self._connected())
            with self._sentences():
                db.execute("UPDATE lock SET sealed = ?", (fresh.close(WORD, "lock"),))
                for table, columns in (
                    ("person", ()), ("template", ("person", "model")), ("note", ("person",)), ("stranger", ("model",))
                ):  # fmt: skip
                    names = ", ".join(("id", "sealed", *columns))
                    for number, sealed, *bound in db.execute(f"SELECT {names} FROM {table}").fetchall():  # noqa: S608
                        plain = self._unsealed(seal, sealed, table, number, *bound)
                        row = (fresh.close(plain, table, number, *bound), number)
                        db.execute(f"UPDATE {table} SET sealed = ? WHERE id = ?", row)  # noqa: S608
                        count += 1
            self._seal = fresh
        with self._sentences():
            self._connected().execute("VACUUM")
        if new_key is None:
            self.key.settle()
        return count

    def _connected(self) -> sqlite3.Connection:
        if self._db is None:
            raise GalleryError(f"The gallery {self.path} was removed while it was in use: try again.")
        return self._db

    def _disconnect(self) -> None:
        if self._db is not None:
            self._db.close()
        self._db = self._inode = self._seal = self._version = None

    def _recall(self, memory: _Memory) -> None:
        self._memory = memory
        self._stale = True
        self._let_go()

    def _sync(self, patience_ms: int) -> bool:
        """Makes the memory agree with the file; True if it did not. `patience_ms`: wait for a writer."""
        if self._db is not None and self._db.in_transaction:
            return False  # ours: nobody else can have changed anything
        try:
            status = self.path.stat()
        except FileNotFoundError:
            if self._db is None and not self._memory.people:
                return False
            log.warning("the gallery %s has vanished: nobody is enrolled", self.path)
            before = self._memory
            self.close()
            self._tell_forgotten(before)
            return True
        except OSError as error:
            raise GalleryError(f"The gallery {self.path} cannot be read: {error.strerror}.") from error
        if self._inode != (status.st_dev, status.st_ino):  # a new file, or another in its place
            self._disconnect()
            if status.st_mode & 0o077:
                raise open_to_others("gallery", self.path, status.st_mode)
            with self._sentences():
                self._connect(patience_ms)
            self._inode = (status.st_dev, status.st_ino)
        db = self._connected()
        try:
            with self._sentences():
                db.execute(f"PRAGMA busy_timeout = {patience_ms:d}")
                if self._version == _pragma(db, "data_version"):
                    return False
                db.execute("BEGIN")
                self._load(db)
        finally:
            if db.in_transaction:
                db.execute("ROLLBACK")  # it only read
        return True

    def _connect(self, patience_ms: int) -> None:
        db = sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None)
        try:
            db.execute(f"PRAGMA busy_timeout = {patience_ms:d}")
            db.execute("PRAGMA secure_delete = ON")
            db.execute("PRAGMA temp_store = MEMORY")  # VACUUM's copy never lies in a folder of others
            db.execute("PRAGMA trusted_schema = OFF")
            if _pragma(db, "application_id") == APPLICATION_ID:
                db.execute("PRAGMA journal_mode = DELETE")  # whatever tool has touched the file
                if _pragma(db, "user_version") < len(MIGRATIONS):
                    db.execute("BEGIN IMMEDIATE")
                    _migrate(db)
                    db.execute("COMMIT")
        except UnicodeDecodeError as error:  # SQLite quotes the damage, and Python cannot read the quote
            db.close()
            raise sqlite3.DatabaseError("its schema is damaged") from error
        except sqlite3.Error:
            db.close()
            raise
        self._db = db

    def _load(self, db: sqlite3.Connection) -> None:
        """Reads what the memory lacks and drops what the file lacks, within the transaction begun."""
        schema = _pragma(db, "user_version")
        version = _pragma(db, "data_version")
        if schema == 0 and not db.execute("SELECT 1 FROM sqlite_master").fetchone():
            # Created, and not yet written to.
            self._recall(_Memory())
            self._version = version
            return
        if _pragma(db, "application_id") != APPLICATION_ID:
            raise GalleryError(f"The file {self.path} is a database but no gallery: give another path.")
        if schema > len(MIGRATIONS):
            raise GalleryError(
                f"The gallery {self.path} was written by a newer onelook (schema {schema}, known here "
                f"up to {len(MIGRATIONS)}): install that version, or use another gallery."
            )
        seal = self._seal = self._unlock(db)
        old = _Memory() if self._version is None else self._memory
        # Not only what has higher numbers is new: somebody renewed keeps theirs, and a copy put back has old ones.
        people, rows, notes = (_numbers(db, table) for table in ("person", "template", "note"))
        names = {person: name for name, person in old.numbers.items() if person in people}
        for person, sealed in _rows(db, "person", "sealed", people - names.keys()):
            names[person] = json.loads(self._unsealed(seal, sealed, "person", person))["name"]
        kept = {
            number: (name, old.numbers[name], template)
            for number, (name, template) in old.rows.items()
            if number in rows
        }
        for number, person, model, sealed in _rows(db, "template", "person, model, sealed", rows - kept.keys()):
            plain = self._unsealed(seal, sealed, "template", number, person, model)
            if person not in names:
                raise self._damaged(f"template {number} belongs to nobody")
            kept[number] = names[person], person, _unpacked(plain, model)
        memory = _Memory()
        for number in sorted(kept):  # a person's oldest first
            memory.add(number, *kept[number])
        memory.notes = {number: note for number, note in old.notes.items() if number in notes}
        for number, person, sealed in _rows(db, "note", "person, sealed", notes - memory.notes.keys()):
            plain = self._unsealed(seal, sealed, "note", number, person)
            memory.notes[number] = person, _note(json.loads(plain))
        if (len(names), len(kept), len(memory.notes)) != (len(people), len(rows), len(notes)):
            raise self._damaged("rows are there that cannot be found")
        self._refuse_other_models(memory)
        before, first = self._memory, self._version is None
        self._recall(memory)
        self._version = version
        self._tell_forgotten(before)
        if first or memory.numbers != before.numbers or memory.rows.keys() != before.rows.keys():
            # Not each time that a stranger was written down.
            log.info("gallery: %d people, %d templates", len(memory.people), len(memory.rows))

    def _refuse_other_models(self, memory: _Memory) -> None:
        if self.model_sha is None:
            return
        strange = [(name, kept.model) for name, kept in memory.rows.values() if kept.model != self.model_sha]
        if strange:
            models = ", ".join(sorted({model[:12] for _, model in strange}))
            raise GalleryError(
                f"The gallery {self.path} holds templates of another model ({models}; the model here is "
                f"{self.model_sha[:12]}) for {len({name for name, _ in strange})} of its "
                f"{len(memory.people)} people, and embeddings of two models cannot be compared: run "
                f"`onelook gallery migrate FOLDER` with the folder that the photos are kept in, or move the "
                f"file away and enroll everybody again."
            )

    def _found(self, db: sqlite3.Connection) -> None:
        """Makes an empty file a gallery, and a key if there is none, within the transaction begun."""
        key = self.key.read() or self.key.create()
        _migrate(db)
        db.execute(f"PRAGMA application_id = {APPLICATION_ID:d}")
        db.execute("INSERT INTO lock VALUES (?)", (Seal(key).close(WORD, "lock"),))

    def _unlock(self, db: sqlite3.Connection) -> Seal:
        key, where = self.key.read(), self.key.path
        if key is None:
            raise GalleryError(
                f"The key {where} of the gallery {self.path} is missing: put it back, or, if it is lost "
                f"for good, move the gallery away and enroll everybody again."
            )
        seal = Seal(key)
        row = db.execute("SELECT sealed FROM lock").fetchone()
        try:
            seal.open(row and row[0], "lock")  # no row in a damaged file
        except InvalidTag:
            if renewed := self._unlock_with_coming(row):
                return renewed
            raise GalleryError(
                f"The key {where} is not the one that sealed the gallery {self.path}: put the right key "
                f"there, or move the gallery away and enroll everybody again."
            ) from None
        return seal

    def _unlock_with_coming(self, row: tuple[object] | None) -> Seal | None:
        """The new key, where `rotate` was interrupted before it could put it into the old one's place."""
        if (key := self.key.coming()) is None:
            return None
        seal = Seal(key)
        try:
            seal.open(row and row[0], "lock")
        except InvalidTag:
            return None
        with alone(self.path.parent) as free:
            if free:  # else it is being changed just now, and put in its place by whoever does so
                self.key.settle()
        return seal

    def _sealed(self, plain: bytes, kind: str, *bound: object) -> bytes:
        seal = self._seal = self._seal or self._unlock(self._connected())
        return seal.close(plain, kind, *bound)

    def _unsealed(self, seal: Seal, sealed: object, kind: str, number: int, *bound: object) -> bytes:
        try:
            return seal.open(sealed, kind, number, *bound)
        except InvalidTag:
            raise self._damaged(f"{kind} {number} is not as it was sealed") from None

    def _damaged(self, what: object) -> GalleryError:
        # Of text that is none, SQLite quotes every byte, line breaks among them: they are of no use to the owner.
        why = str(what).partition(" with text ")[0]
        return GalleryError(
            f"The gallery {self.path} is damaged or was tampered with ({why}): put back a copy, or move it "
            f"away and enroll everybody again."
        )

    @contextmanager
    def _sentences(self) -> Iterator[None]:
        """What SQLite finds wrong with the file, said to the owner; misuse of SQLite is our bug."""
        try:
            yield
        except (sqlite3.ProgrammingError, sqlite3.InterfaceError):
            raise
        except sqlite3.Error as error:
            match getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF:
                case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
                    raise GalleryBusyError(
                        f"The gallery {self.path} is being changed by another process: try again."
                    ) from error
                case (
                    sqlite3.SQLITE_CANTOPEN
                    | sqlite3.SQLITE_READONLY
                    | sqlite3.SQLITE_PERM
                    | sqlite3.SQLITE_FULL
                    | sqlite3.SQLITE_IOERR
                ):
                    raise GalleryError(
                        f"The gallery {self.path} cannot be used ({error}): run this as the user who owns "
                        f"it and its folder, and see that the disk is not full."
                    ) from error
                case _:
                    raise self._damaged(error) from error

    def _create_file(self) -> None:
        """An empty file of the right mode: SQLite would create it readable by everybody."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_private(self.path, b"")
        except FileExistsError:
            pass  # another process was quicker
        except OSError as error:
            raise uncreatable("gallery", self.path, error) from error


class _Memory:
    """The gallery, opened: what every question is answered from."""

    def __init__(self) -> None:
        self.rows: dict[int, tuple[str, Template]] = {}  # row of table template -> whose, what
        self.numbers: dict[str, int] = {}  # name -> row of table person
        self.people: dict[str, tuple[Template, ...]] = {}
        self.notes: dict[int, tuple[int, Note]] = {}  # row of table note -> row of table person, what

    def add(self, number: int, name: str, person: int, template: Template) -> None:
        self.rows[number] = name, template
        self.numbers[name] = person
        self.people[name] = (*self.people.get(name, ()), template)

    def notes_by_name(self) -> dict[str, Note]:
        whose = dict(self.notes.values())
        return {name: whose[person] for name, person in self.numbers.items() if person in whose}

    def only(self, numbers: Collection[int], keep: str | None = None) -> _Memory:
        """A copy that has no other templates, and nobody who has none of these, but for `keep`."""
        memory = _Memory()
        for number, (name, template) in self.rows.items():
            if number in numbers:
                memory.add(number, name, self.numbers[name], template)
        here = {*memory.numbers.values(), self.numbers.get(keep or "")}
        memory.notes = {number: kept for number, kept in self.notes.items() if kept[0] in here}
        return memory


def _numbers(db: sqlite3.Connection, table: str) -> set[int]:
    """Of all rows of a table of ours."""
    return {number for (number,) in db.execute(f"SELECT id FROM {table}")}  # noqa: S608


def _rows(db: sqlite3.Connection, table: str, columns: str, numbers: Collection[int]) -> Iterator[tuple[Any, ...]]:
    """Number and `columns` of those rows of a table of ours."""
    wanted = sorted(numbers)
    for at in range(0, len(wanted), 500):  # SQLite takes a bounded number of values
        some = wanted[at : at + 500]
        query = f"SELECT id, {columns} FROM {table} WHERE id IN ({', '.join('?' * len(some))})"  # noqa: S608
        yield from db.execute(query, some)


def _removed(db: sqlite3.Connection, table: str, column: str, numbers: Sequence[int]) -> list[bytes]:
    """Deletes rows of ours; gives what they had sealed."""
    pieces = []
    for number in numbers:
        pieces += db.execute(f"SELECT sealed FROM {table} WHERE {column} = ?", (number,)).fetchall()  # noqa: S608
        db.execute(f"DELETE FROM {table} WHERE {column} = ?", (number,))  # noqa: S608
    return [piece for (piece,) in pieces]


def _note(told: dict[str, str | None]) -> Note:
    until = told["until"]
    return Note(told["purpose"], told["consent"], None if until is None else datetime.fromisoformat(until))


def _packed(template: Template) -> bytes:
    about = {
        "quality": template.quality,
        "source": template.source,
        "sha256": template.sha256,
        "added": template.added.isoformat(),
    }
    return json.dumps(about).encode() + b"\n" + template.embedding.astype("<f4").tobytes()


def _unpacked(plain: bytes, model: str) -> Template:
    about, _, embedding = plain.partition(b"\n")
    known = json.loads(about)
    return Template(
        embedding=np.frombuffer(embedding, "<f4").astype(np.float32),
        quality=known["quality"],
        source=known["source"],
        sha256=known["sha256"],
        model=model,
        added=datetime.fromisoformat(known["added"]),
    )


def _means(people: list[tuple[Template, ...]]) -> tuple[Floats, list[float]]:
    """(P, D): the unit mean of each person's templates, weighted by quality; and the means' lengths before."""
    templates = [template for kept in people for template in kept]
    weights = np.array([max(template.quality, 1e-3) for template in templates], np.float32)
    weighted = np.stack([template.embedding for template in templates]) * weights[:, None]
    starts = np.cumsum([0, *(len(kept) for kept in people[:-1])])
    means: Floats = np.add.reduceat(weighted, starts, axis=0)
    lengths = np.linalg.norm(means, axis=1)
    means /= np.maximum(lengths, 1e-12)[:, None]
    return means, (lengths / np.add.reduceat(weights, starts)).tolist()


def _migrate(db: sqlite3.Connection) -> None:
    """Brings the schema up to ours, within the transaction begun."""
    for statements in MIGRATIONS[_pragma(db, "user_version") :]:
        for statement in statements:
            db.execute(statement)
    db.execute(f"PRAGMA user_version = {len(MIGRATIONS):d}")


def _pragma(db: sqlite3.Connection, name: str) -> int:
    return int(db.execute(f"PRAGMA {name}").fetchone()[0])


def _next_number(db: sqlite3.Connection, table: str) -> int:
    """The number of the next row, known beforehand because the row is sealed with it."""
    row = db.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (table,)).fetchone()
    return int(row[0]) + 1 if row else 1
