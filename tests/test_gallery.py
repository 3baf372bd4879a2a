"""The gallery keeps people for good, shows them to nobody, and lets them go without a trace."""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onelook import gallery as module
from onelook.errors import GalleryError
from onelook.face import Floats
from onelook.gallery import Gallery, GalleryBusyError, Note, Stranger, clean_name
from onelook.key import Key, alone
from onelook.private import write_private

MODEL = "a1" * 32
OTHER_MODEL = "b2" * 32
SIZE = 256
PROOF = Path(__file__).parent / "proofs" / "gallery.py"


def face(person: int, photo: int = 0, likeness: float = 0.8) -> Floats:
    """(SIZE,) unit: photos of one person have a cosine of about `likeness` squared."""
    self = np.random.default_rng(person).standard_normal(SIZE)
    chance = np.random.default_rng((person, photo + 1)).standard_normal(SIZE)
    mixed = likeness * self + np.sqrt(1 - likeness**2) * chance
    unit: Floats = (mixed / np.linalg.norm(mixed)).astype(np.float32)
    return unit


def open_gallery(home: Path, model: str | None = MODEL) -> Gallery:
    return Gallery.open(home / "gallery.db", home / "gallery.key", model)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    return tmp_path


@pytest.fixture
def two(home: Path) -> Path:
    """Home of a gallery with Ada (three photos) and Ben (one)."""
    with open_gallery(home) as gallery:
        for photo in range(3):
            gallery.add("Ada", face(1, photo), 0.9, f"ada-{photo}.jpg", f"{photo:064x}")
        gallery.add("Ben", face(2), 0.8, "ben.jpg")
    return home


def sql(home: Path, statement: str, *values: object) -> list[tuple[Any, ...]]:
    """What somebody with an SQLite tool can do to the file."""
    db = sqlite3.connect(home / "gallery.db")
    with db:
        rows = db.execute(statement, values).fetchall()
    db.close()
    return rows


def refusal(home: Path, model: str | None = MODEL) -> str:
    """The one sentence by which the gallery refuses to open."""
    with pytest.raises(GalleryError) as told:
        open_gallery(home, model)
    sentence = str(told.value)
    assert "\n" not in sentence
    assert str(home) in sentence
    return sentence


# --- people -------------------------------------------------------------------------------------


def test_who_is_enrolled_is_recognised_after_a_restart(two: Path) -> None:
    with open_gallery(two) as gallery:
        [ada, ben, stranger] = gallery.match(np.stack([face(1, 9), face(2), face(3)]))
    assert ada.name == "Ada"
    assert 0.6 < ada.similarity < 0.9
    assert ada.margin > 0.5
    assert ben.name == "Ben"
    assert ben.similarity == pytest.approx(1, abs=1e-6)
    assert ben.similarity <= 1
    assert stranger.similarity < 0.3


def test_the_margin_is_the_lead_over_the_best_other_person(home: Path) -> None:
    axes = np.eye(4, dtype=np.float32)
    with open_gallery(home) as gallery:
        gallery.add("Ada", axes[0], 1, "a")
        assert gallery.match(axes[:1])[0].margin == np.inf
        gallery.add("Ada", axes[0], 1, "a, from another photo: no other person")
        assert gallery.match(axes[:1])[0].margin == np.inf
        gallery.add("Ben", axes[1], 1, "b")
        gallery.add("Cy", axes[2], 1, "c")
        [match] = gallery.match(np.array([[0.8, 0.6, 0, 0]], np.float32))
    assert match.name == "Ada"
    assert match.similarity == pytest.approx(0.8)
    assert match.margin == pytest.approx(0.2)


def test_nobody_is_nearest_while_nobody_is_enrolled(home: Path) -> None:
    with open_gallery(home) as gallery:
        assert [match.name for match in gallery.match(np.stack([face(1), face(2)]))] == [None, None]
        assert gallery.match(np.zeros((0, SIZE), np.float32)) == []


def test_a_poor_photo_counts_for_less(home: Path) -> None:
    good, poor = np.eye(SIZE, dtype=np.float32)[:2]
    with open_gallery(home) as gallery:
        gallery.add("Ada", good, 0.9, "good.jpg")
        gallery.add("Ada", poor, 0.1, "poor.jpg")
        near_good, near_poor = gallery.match(np.stack([good, poor]))
    assert near_good.similarity > 0.98
    assert near_poor.similarity < 0.2


def test_more_photos_do_not_make_strangers_resemble_a_person(home: Path) -> None:
    """With the best of all photos in place of their mean, they do."""
    strangers = np.stack([face(1000 + number) for number in range(300)])
    photos = np.stack([face(1, photo, likeness=0.6) for photo in range(30)])
    with open_gallery(home) as gallery:
        gallery.add("Ada", photos[0], 0.9, "0.jpg")
        one = max(match.similarity for match in gallery.match(strangers))
        for number, photo in enumerate(photos[1:]):
            gallery.add("Ada", photo, 0.9, f"{number + 1}.jpg")
        many = max(match.similarity for match in gallery.match(strangers))
        own = [
            match.similarity for match in gallery.match(np.stack([face(1, 100 + n, 0.6) for n in range(30)]))
        ]
    best = float((strangers @ photos.T).max())
    assert many < one + 0.03
    assert many < best
    assert np.mean(own) > np.mean(photos[1:] @ photos[0]) + 0.1


def test_the_list_tells_names_counts_and_dates(two: Path) -> None:
    with open_gallery(two, model=None) as gallery:
        ada, ben = gallery.people()
        assert [(ada.name, len(ada.templates)), (ben.name, len(ben.templates))] == [("Ada", 3), ("Ben", 1)]
        assert ada.first <= ada.last
        assert ada.first.utcoffset() is not None
        assert [template.source for template in gallery.templates(" Ada ")] == [
            f"ada-{n}.jpg" for n in range(3)
        ]
        assert gallery.templates("Cy") == ()
        kept = ada.templates[1]
        np.testing.assert_allclose(kept.embedding, face(1, 1), atol=1e-6)
        assert (kept.quality, kept.sha256, kept.model) == (0.9, f"{1:064x}", MODEL)
        assert "embedding" not in repr(kept)


