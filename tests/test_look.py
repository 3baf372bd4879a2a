"""`onelook look`: still pictures, each face a line."""

from __future__ import annotations

import csv
import io
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
from onelook.__main__ import _csv
from onelook.config import Policy, Report, load
from onelook.errors import OwnerError
from onelook.face import Floats
from onelook.gallery import Gallery
from onelook.match import Match
from onelook.model import FaceModel
from onelook.picture import pictures_in, read_picture
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

    sight = seen(model, Policy(), Report(emotion=False, age=False, ethnicity=True))
    doubts = ["?" * (sure < 0.75) for sure in (sight.gender_confidence or 0, sight.ethnicity_confidence or 0)]
    assert sight.words() == ["Ann", f"{sight.gender}{doubts[0]}, {sight.ethnicity}{doubts[1]}"]


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
    drawn, same = tmp_path / "drawn", tmp_path / "eileen.png"
    PIL.Image.open(EILEEN).save(same)
    with pytest.raises(OwnerError, match=r"eileen\.jpg would be written over"):
        list(service.look([same, mine], config=None, draw=tmp_path))
    assert mine.read_bytes() == EILEEN.read_bytes()

    second = tmp_path / "eileen-2.jpg"
    second.write_bytes(GRACE.read_bytes())
    list(service.look([second, mine, same], config=None, draw=drawn))
    assert {path.name for path in drawn.iterdir()} == {"eileen.jpg", "eileen-2.jpg", "eileen-3.jpg"}
    assert read_picture(drawn / "eileen-2.jpg").shape == read_picture(GRACE).shape



def test_a_picture_too_wide_for_a_jpeg_is_said_so_and_the_next_is_looked_at(tmp_path: Path) -> None:
    wide = tmp_path / "wide.png"
    PIL.Image.new("1", (65_501, 2)).save(wide)
    (_, why), (_, told) = service.look([wide, EILEEN], config=None, draw=tmp_path / "drawn")

    assert str(why) == f"{tmp_path}/drawn/wide.jpg cannot be written: no side of a JPEG has more than 65500 pixels"
    assert isinstance(told, list)


def test_a_folders_hidden_files_and_folders_are_no_pictures(tmp_path: Path) -> None:
    for name in ("._1.jpg", "10.JPG", "2.png"):
        (tmp_path / name).touch()
    (tmp_path / "3.jpg").mkdir()
    assert [file.name for file in pictures_in(tmp_path)] == ["2.png", "10.JPG"]


@pytest.mark.parametrize("name", ["a\nb.jpg", "a\rb.jpg", 'a"b,c.jpg'])
def test_any_name_is_one_cell_of_csv(name: str) -> None:
    assert list(csv.reader(io.StringIO(_csv([name, None, 1.5]) + "\n", newline=""))) == [[name, "", "1.5"]]


def test_nobody_is_named_by_what_has_outlived_its_time_nor_bounds_a_photo_the_bound_of_frames(
    tmp_path: Path, testdata: Path
) -> None:
    config = load(write_config(tmp_path, {"name": "door", "url": str(tmp_path)}, model={"max_faces": 1}))
    service.enroll(config, {"Eileen": [EILEEN]})
    (_, known), (_, crowd) = service.look([EILEEN, testdata / "stock-group-1.jpg"], config=config, draw=None)
    assert isinstance(known, list)
    assert isinstance(crowd, list)
    assert [sight.name for sight in known] == ["Eileen"]
    assert len(crowd) > 2

    config = config.model_copy(update={"gallery": config.gallery.model_copy(update={"keep_days": 1e-6})})
    [(_, told)] = service.look([EILEEN], config=config, draw=None)
    assert isinstance(told, list)
    assert [sight.state for sight in told] == ["unknown"]
    with Gallery.open(config.gallery.path, config.gallery.key_file) as gallery:
        assert not gallery.people()


def test_a_folder_without_pictures_is_said_so(tmp_path: Path) -> None:
    done = onelook("look", tmp_path)
    assert (done.returncode, done.stderr.strip()) == (78, f"There are no pictures in {tmp_path}.")
