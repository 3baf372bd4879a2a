"""`onelook look`: still pictures, each face a line."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from math import inf
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from clip import EILEEN, GRACE
from daemon_process import onelook, write_config
from onelook import service
from onelook.config import Policy, Report
from onelook.errors import OwnerError
from onelook.face import Floats
from onelook.match import Match
from onelook.model import FaceModel
from onelook.picture import read_picture
from onelook.sight import Eye, Sight


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two portraits, a wall, and a file that is no picture; beside it a config whose gallery knows one of the two."""
    folder = tmp_path_factory.mktemp("look")
    pictures = folder / "album"
    pictures.mkdir()
    (pictures / "1 eileen.jpg").write_bytes(EILEEN.read_bytes())
    (pictures / "2 grace.jpg").write_bytes(GRACE.read_bytes())
    (pictures / "10 broken.jpg").write_text("no picture")
    (pictures / "notes.txt").write_text("not called like one")
    report = {"attributes": ["Smiling"], "ethnicity": True, "gender": False}
    config = write_config(folder, {"name": "door", "url": str(pictures)}, report=report)
    onelook("enroll", "Eileen Collins", EILEEN, "--config", config)
    return folder


def test_a_folder_is_told_picture_by_picture_and_drawn(album: Path) -> None:
    done = onelook("look", "album", "--json", "--draw", "drawn", cwd=album)

    assert done.returncode == 78
    assert done.stderr.splitlines()[-1].startswith("album/10 broken.jpg is not a picture")
    told = {row["picture"]: row["faces"] for row in map(json.loads, done.stdout.splitlines())}
    assert list(told) == ["album/1 eileen.jpg", "album/2 grace.jpg"]
    [eileen], [grace] = told.values()
    assert (eileen["state"], eileen["name"]) == ("known", "Eileen Collins")
    assert (grace["state"], grace["name"]) == ("unknown", None)
    assert grace["similarity"] < 0.4
    assert eileen["similarity"] > 0.9
    assert eileen["box"] == pytest.approx([175, 47, 275, 177], abs=12)
    assert eileen["age"] < grace["age"]
    assert eileen["gender"] is None  # not asked for
    assert eileen["attributes"]["Smiling"] > 0.5 > grace["attributes"]["Smiling"]
    assert eileen["emotion"] == "happy"
    assert eileen["ethnicity"] == "white"
    drawn = read_picture(album / "drawn" / "1 eileen.jpg")
    before = read_picture(EILEEN)
    assert drawn.shape == before.shape
    assert np.abs(drawn.astype(int) - before).max() > 100


def test_without_a_config_nobody_is_known_and_csv_has_a_line_for_each_face(tmp_path: Path) -> None:
    done = onelook("look", "--csv", EILEEN, GRACE, cwd=tmp_path)

    assert done.returncode == 0
    rows = list(csv.DictReader(done.stdout.splitlines()))
    assert [row["picture"] for row in rows] == [str(EILEEN), str(GRACE)]
    assert {row["state"] for row in rows} == {"unknown"}
    assert {row["similarity"] for row in rows} == {""}
    assert all(0 < float(row["gender_confidence"]) <= 1 for row in rows)
    assert not list(tmp_path.iterdir())  # no gallery came into being


def seen(model: FaceModel, policy: Policy, report: Report, picture: Path = EILEEN) -> Sight:
    def ann(embeddings: Floats) -> Sequence[Match]:
        assert policy.level("identity") == "on"
        return [Match("Ann", 0.9, inf)] * len(embeddings)

    eye = Eye(model, model, model.spec.labels, report, policy, ann, lambda *_: np.array([0.5], np.float32))
    [sight] = eye.see(read_picture(picture))
    return sight


def test_of_a_single_face_the_policy_lets_no_aggregate_be_told() -> None:
    model = FaceModel()
    sight = seen(model, Policy(identity="aggregate", attributes="aggregate", emotion="off"), Report())
    assert (sight.state, sight.name, sight.age, sight.gender, sight.emotion, sight.attributes) == (None,) * 5 + ({},)
    assert sight.words() == []

    sight = seen(model, Policy(), Report(emotion=False, gender=False, attributes=["Smiling"]))
    assert (sight.state, sight.name, sight.emotion) == ("known", "Ann", None)
    assert sight.words() == ["Ann", f"{sight.age:.0f}, Smiling"]


def test_small_faces_on_a_large_picture_are_found(testdata: Path) -> None:
    [(_, crowd)] = service.look([testdata / "solvay1927.jpg"], config=None, draw=None)

    assert isinstance(crowd, list)
    assert 27 <= len(crowd) <= 31  # of 29
    assert [sight.box[0] for sight in crowd] == sorted(sight.box[0] for sight in crowd)


def test_a_face_that_fills_a_large_picture_is_one_face(tmp_path: Path) -> None:
    portrait = PIL.Image.open(GRACE)
    portrait.resize((portrait.width * 6, portrait.height * 6)).save(tmp_path / "large.jpg")
    (_, as_it_is), (_, large) = service.look([GRACE, tmp_path / "large.jpg"], config=None, draw=None)

    assert isinstance(as_it_is, list)
    assert isinstance(large, list)
    assert np.array([sight.box for sight in large]) == pytest.approx(6 * np.array([as_it_is[0].box]), abs=90)


def test_a_picture_is_not_written_over_by_its_drawing_nor_one_drawing_by_another(tmp_path: Path) -> None:
    mine = tmp_path / "eileen.jpg"
    mine.write_bytes(EILEEN.read_bytes())
    with pytest.raises(OwnerError, match=r"eileen\.jpg would be written over: give --draw another folder\."):
        list(service.look([mine], config=None, draw=tmp_path))
    assert mine.read_bytes() == EILEEN.read_bytes()

    list(service.look([mine, mine], config=None, draw=tmp_path / "drawn"))
    assert {path.name for path in (tmp_path / "drawn").iterdir()} == {"eileen.jpg", "eileen-2.jpg"}


def test_a_folder_without_pictures_is_said_so(tmp_path: Path) -> None:
    done = onelook("look", tmp_path)
    assert (done.returncode, done.stderr.strip()) == (78, f"There are no pictures in {tmp_path}.")