def test_the_same_photo_is_stored_once(two: Path) -> None:
    with open_gallery(two) as gallery:
        assert not gallery.add("Ada", face(1), 0.9, "renamed.jpg", f"{0:064x}")
        assert gallery.add("Ben", face(2, 1), 0.9, "both of them.jpg", f"{0:064x}")
        assert [len(person.templates) for person in gallery.people()] == [3, 2]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("Ada", "Ada"),
        ("  Ada Lovelace\n", "Ada Lovelace"),
        ("Jose\u0301", "José"),
        ("李小龍", "李小龍"),
        ("علی\u200cرضا", "علی\u200cرضا"),  # noqa: RUF001
        ("👩‍🚀", "👩‍🚀"),
        ("x" * 64, "x" * 64),
        ("O'Hara; DROP TABLE person", "O'Hara; DROP TABLE person"),
    ],
)
def test_a_person_may_have_any_name(home: Path, given: str, kept: str) -> None:
    with open_gallery(home) as gallery:
        gallery.add(given, face(1), 0.9, "photo.jpg")
        assert [person.name for person in gallery.people()] == [kept]
        assert gallery.match(face(1)[None])[0].name == kept
        assert gallery.forget(given) == 1


@pytest.mark.parametrize(
    "name", ["", " \t", "x" * 65, "A\nB", "\x1b[2J", "A\x00", "\u202eadA", "A\u200b", "\udcff", "A\u2028B"]
)
def test_a_name_that_cannot_be_shown_in_a_line_is_refused(home: Path, name: str) -> None:
    with pytest.raises(GalleryError) as told:
        clean_name(name)
    str(told.value).encode()
    assert len(str(told.value)) < 200
    with open_gallery(home) as gallery, pytest.raises(GalleryError):
        gallery.add(name, face(1), 0.9, "photo.jpg")
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("wrong", [np.zeros(SIZE), np.full(SIZE, np.nan), np.ones((1, SIZE))])
def test_what_is_no_embedding_is_never_stored(home: Path, wrong: Floats) -> None:
    with open_gallery(home) as gallery, pytest.raises(ValueError, match="one finite vector"):
        gallery.add("Ada", wrong, 0.9, "photo.jpg")


def test_a_transaction_stores_all_or_nothing(two: Path) -> None:
    with open_gallery(two) as gallery:
        with pytest.raises(GalleryError, match="1 to 64"), gallery.transaction():  # noqa: PT012
            gallery.add("Cy", face(3), 0.9, "cy.jpg")
            gallery.add("Ada", face(1, 7), 0.9, "ada-7.jpg")
            assert gallery.match(face(3)[None])[0].name == "Cy"
            gallery.add("", face(4), 0.9, "whose.jpg")
        assert [(p.name, len(p.templates)) for p in gallery.people()] == [("Ada", 3), ("Ben", 1)]
        assert gallery.match(face(3)[None])[0].name != "Cy"
        with gallery.transaction():
            gallery.add("Cy", face(3), 0.9, "cy.jpg")
            gallery.add("Dee", face(4), 0.9, "dee.jpg")
    with open_gallery(two) as gallery:
        assert [person.name for person in gallery.people()] == ["Ada", "Ben", "Cy", "Dee"]


# --- at rest ------------------------------------------------------------------------------------


def test_looking_writes_nothing(home: Path) -> None:
    with open_gallery(home) as gallery:
        assert gallery.people() == []
        assert gallery.forget("Ada") == 0
        assert gallery.refresh(1.0) is False
    assert list(home.iterdir()) == []


def test_file_and_key_are_their_owners_alone(home: Path) -> None:
    before = os.umask(0)
    try:
        with open_gallery(home / "new folder") as gallery:
            gallery.add("Ada", face(1), 0.9, "ada.jpg")
    finally:
        os.umask(before)
    files = {file.name: stat.S_IMODE(file.stat().st_mode) for file in (home / "new folder").iterdir()}
    assert files == {"gallery.db": 0o600, "gallery.key": 0o600}
    assert stat.S_IMODE((home / "new folder").stat().st_mode) == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files for another user")
def test_what_root_enrolls_the_daemons_user_can_read(home: Path) -> None:
    folder = home / "state"
    folder.mkdir()
    os.chown(folder, 65534, 65534)
    with open_gallery(folder) as gallery:
        gallery.add("Ada", face(1), 0.9, "ada.jpg")
    assert {(file.stat().st_uid, file.stat().st_gid) for file in folder.iterdir()} == {(65534, 65534)}


def test_the_file_tells_nobody_who_is_enrolled(two: Path) -> None:
    raw = (two / "gallery.db").read_bytes()
    for secret in (b"Ada", b"Ben", b"ada-", b".jpg", f"{1:064x}".encode(), face(1).tobytes()[:16]):
        assert secret not in raw


def test_no_two_rows_share_a_nonce(two: Path) -> None:
    sealed = sql(two, "SELECT sealed FROM template UNION ALL SELECT sealed FROM person")
    assert len({row[0][:12] for row in sealed}) == len(sealed) == 6


def test_of_whom_is_forgotten_no_byte_is_left(home: Path) -> None:
    with open_gallery(home) as watching, open_gallery(home) as gallery:
        with gallery.transaction():
            for person in range(60):
                for photo in range(3):
                    gallery.add(f"person {person}", face(person, photo), 0.9, f"{person}-{photo}.jpg")
        watching.refresh(0.0)  # a daemon has the file open all the while
        for person in (17, 18, 59):
            number = gallery._memory.numbers[f"person {person}"]
            rows = sql(home, "SELECT sealed FROM template WHERE person = ?", number)
            rows += sql(home, "SELECT sealed FROM person WHERE id = ?", number)
            pieces = [row[0][at : at + 16] for row in rows for at in (0, 12, 400, 800)]
            pieces = [piece for piece in pieces if len(piece) == 16]
            whole = b"".join(file.read_bytes() for file in home.iterdir())
            assert all(piece in whole for piece in pieces)

            assert gallery.forget(f"person {person}") == 3

            whole = b"".join(file.read_bytes() for file in home.iterdir())
            assert not any(piece in whole for piece in pieces)
            assert gallery.forget(f"person {person}") == 0
        assert sorted(file.name for file in home.iterdir()) == ["gallery.db", "gallery.key"]
        assert len(gallery.people()) == 57
        assert watching.refresh(2.0)
        assert watching.match(face(16)[None])[0].name == "person 16"
        assert watching.match(face(17)[None])[0].similarity < 0.5
    with open_gallery(home) as gallery:
        assert len(gallery.people()) == 57
        gallery.add("person 17", face(17), 0.9, "again.jpg")
        assert len(gallery.templates("person 17")) == 1


# --- the key ------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [bytes(range(32)), bytes(range(32)).hex().encode() + b"\n"])
def test_a_key_of_ones_own_is_used(home: Path, key: bytes) -> None:
    (home / "gallery.key").write_bytes(key)
    (home / "gallery.key").chmod(0o600)
    with open_gallery(home) as gallery:
        gallery.add("Ada", face(1), 0.9, "ada.jpg")
    (home / "gallery.key").write_bytes(bytes(range(32)).hex().upper().encode())
    with open_gallery(home) as gallery:
        assert [person.name for person in gallery.people()] == ["Ada"]
    assert (home / "gallery.key").read_bytes() == bytes(range(32)).hex().upper().encode()


def test_a_systemd_credential_comes_before_the_key_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    credentials = home / "credentials"
    credentials.mkdir()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    (credentials / "gallery-key").write_bytes(bytes(range(32)))
    (credentials / "gallery-key").chmod(0o440)  # as systemd hands it over
    with open_gallery(home) as gallery:
        gallery.add("Ada", face(1), 0.9, "ada.jpg")
    assert not (home / "gallery.key").exists()
    with open_gallery(home) as gallery:
        assert [person.name for person in gallery.people()] == ["Ada"]
    (credentials / "gallery-key").unlink()
    assert "is missing" in refusal(home)


def test_a_lost_key_is_asked_for_and_never_made_anew(two: Path) -> None:
    key = (two / "gallery.key").read_bytes()
    (two / "gallery.key").unlink()
    assert "is missing: put it back" in refusal(two)
    assert not (two / "gallery.key").exists()
    (two / "gallery.key").write_bytes(key)
    (two / "gallery.key").chmod(0o600)
    with open_gallery(two) as gallery:
        assert len(gallery.people()) == 2


def test_a_key_that_appears_meanwhile_is_not_replaced(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be what another gallery has just been sealed with."""

    def overtaken(path: Path, content: bytes) -> None:
        write_private(path, content)
        write_private(home / "gallery.key", bytes(32))

    monkeypatch.setattr("onelook.key.write_private", overtaken)
    with open_gallery(home) as gallery:
        with pytest.raises(GalleryError, match=r"cannot be created \(File exists\)"):
            gallery.add("Ada", face(1), 0.9, "ada.jpg")
        assert (home / "gallery.key").read_bytes() == bytes(32)
        assert gallery.add("Ada", face(1), 0.9, "ada.jpg")
    assert sorted(file.name for file in home.iterdir()) == ["gallery.db", "gallery.key"]
    with open_gallery(home) as gallery:
        assert [person.name for person in gallery.people()] == ["Ada"]


def test_a_wrong_key_is_told_from_damage(two: Path) -> None:
    (two / "gallery.key").write_bytes(bytes(32))
    assert "is not the one that sealed" in refusal(two)


@pytest.mark.parametrize("key", [b"", b"short", b"x" * 64, bytes(33), b"0f" * 31])
def test_what_is_no_key_is_refused_before_anything_is_sealed_with_it(home: Path, key: bytes) -> None:
    (home / "gallery.key").write_bytes(key)
    (home / "gallery.key").chmod(0o600)
    assert f"holds {len(key)} bytes" in refusal(home)


def test_a_key_that_others_can_read_is_refused(home: Path) -> None:
    (home / "gallery.key").write_bytes(bytes(32))
    (home / "gallery.key").chmod(0o640)
    assert "mode 0640): run `chmod 600" in refusal(home)


# --- files that cannot be used ------------------------------------------------------------------


def test_a_gallery_that_others_can_read_is_refused(two: Path) -> None:
    (two / "gallery.db").chmod(0o604)
    assert "mode 0604): run `chmod 600" in refusal(two)


def test_a_newer_gallery_is_left_to_the_newer_program(two: Path) -> None:
    sql(two, "PRAGMA user_version = 7")
    before = (two / "gallery.db").read_bytes()
    assert "newer onelook (schema 7" in refusal(two)
    assert (two / "gallery.db").read_bytes() == before


def test_another_programs_database_is_left_alone(home: Path) -> None:
    sql(home, "CREATE TABLE bookmarks (url TEXT)")
    (home / "gallery.db").chmod(0o600)
    before = (home / "gallery.db").read_bytes()
    assert "is a database but no gallery" in refusal(home)
    assert (home / "gallery.db").read_bytes() == before


def test_a_file_that_is_no_database_is_refused(home: Path) -> None:
    (home / "gallery.db").write_bytes(b"people:\n  - Ada\n" * 100)
    (home / "gallery.db").chmod(0o600)
    assert "is damaged or was tampered with (file is not a database)" in refusal(home)


def test_a_folder_in_its_place_is_refused(home: Path) -> None:
    (home / "gallery.db").mkdir(mode=0o700)
    assert "cannot be used" in refusal(home)


def test_a_file_in_the_place_of_its_folder_is_refused(home: Path) -> None:
    (home / "state").write_bytes(b"")
    assert "cannot be read: Not a directory" in refusal(home / "state")


@pytest.mark.parametrize(
    ("forbid", "told"),
    [
        ("gallery.db", "cannot be used"),
        ("gallery.key", "cannot be read: Permission denied"),
        (".", "cannot be"),
    ],
)
def test_another_users_gallery_is_refused(two: Path, forbid: str, told: str) -> None:
    """As the daemon meets it after somebody has enrolled people as another user."""
    script = (
        "if os.geteuid() == 0: os.setgroups([]); os.setgid(65534); os.setuid(65534)  # no mode stops root\n"
        "from onelook.errors import GalleryError\n"
        "try: Gallery.open(home / 'gallery.db', home / 'gallery.key', model)\n"
        "except GalleryError as error: print(error)\n"
    )
    if os.geteuid() == 0:
        for place in (two, two / "gallery.db", two / "gallery.key"):
            os.chown(place, 65534, 65534)
        os.chown(two / forbid, 0, 0)
        for parent in two.parents[:2]:  # the tests' own folders, which pytest makes private
            parent.chmod(0o711)
    else:
        (two / forbid).chmod(0)
    sentence = finish(start(two, script))
    (two / forbid).chmod(0o700)
    assert told in sentence
    assert sentence.count("\n") == 1


@pytest.mark.parametrize(
    "tamper",
    [
        "UPDATE template SET sealed = substr(sealed, 1, 40) || x'00000000' || substr(sealed, 45) WHERE id = 2",
        "UPDATE template SET sealed = substr(sealed, 1, 20) WHERE id = 2",
        "UPDATE template SET sealed = 'text' WHERE id = 2",
        "UPDATE template SET sealed = CAST(x'ff0aff' AS TEXT) WHERE id = 2",
        "UPDATE template SET person = 2 WHERE id = 1",
        "UPDATE template SET sealed = (SELECT sealed FROM template WHERE id = 3) WHERE id = 1",
        "UPDATE person SET sealed = (SELECT sealed FROM person WHERE id = 2) WHERE id = 1",
        "DELETE FROM person WHERE id = 1",
        "DROP TABLE template",
    ],
)
def test_a_tampered_row_is_found(two: Path, tamper: str) -> None:
    """Among them the one that pays: making one person's face open the door under another's name."""
    sql(two, tamper)
    assert "damaged or was tampered with" in refusal(two)


def test_a_template_cannot_be_relabelled_as_this_models(two: Path) -> None:
    sql(two, "UPDATE template SET model = ?", OTHER_MODEL)
    assert "damaged or was tampered with" in refusal(two, model=OTHER_MODEL)


def test_whatever_happens_to_the_file_it_opens_whole_or_is_refused_in_a_sentence(two: Path) -> None:
    path = two / "gallery.db"
    sound = path.read_bytes()
    dice = random.Random(20)  # noqa: S311
    refused = 0
    for _ in range(150):
        broken = bytearray(sound)
        match dice.randrange(3):
            case 0:
                del broken[dice.randrange(1, len(broken)) :]
            case 1:
                for _ in range(dice.choice([1, 1, 8])):
                    broken[dice.randrange(len(broken))] ^= 1 << dice.randrange(8)
            case 2:
                at = dice.randrange(len(broken))
                broken[at : at + 512] = dice.randbytes(min(512, len(broken) - at))
        path.write_bytes(broken)
        told = ""
        try:
            with open_gallery(two) as gallery:
                kept = {person.name: len(person.templates) for person in gallery.people()}
        except GalleryError as error:
            told = str(error)
            refused += 1
        assert told or kept == {"Ada": 3, "Ben": 1}
        assert "\n" not in told
    assert refused > 50


# --- models and schemas -------------------------------------------------------------------------


def test_another_models_templates_are_refused_with_what_to_do(two: Path) -> None:
    sentence = refusal(two, model=OTHER_MODEL)
    assert "for 2 of its 2 people" in sentence
    assert MODEL[:12] in sentence
    assert OTHER_MODEL[:12] in sentence
    assert "onelook gallery migrate FOLDER" in sentence
    with open_gallery(two, model=None) as gallery:
        assert [person.name for person in gallery.people()] == ["Ada", "Ben"]
        with pytest.raises(ValueError, match="without a model"):
            gallery.match(face(1)[None])
        with pytest.raises(ValueError, match="needs a model"):
            gallery.add("Cy", face(3), 0.9, "cy.jpg")
        assert gallery.forget("Ada") == 3
        assert gallery.forget("Ben") == 1
    with open_gallery(two, model=OTHER_MODEL) as gallery:
        gallery.add("Ada", face(1), 0.9, "ada.jpg")


def test_an_older_gallery_is_brought_up_to_date_once(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_gallery(two) as older:
        with monkeypatch.context() as newer:
            newer.setattr(
                module, "MIGRATIONS", (*module.MIGRATIONS, ("ALTER TABLE person ADD COLUMN note BLOB",))
            )
            for _ in range(2):
                with open_gallery(two) as gallery:
                    assert [person.name for person in gallery.people()] == ["Ada", "Ben"]
            assert sql(two, "PRAGMA user_version") == [(len(module.MIGRATIONS),)]
            assert sql(two, "SELECT note FROM person") == [(None,), (None,)]
        with pytest.raises(GalleryError, match="newer onelook"):
            older.refresh(1.0)


def test_a_migration_that_fails_changes_nothing(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as newer:
        steps = ("ALTER TABLE person ADD COLUMN note BLOB", "ALTER TABLE nothing ADD COLUMN note BLOB")
        newer.setattr(module, "MIGRATIONS", (*module.MIGRATIONS, steps))
        refusal(two)
    assert sql(two, "PRAGMA user_version") == [(len(module.MIGRATIONS),)]
    with open_gallery(two) as gallery:
        assert len(gallery.people()) == 2


def test_a_gallery_of_the_first_release_is_read_and_brought_up_to_date(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as older:
        older.setattr(module, "MIGRATIONS", module.MIGRATIONS[:1])
        older.setattr(module.Gallery, "_load", lambda self, db: None)
        with open_gallery(home) as gallery, gallery.transaction():
            gallery.add("Ada", face(1), 0.9, "ada.jpg")
    assert sql(home, "PRAGMA user_version") == [(1,)]
    with open_gallery(home) as gallery:
        [ada] = gallery.people()
        assert (ada.name, ada.note) == ("Ada", Note())
        gallery.annotate("Ada", Note(purpose="the door"))
    assert sql(home, "PRAGMA user_version") == [(len(module.MIGRATIONS),)]


# --- purpose, consent, lifetime -----------------------------------------------------------------


def test_on_what_ground_somebody_is_enrolled_is_kept_sealed_and_seen_by_others(two: Path) -> None:
    signed = Note("to open the door", "signed on paper, 2026-01-02", datetime(2030, 1, 1, tzinfo=UTC))
    with open_gallery(two) as watching, open_gallery(two) as gallery:
        watching.refresh(0.0)
        gallery.annotate("Ada", Note("a first try"))
        gallery.annotate("Ada", signed)
        assert watching.refresh(2.0)
        assert [person.note for person in watching.people()] == [signed, Note()]
        with pytest.raises(GalleryError, match="Nobody named Cy"):
            gallery.annotate("Cy", signed)
    assert b"paper" not in (two / "gallery.db").read_bytes()
    assert b"first try" not in (two / "gallery.db").read_bytes()
    assert sql(two, "SELECT count(*) FROM note") == [(1,)]
    with open_gallery(two) as gallery:
        assert gallery.people()[0].note == signed
        assert gallery.forget("Ada") == 3
    assert sql(two, "SELECT count(*) FROM note") == [(0,)]


def test_what_was_said_of_somebody_can_be_taken_back(two: Path) -> None:
    signed = Note("the door", "signed on paper", datetime(2030, 1, 1, tzinfo=UTC))
    with open_gallery(two) as gallery:
        gallery.annotate("Ada", signed)
        gallery.annotate("Ada", Note(consent=""))
        assert gallery.people()[0].note == Note("the door", None, signed.until)
        gallery.annotate("Ada", Note(purpose="", until=module.NEVER))
        assert gallery.people()[0].note == Note()
    with open_gallery(two) as gallery:
        assert gallery.people()[0].note == Note()


def test_what_has_outlived_its_time_is_destroyed(two: Path) -> None:
    with open_gallery(two) as gallery:
        now = datetime.now(UTC)
        gallery.annotate("Ben", Note(until=now + timedelta(days=10)))
        assert gallery.expire(now=now) == {}
        assert gallery.expire(timedelta(days=1), now) == {}
        assert gallery.expire(now=now + timedelta(days=11)) == {"Ben": 1}
        assert gallery.expire(timedelta(days=30), now + timedelta(days=31)) == {"Ada": 3}
        assert gallery.people() == []
    assert sql(two, "SELECT count(*) FROM template") == [(0,)]


def test_of_an_enrolled_person_only_the_old_templates_go(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + timedelta(days=20)

    with open_gallery(two) as gallery:
        with monkeypatch.context() as later:
            later.setattr(module, "datetime", Later)
            gallery.add("Ada", face(1, 8), 0.9, "new.jpg")
        assert gallery.expire(timedelta(days=30), datetime.now(UTC) + timedelta(days=31)) == {"Ada": 3, "Ben": 1}
        assert [template.source for template in gallery.templates("Ada")] == ["new.jpg"]


# --- strangers ----------------------------------------------------------------------------------


def stranger(person: int, day: int = 1, crop: bytes | None = None) -> Stranger:
    seen = datetime(2026, 1, day, tzinfo=UTC)
    return Stranger("door", seen, seen + timedelta(seconds=9), face(person), 0.7, crop)


def test_strangers_are_kept_sealed_bounded_and_until_they_are_dropped(two: Path) -> None:
    with open_gallery(two) as gallery:
        for day in range(1, 9):
            gallery.keep_stranger(stranger(100 + day, day, b"a picture" if day == 8 else None), most=5)
        kept = gallery.strangers()
        assert [each.first.day for each in kept] == [4, 5, 6, 7, 8]
        np.testing.assert_allclose(kept[0].embedding, face(104), atol=1e-6)
        assert (kept[0].stream, kept[0].quality, kept[0].crop, kept[0].model) == ("door", 0.7, None, MODEL)
        assert kept[-1].crop == b"a picture"
        raw = (two / "gallery.db").read_bytes()
        assert b"a picture" not in raw
        assert b"door" not in raw
        now = datetime(2026, 1, 9, tzinfo=UTC)
        assert gallery.expire_strangers(timedelta(days=3), [], now) == 2
        assert gallery.drop_strangers([gallery.strangers()[0].number]) == 1
        assert [each.first.day for each in gallery.strangers()] == [7, 8]
        assert len(gallery.people()) == 2


def test_who_shares_a_gallery_destroys_its_own_strangers(two: Path) -> None:
    with open_gallery(two) as gallery:
        for number, stream in enumerate(("door", "yard", "gone"), 100):
            gallery.keep_stranger(replace(stranger(number), stream=stream, until=datetime(2026, 1, 8, tzinfo=UTC)))
        gallery.keep_stranger(stranger(104))  # of an earlier version, which did not say for how long
        now = datetime(2026, 1, 7, tzinfo=UTC)
        assert gallery.expire_strangers(timedelta(days=9), ["yard"], now) == 0
        assert gallery.expire_strangers(timedelta(0), ["yard"], now) == 2
        assert [each.stream for each in gallery.strangers()] == ["door", "gone"]
        assert gallery.expire_strangers(timedelta(days=9), ["yard"], now + timedelta(days=2)) == 2


def test_of_more_strangers_than_asked_for_the_oldest_go_however_many_went_before(two: Path) -> None:
    with open_gallery(two) as gallery:
        for number in range(8):
            gallery.keep_stranger(stranger(100 + number), most=8)
        gallery.drop_strangers([each.number for each in gallery.strangers()[2:6]])
        for number in range(4):
            gallery.keep_stranger(stranger(120 + number), most=8)
        assert len(gallery.strangers()) == 8


def test_strangers_that_come_are_no_news_of_who_is_enrolled(two: Path, caplog: pytest.LogCaptureFixture) -> None:
    with open_gallery(two) as watching, open_gallery(two) as other, caplog.at_level(logging.INFO, "onelook.gallery"):
        caplog.clear()
        other.keep_stranger(stranger(50))
        assert watching.refresh(1)
        assert caplog.messages == []
        other.add("Cleo", face(3), 1, "c")
        assert watching.refresh(2)
        assert caplog.messages == ["gallery: 3 people, 5 templates"]


def test_who_is_forgotten_is_forgotten_as_a_stranger_too(two: Path) -> None:
    with open_gallery(two) as gallery:
        gallery.keep_stranger(stranger(1))
        gallery.keep_stranger(stranger(50))
        sealed = [row[0] for row in sql(two, "SELECT sealed FROM stranger ORDER BY id")]
        assert gallery.forget("Ada", alike=0.5) == 3
        [left] = gallery.strangers()
        np.testing.assert_allclose(left.embedding, face(50), atol=1e-6)
    raw = (two / "gallery.db").read_bytes()
    assert sealed[0][:16] not in raw
    assert sealed[1][:16] in raw


def test_who_is_forgotten_is_told_with_how_they_looked_here_and_in_other_processes(two: Path) -> None:
    with open_gallery(two) as watching, open_gallery(two) as gallery:
        told: list[tuple[str, str, int]] = []
        gallery.on_forgotten.append(lambda name, templates: told.append(("here", name, len(templates))))
        watching.on_forgotten.append(lambda name, templates: told.append(("there", name, len(templates))))
        watching.refresh(0.0)
        gallery.forget("Ada")
        assert told == [("here", "Ada", 3)]
        assert watching.refresh(1.0)
        assert told == [("here", "Ada", 3), ("there", "Ada", 3)]


def test_who_is_forgotten_is_told_even_where_the_file_cannot_be_made_smaller(
    two: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a disk that is full: the next try would find nobody to tell of."""
    with open_gallery(two) as gallery:
        told: list[str] = []
        gallery.on_forgotten.append(lambda name, _: told.append(name))
        monkeypatch.setattr(gallery, "_prove_gone", lambda _: (_ for _ in ()).throw(GalleryError("it is full")))
        with pytest.raises(GalleryError, match="it is full"):
            gallery.forget("Ada")
        assert told == ["Ada"]


def test_when_the_file_vanishes_everybody_is_told_of(two: Path) -> None:
    with open_gallery(two) as gallery:
        told: list[str] = []
        gallery.on_forgotten.append(lambda name, _: told.append(name))
        gallery.refresh(0.0)
        (two / "gallery.db").unlink()
        assert gallery.refresh(1.0)
        assert sorted(told) == ["Ada", "Ben"]


def test_a_note_keeps_what_a_later_one_does_not_tell(two: Path) -> None:
    until = datetime(2030, 1, 1, tzinfo=UTC)
    with open_gallery(two) as gallery:
        gallery.annotate("Ada", Note("the door", "signed on paper", until))
        gallery.annotate("Ada", Note("the till"))
        kept = gallery.export("Ada")
    assert (kept["purpose"], kept["consent"], kept["until"]) == ("the till", "signed on paper", until.isoformat())


def test_a_folder_in_the_place_of_the_file_is_told(home: Path) -> None:
    (home / "gallery.db").mkdir()
    with pytest.raises(GalleryError, match=r"gallery\.db is a folder, and must be a file"):
        open_gallery(home)


# --- another key, another model -----------------------------------------------------------------


def test_a_new_key_opens_everything_and_the_old_one_nothing(two: Path) -> None:
    with open_gallery(two) as watching, open_gallery(two) as gallery:
        gallery.annotate("Ada", Note("the door"))
        gallery.keep_stranger(stranger(50))
        before = [row[0] for row in sql(two, "SELECT sealed FROM template")]
        old = (two / "gallery.key").read_bytes()
        assert gallery.rotate() == 2 + 4 + 1 + 1
        assert (two / "gallery.key").read_bytes() != old
        assert stat.S_IMODE((two / "gallery.key").stat().st_mode) == 0o600
        gallery.add("Cy", face(3), 0.9, "cy.jpg")
        assert watching.refresh(1.0)
        assert len(watching.people()) == 3
    raw = (two / "gallery.db").read_bytes()
    assert not any(piece[:16] in raw for piece in before)
    assert sorted(file.name for file in two.iterdir()) == ["gallery.db", "gallery.key", "gallery.key.old"]
    assert (two / "gallery.key.old").read_bytes() == old, "another gallery may have it"
    between = (two / "gallery.key").read_bytes()
    with open_gallery(two) as gallery:
        gallery.rotate()
    assert (two / "gallery.key.old").read_bytes() == between
    assert (two / "gallery.key.old2").read_bytes() == old, "until the owner deletes it"
    with open_gallery(two) as gallery:
        assert [person.note.purpose for person in gallery.people()] == ["the door", None, None]
        assert len(gallery.strangers()) == 1
    (two / "gallery.key").write_bytes(old)
    assert "is not the one that sealed" in refusal(two)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_interrupted_while_the_key_changes_one_of_the_two_opens_it(
    two: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Before the rows are sealed anew, and after it but before the new key is in the old one's place."""

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with open_gallery(two) as gallery, monkeypatch.context() as power_cut:
        power_cut.setattr(*(("onelook.key.Seal.close", killed) if moment == "before" else
                            (Key, "settle", killed)))  # fmt: skip
        with pytest.raises(KeyboardInterrupt):
            gallery.rotate()
    assert (two / "gallery.key.new").exists()
    with open_gallery(two) as gallery:
        assert len(gallery.people()) == 2
        gallery.add("Cy", face(3), 0.9, "cy.jpg")
        gallery.rotate()
    with open_gallery(two) as gallery:
        assert len(gallery.people()) == 3
    assert not (two / "gallery.key.new").exists()


def test_who_finds_another_changing_the_key_leaves_it_alone(two: Path) -> None:
    """Else the new key of the one is thrown away by the other, and nothing opens the gallery any more."""
    with open_gallery(two) as gallery:
        with alone(two) as free:
            assert free
            with pytest.raises(GalleryBusyError, match="is being changed by another process"):
                gallery.rotate()
        assert gallery.rotate() == 2 + 4
    with open_gallery(two) as gallery:
        assert len(gallery.people()) == 2


def test_a_gallery_of_strangers_alone_gets_a_new_key_and_none_at_all_has_none(home: Path) -> None:
    with open_gallery(home) as gallery:
        with pytest.raises(GalleryError, match=r"There is no gallery .*gallery\.db yet, and so no key to change"):
            gallery.rotate()
        gallery.keep_stranger(stranger(50))
        old = (home / "gallery.key").read_bytes()
        assert gallery.rotate() == 1
        assert (home / "gallery.key").read_bytes() != old
    with open_gallery(home) as gallery:
        assert len(gallery.strangers()) == 1


def test_the_present_key_is_no_new_one(two: Path) -> None:
    before = (two / "gallery.db").read_bytes()
    (two / "again").write_text((two / "gallery.key").read_text().upper())
    (two / "again").chmod(0o600)
    with open_gallery(two) as gallery:
        for file in ("gallery.key", "again"):
            with pytest.raises(GalleryError, match=rf"{file} holds the key that the gallery has already"):
                gallery.rotate(two / file)
    assert (two / "gallery.db").read_bytes() == before


def test_systemds_key_is_changed_by_the_owner(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    credentials = two / "credentials"
    credentials.mkdir()
    (two / "gallery.key").rename(credentials / "gallery-key")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    (two / "mine").write_bytes(bytes(range(32)))
    (two / "mine").chmod(0o644)
    with open_gallery(two) as gallery:
        with pytest.raises(GalleryError, match=r"mine is open to other users \(mode 0644\)"):
            gallery.rotate(two / "mine")
        (two / "mine").chmod(0o600)
        with pytest.raises(GalleryError, match="comes from systemd"):
            gallery.rotate()
        with pytest.raises(GalleryError, match="There is no key"):
            gallery.rotate(two / "nothing")
        gallery.rotate(two / "mine")
    (two / "mine").replace(credentials / "gallery-key")
    with open_gallery(two) as gallery:
        assert len(gallery.people()) == 2


def test_a_persons_templates_can_be_renewed_with_another_models(two: Path) -> None:
    with open_gallery(two, model=None) as gallery, gallery.transaction():
        for person in gallery.people():
            gallery.renew(
                person.name, [replace(old, embedding=-old.embedding, model=OTHER_MODEL) for old in person.templates]
            )
    with open_gallery(two, model=OTHER_MODEL) as gallery:
        assert [len(person.templates) for person in gallery.people()] == [3, 1]
        assert gallery.match(-face(1)[None])[0].name == "Ada"


# --- several processes --------------------------------------------------------------------------

CHILD = """
import os, sys
from pathlib import Path
import numpy as np
from onelook.gallery import Gallery

home, model = Path(sys.argv[1]), sys.argv[2]

def enroll(prefix, people, photos):
    dice = np.random.default_rng(os.getpid())
    with Gallery.open(home / "gallery.db", home / "gallery.key", model) as gallery:
        for person in range(people):
            with gallery.transaction():
                for photo in range(photos):
                    gallery.add(f"{prefix} {person}", dice.standard_normal(256), 0.9, f"{photo}.jpg")
            os.write(1, f"{prefix} {person}\\n".encode())
"""


def child_environment() -> dict[str, str]:
    environment = {key: value for key, value in os.environ.items() if key != "CREDENTIALS_DIRECTORY"}
    paths = [str(Path(module.__file__).parent.parent), environment.get("PYTHONPATH", "")]
    return {**environment, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "OPENBLAS_NUM_THREADS": "1"}


def start(home: Path, script: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD + script, home, MODEL],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=child_environment(),
    )


def finish(process: subprocess.Popen[str]) -> str:
    try:
        out, _ = process.communicate(timeout=180)
    finally:
        process.kill()
    assert process.returncode == 0
    return out


def test_a_running_daemon_learns_within_a_second_whom_another_process_enrolls(home: Path) -> None:
    with open_gallery(home) as daemon:
        assert not daemon.refresh(100.0)
        finish(start(home, "enroll('new', 2, 2)"))
        assert not daemon.refresh(100.9)  # looked less than a second ago
        assert daemon.people() == []
        assert daemon.refresh(101.0)
        assert [(p.name, len(p.templates)) for p in daemon.people()] == [("new 0", 2), ("new 1", 2)]
        assert not daemon.refresh(103.0)

        with open_gallery(home) as other:
            other.forget("new 0")
            other.add("Ada", face(1), 0.9, "ada.jpg")
        assert daemon.refresh(105.0)
        assert [person.name for person in daemon.people()] == ["Ada", "new 1"]
        assert daemon.match(face(1)[None])[0].name == "Ada"

        with open_gallery(home) as other:
            other.forget("new 1")
        assert daemon.refresh(3.0)  # a frame of a stream whose clock is behind
        assert [person.name for person in daemon.people()] == ["Ada"]


def test_a_daemon_follows_when_the_file_is_replaced_or_removed(two: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copy2(two / "gallery.key", elsewhere / "gallery.key")
    with open_gallery(elsewhere) as gallery:
        gallery.add("Cy", face(3), 0.9, "cy.jpg")
    with open_gallery(two) as daemon:
        (elsewhere / "gallery.db").replace(two / "gallery.db")
        assert daemon.refresh(1.0)
        assert [person.name for person in daemon.people()] == ["Cy"]
        (two / "gallery.db").unlink()
        assert daemon.refresh(2.0)
        assert daemon.match(face(3)[None])[0].name is None
        assert not daemon.refresh(3.0)
        daemon.add("Dee", face(4), 0.9, "dee.jpg")
        assert [person.name for person in daemon.people()] == ["Dee"]


def test_a_daemon_that_meets_damage_says_so_and_keeps_whom_it_knew(two: Path) -> None:
    with open_gallery(two) as daemon:
        sql(two, "INSERT INTO template (person, model, sealed) VALUES (1, ?, zeroblob(1000))", MODEL)
        for moment in (1.0, 2.0):
            with pytest.raises(GalleryError, match="tampered"):
                daemon.refresh(moment)
        assert [person.name for person in daemon.people()] == ["Ada", "Ben"]
        sql(two, "DELETE FROM template WHERE length(sealed) = 1000")
        daemon.refresh(3.0)
        assert [person.name for person in daemon.people()] == ["Ada", "Ben"]


def test_a_daemon_never_waits_for_a_writer(two: Path) -> None:
    with open_gallery(two) as daemon, open_gallery(two) as other:
        other.add("Cy", face(3), 0.9, "cy.jpg")
        writer = sqlite3.connect(two / "gallery.db", isolation_level=None)
        writer.execute("BEGIN EXCLUSIVE")
        began = time.monotonic()
        assert not daemon.refresh(1.0)
        assert time.monotonic() - began < 4  # seconds; those who write wait longer
        assert len(daemon.people()) == 2
        writer.execute("ROLLBACK")
        writer.close()
        assert daemon.refresh(2.0)
        assert len(daemon.people()) == 3


def test_a_change_waits_for_another_and_then_says_who_is_in_the_way(
    two: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE_MS", 100)
    with open_gallery(two) as gallery:
        writer = sqlite3.connect(two / "gallery.db", isolation_level=None)
        writer.execute("BEGIN IMMEDIATE")
        with pytest.raises(GalleryBusyError, match="another process: try again"):
            gallery.add("Cy", face(3), 0.9, "cy.jpg")
        assert len(gallery.people()) == 2
        writer.close()
        assert gallery.add("Cy", face(3), 0.9, "cy.jpg")


def test_processes_that_enroll_at_once_lose_nothing_even_on_first_use(home: Path) -> None:
    """Three of them start together on an empty folder: one key, everybody enrolled."""
    script = "print('ready', flush=True); sys.stdin.readline(); enroll(sys.argv[3], 8, 2)"
    processes = []
    for name in ("north", "south", "west"):
        process = start(home, script.replace("sys.argv[3]", repr(name)))
        processes.append(process)
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        finish(process)
    with open_gallery(home) as gallery:
        assert len(gallery.people()) == 24
        assert {len(person.templates) for person in gallery.people()} == {2}
    assert sorted(file.name for file in home.iterdir()) == ["gallery.db", "gallery.key"]


def test_who_is_overtaken_on_first_use_joins_the_others_gallery(home: Path) -> None:
    """It has seen an empty file, and when its turn to write comes there is a gallery."""
    with open_gallery(home) as gallery:
        with gallery.transaction():
            gallery.add("Ada", face(1), 0.9, "ada.jpg")
            process = start(home, "print('begins', flush=True); enroll('new', 1, 1)")
            assert process.stdout is not None
            assert process.stdout.readline() == "begins\n"
            time.sleep(0.5)
        finish(process)
        assert gallery.refresh(1.0)
        assert [person.name for person in gallery.people()] == ["Ada", "new 0"]
    assert sql(home, "SELECT count(*) FROM lock") == [(1,)]


@pytest.fixture
def nursery(home: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that forks one enrolling child for every line with a folder; says its process id."""
    script = """
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        home = Path(line.strip())
        os.write(1, f"{os.getpid()}\\n".encode())
        enroll(f"{os.getpid()}", 1000, 3)
    os.waitpid(child, 0)
    os.write(1, b"dead\\n")
"""
    process = start(home, script)
    yield process
    if process.stdin is not None:
        process.stdin.close()
    if process.stdout is not None:
        process.stdout.close()
    process.wait(timeout=90)


def test_killed_at_any_moment_of_enrolling_a_gallery_opens_old_or_new(
    home: Path, nursery: subprocess.Popen[str]
) -> None:
    """Whom the child said to be enrolled is there; nobody is there by halves."""
    assert nursery.stdin is not None
    assert nursery.stdout is not None
    dice = random.Random(9)  # noqa: S311
    promised: dict[Path, set[str]] = {}
    interrupted = 0
    for round_ in range(20):
        folder = home / f"{round_ if round_ % 2 else 'long used'}"  # every other one at its first use
        folder.mkdir(exist_ok=True)
        nursery.stdin.write(f"{folder}\n")
        nursery.stdin.flush()
        child = int(nursery.stdout.readline())
        if round_ % 4 == 0:  # the others while they begin, or soon after
            promised.setdefault(folder, set()).add(nursery.stdout.readline().strip())
        time.sleep(dice.uniform(0, 0.02 if round_ % 2 else 0.2))
        os.kill(child, signal.SIGKILL)
        while (line := nursery.stdout.readline().strip()) != "dead":
            promised.setdefault(folder, set()).add(line)
        interrupted += (folder / "gallery.db-journal").exists()

        with open_gallery(folder) as gallery:
            people = {person.name: len(person.templates) for person in gallery.people()}
            assert promised.get(folder, set()) <= people.keys()
            assert set(people.values()) <= {3}
            gallery.add("the next one", face(round_), 0.9, f"{round_}.jpg", f"{round_:064x}")
            assert gallery.forget("the next one") == 1
    assert promised
    print(f"{interrupted} of 20 kills hit a write under way")


# --- speed --------------------------------------------------------------------------------------


def test_ten_thousand_people_are_compared_with_a_hundred_faces_in_no_time(home: Path) -> None:
    vectors = np.random.default_rng(0).standard_normal((10_000, SIZE), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    with open_gallery(home) as gallery:
        with gallery.transaction():
            for number, vector in enumerate(vectors):
                gallery.add(f"person {number}", vector, 0.9, "photo.jpg")
        looks, idle = [], []
        for moment in range(10):
            began = time.perf_counter()
            matches = gallery.match(vectors[:100])
            looks.append(time.perf_counter() - began)
            began = time.perf_counter()
            gallery.refresh(2.0 * moment)
            idle.append(time.perf_counter() - began)
    assert [match.name for match in matches] == [f"person {number}" for number in range(100)]
    print(f"match {min(looks) * 1e3:.1f} ms, refresh {min(idle) * 1e6:.0f} us")
    assert min(looks) < 0.2
    assert min(idle) < 0.005


def test_killed_at_whatever_it_is_at_a_gallery_loses_nothing(home: Path) -> None:
    """The short form; `tests/proofs/gallery.py` does it 200 times."""
    done = subprocess.run(
        [sys.executable, PROOF, "--times", "9"], capture_output=True, text=True, timeout=280, check=False,
        env=os.environ | {"TMPDIR": str(home)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["kills"] == 9


# --- what others change while a daemon runs ----------------------------------------------------


def test_a_person_enrolled_anew_from_better_photos_hides_nobody_else(two: Path) -> None:
    told: list[str] = []
    with open_gallery(two) as daemon:
        daemon.on_forgotten.append(lambda name, _templates: told.append(name))
        with open_gallery(two) as other:
            other.annotate("Ada", Note(purpose="the door"))
            other.renew("Ben", [replace(other.templates("Ben")[0], embedding=face(2, 7))])
        assert daemon.refresh(2.0)
        assert [person.name for person in daemon.people()] == ["Ada", "Ben"]
        with open_gallery(two) as other:
            other.renew("Ada", [replace(other.templates("Ada")[0], embedding=face(1, 7))])
            assert other.forget("Ben") == 1
            assert other.add("Dora", face(4), 0.9, "dora.jpg")
        assert daemon.refresh(4.0)
        assert [person.name for person in daemon.people()] == ["Ada", "Dora"]
        assert daemon.people()[0].note.purpose == "the door"
        assert daemon.match(face(4)[None])[0].name == "Dora"
    assert told == ["Ben"]


def test_a_copy_put_back_brings_everybody_back(two: Path) -> None:
    copy = (two / "gallery.db").read_bytes()
    with open_gallery(two) as other:
        assert other.forget("Ada") == 3
    with open_gallery(two) as daemon:
        assert [person.name for person in daemon.people()] == ["Ben"]
        (two / "gallery.db").write_bytes(copy)
        assert daemon.refresh(2.0)
        assert [person.name for person in daemon.people()] == ["Ada", "Ben"]
        assert [template.source for template in daemon.templates("Ada")] == [f"ada-{n}.jpg" for n in range(3)]


def test_a_gallery_moved_away_while_it_could_not_be_read_is_empty(two: Path) -> None:
    path, told = two / "gallery.db", []
    with open_gallery(two) as daemon:
        daemon.on_forgotten.append(lambda name, _templates: told.append(name))
        damaged = two / "damaged.db"
        damaged.write_bytes(os.urandom(8192))
        damaged.chmod(0o600)
        damaged.replace(path)
        with pytest.raises(GalleryError, match="move it away"):
            daemon.refresh(2.0)
        assert len(daemon.people()) == 2  # who was known stays known
        path.rename(two / "away.db")
        assert daemon.refresh(4.0)
        assert daemon.people() == []
        assert daemon.match(face(1)[None])[0].name is None
    assert sorted(told) == ["Ada", "Ben"]
