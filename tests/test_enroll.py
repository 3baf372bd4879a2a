"""Photos of a person become templates; each photo that does not is told why."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from onelook.enroll import LOOKS, EnrollError, Migrated, Verdict, enroll, enroll_all, folder_people, migrate
from onelook.errors import GalleryError
from onelook.face import Faces, Floats
from onelook.gallery import Gallery, Note, Stranger
from onelook.picture import Image, read_picture

THRESHOLD = 0.5


def unit(seed: int) -> Floats:
    vector = np.random.default_rng(seed).standard_normal(64)
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


class Painted:
    """A model that knows painted faces: reddish squares with a dark nose, on grey.

    It has a true network's limits: it sees no more than 640 x 480 pixels, needs some
    surroundings, and trusts a face by the pixels it has of it. Who it is: the square's green; on
    which photo: its blue.
    """

    size = (640, 480)

    def __init__(self) -> None:
        self.looks = 0

    def __call__(self, image: Image) -> Faces:
        self.looks += 1
        scale = min(1.0, 640 / image.shape[1], 480 / image.shape[0])
        seen = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA).astype(np.int16)
        reddish = cv2.morphologyEx(
            (seen[..., 0] - seen[..., 2] > 60).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((9, 9), np.uint8)
        )
        rows = []
        for x, y, width, height, area in cv2.connectedComponentsWithStats(reddish)[2][1:].tolist():
            whole = x == 0 and y == 0 and width == seen.shape[1] and height == seen.shape[0]
            if area >= 16 * 16 and not whole:
                rows.append(self._read(seen[y : y + height, x : x + width], x, y))
        faces = Faces.none(64)
        if not rows:
            return faces
        boxes, landmarks, embeddings, quality = (
            np.array(part, np.float32) for part in zip(*rows, strict=True)
        )
        n = len(rows)
        return Faces(
            boxes=boxes / np.float32(scale),
            scores=np.ones(n, np.float32),
            landmarks=landmarks / np.float32(scale),
            embeddings=embeddings,
            attributes=np.zeros((n, 40), np.float32),
            age=np.zeros(n, np.float32),
            gender=np.zeros(n, np.float32),
            ethnicity=np.zeros((n, 5), np.float32),
            emotion=np.zeros((n, 7), np.float32),
            quality=quality,
            sizes=np.full(n, 80, np.float32),
        )

    @staticmethod
    def _read(face: NDArray[np.int16], x: int, y: int) -> tuple[list[int], Floats, Floats, float]:
        height, width = face.shape[:2]
        darkness = cv2.GaussianBlur(face.sum(axis=2).astype(np.float32), (0, 0), width / 30)
        nose = np.unravel_index(darkness.argmin(), darkness.shape)
        points = np.array([[0.3, 0.35], [0.7, 0.35], [0, 0], [0.35, 0.75], [0.65, 0.75]]) * [width, height]
        points[2] = nose[1], nose[0]
        _, green, blue = np.median(face.reshape(-1, 3), axis=0)
        vector = 0.9 * unit(round(green / 20)) + 0.43 * unit(1000 + round(blue / 10))
        box = [x, y, x + width, y + height]
        return box, points + np.array([x, y]), vector / np.linalg.norm(vector), min(1.0, width / 110)


@dataclass
class Studio:
    """Takes photos of painted people."""

    folder: Path

    def photo(
        self,
        name: str,
        *,
        who: int = 3,
        take: int = 1,
        side: int = 160,
        size: tuple[int, int] = (640, 480),
        at: tuple[int, int] | None = None,
        turned: float = 0.0,
        blur: float = 0.0,
        beside: tuple[tuple[int, int, int], ...] = (),
    ) -> Path:
        """A picture of `who`; `beside`: further faces (who, side, left)."""
        picture = np.full((size[1], size[0], 3), 120, np.float32)
        left, top = at or ((size[0] - side) // 2, (size[1] - side) // 2)
        self._paint(picture, who=who, take=take, side=side, corner=(left, top), turned=turned)
        for other, length, x in beside:
            self._paint(picture, who=other, take=take, side=length, corner=(x, 10))
        if blur:
            picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), blur), np.float32)
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        assert cv2.imwrite(str(path), picture.clip(0, 255).astype(np.uint8)[..., ::-1])
        return path

    @staticmethod
    def _paint(
        picture: Floats, *, who: int, take: int, side: int, corner: tuple[int, int], turned: float = 0.0
    ) -> None:
        left, top = corner
        face = picture[top : top + side, left : left + side]
        face[:] = 200, who * 20, take * 10
        # As coarse as a face: white noise would be sharper than any.
        grain = np.random.default_rng(take).normal(0, 25, (12, 12)).astype(np.float32)
        face += cv2.resize(grain, (side, side), interpolation=cv2.INTER_CUBIC)[..., None]
        nose = (round(side * (0.5 + 0.4 * turned)), round(side * 0.54))
        cv2.circle(face, nose, max(2, side // 12), (70.0, 0.0, 0.0), -1)


@pytest.fixture
def studio(tmp_path: Path) -> Studio:
    return Studio(tmp_path / "photos")


@pytest.fixture
def gallery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gallery:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    return Gallery.open(tmp_path / "gallery.db", tmp_path / "gallery.key", "a1" * 32)


def verdict(gallery: Gallery, photo: Path, name: str = "Ada") -> tuple[bool, str]:
    [verdict] = enroll(name, [photo], Painted(), gallery, threshold=THRESHOLD)
    assert verdict.photo == photo
    assert "\n" not in verdict.reason
    assert str(photo) not in verdict.reason  # it stands before the reason already
    return verdict.accepted, verdict.reason


def enrolled(gallery: Gallery) -> dict[str, list[str]]:
    return {person.name: [kept.source for kept in person.templates] for person in gallery.people()}


def test_who_is_enrolled_from_photos_is_recognised(studio: Studio, gallery: Gallery) -> None:
    photos = [studio.photo(f"{take}.png", take=take) for take in range(3)]
    verdicts = enroll(" Ada ", photos, Painted(), gallery, threshold=THRESHOLD)
    assert [(v.photo, v.accepted) for v in verdicts] == [(photo, True) for photo in photos]
    assert all(v.reason.startswith("is enrolled: a face of 1") for v in verdicts)
    assert enrolled(gallery) == {"Ada": ["0.png", "1.png", "2.png"]}
    [match] = gallery.match(Painted()(read_picture(studio.photo("new.png", take=9))).embeddings)
    assert match.name == "Ada"
    assert match.similarity > 0.8


def test_every_photo_gets_its_own_verdict(studio: Studio, gallery: Gallery) -> None:
    good, bad, also = studio.photo("1.png"), studio.photo("2.png", side=20), studio.photo("3.png", take=3)
    verdicts = enroll("Ada", iter([good, bad, also]), Painted(), gallery, threshold=THRESHOLD)
    assert [v.accepted for v in verdicts] == [True, False, True]
    assert enrolled(gallery) == {"Ada": ["1.png", "3.png"]}


@pytest.mark.parametrize(
    ("take", "told"),
    [
        (lambda studio: studio.photo("p.png", side=1), "shows no face that can be made out"),
        (lambda studio: studio.photo("p.png", beside=((4, 150, 10),)), "shows 2 faces of like size"),
        (
            lambda studio: studio.photo("p.png", beside=((4, 90, 10), (5, 85, 540))),
            "shows 3 faces of like size",
        ),
        (lambda studio: studio.photo("p.png", side=44), "shows a face of 44 pixels, and at least 48"),
        (lambda studio: studio.photo("p.png", turned=0.6), "looks away"),
        (lambda studio: studio.photo("p.png", turned=-0.6), "looks away"),
        (lambda studio: studio.photo("p.png", blur=9), "blurred"),
    ],
)
def test_a_photo_that_would_make_a_bad_template_is_refused(
    studio: Studio, gallery: Gallery, take: Callable[[Studio], Path], told: str
) -> None:
    accepted, reason = verdict(gallery, take(studio))
    assert not accepted
    assert told in reason
    assert gallery.people() == []
    assert not gallery.path.exists()


def test_a_camera_that_moved_blurs_in_one_direction_and_is_found_out(
    studio: Studio, gallery: Gallery
) -> None:
    photo = studio.photo("moved.png")
    cv2.imwrite(str(photo), cv2.blur(read_picture(photo), (31, 1))[..., ::-1])
    assert verdict(gallery, photo) == (False, "shows a blurred face: take a sharper photo")


@pytest.mark.parametrize("box", [(120, 570, 197, 672), (412, 310, 472, 380), (280, 130, 330, 185)])
def test_true_faces_are_sharp_until_they_are_blurred(
    testdata: Path, studio: Studio, gallery: Gallery, box: tuple[int, int, int, int]
) -> None:
    """A large, a middling and a small face of one photograph."""
    whole = read_picture(testdata / "stock-group-1.jpg")
    width = box[2] - box[0]

    class Pointed(Painted):
        """Sees the face that we point at."""

        def __call__(self, image: Image) -> Faces:
            face = super().__call__(read_picture(studio.photo("any.png")))
            face.landmarks[:] += np.array(box[:2], np.float32) - face.boxes[0, :2]
            face.boxes[:] = box
            return face

    verdicts: list[bool | str] = []
    for picture in (
        whole,
        cv2.GaussianBlur(whole, (0, 0), width / 60),
        cv2.GaussianBlur(whole, (0, 0), width / 30),
        cv2.blur(whole, (width // 5, 1)),
    ):
        photo = studio.folder / f"{len(verdicts)}.png"
        photo.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(photo), np.asarray(picture)[..., ::-1])
        [told] = enroll(f"person {len(verdicts)}", [photo], Pointed(), gallery, threshold=1.1)
        verdicts.append(told.accepted or told.reason)
    blurred = "shows a blurred face: take a sharper photo"
    assert verdicts == [True, True, blurred, blurred]


def test_a_face_that_the_model_does_not_trust_is_refused(studio: Studio, gallery: Gallery) -> None:
    photo = studio.photo("p.png", side=60)
    [told] = enroll("Ada", [photo], Painted(), gallery, threshold=THRESHOLD, quality=0.8)
    assert not told.accepted
    assert told.reason == "is of little use (quality 0.55, at least 0.80 is needed)"
    assert verdict(gallery, photo)[0]


@pytest.mark.parametrize("content", [None, b"", b"not a picture", b"\x89PNG\r\n\x1a\n broken"])
def test_a_file_that_is_no_picture_is_told_and_the_others_go_on(
    studio: Studio, gallery: Gallery, content: bytes | None
) -> None:
    good = studio.photo("good.png")
    bad = studio.folder / "bad.png"
    if content is not None:
        bad.write_bytes(content)
    told, fine = enroll("Ada", [bad, good], Painted(), gallery, threshold=THRESHOLD)
    assert not told.accepted
    assert told.reason
    assert fine.accepted


def test_a_folder_given_as_a_photo_is_told(studio: Studio, gallery: Gallery) -> None:
    studio.folder.mkdir()
    assert verdict(gallery, studio.folder) == (False, "cannot be read: Is a directory")


def test_bystanders_in_the_background_do_no_harm(studio: Studio, gallery: Gallery) -> None:
    photo = studio.photo("p.png", side=200, beside=((7, 80, 10), (8, 60, 540)))
    assert verdict(gallery, photo)[0]
    assert gallery.match(Painted()(read_picture(studio.photo("q.png"))).embeddings)[0].similarity > 0.8


def test_a_bystander_is_not_enrolled_in_the_place_of_a_larger_face_that_is_hard_to_make_out(
    studio: Studio, gallery: Gallery
) -> None:
    class Doubting(Painted):
        def __call__(self, image: Image) -> Faces:
            faces = super().__call__(image)
            faces.scores[faces.boxes[:, 2] - faces.boxes[:, 0] > 250] = 0.6
            return faces

    photo = studio.photo("both.png", side=300, beside=((8, 100, 10),))

    [verdict] = enroll("Ada", [photo], Doubting(), gallery, threshold=THRESHOLD)

    assert not verdict.accepted
    assert "a larger one that is hard to make out" in verdict.reason


def test_a_tightly_cut_out_face_is_given_surroundings(studio: Studio, gallery: Gallery) -> None:
    """As users of other face projects have them: the face and nothing else."""
    for side in (64, 112, 1000):
        photo = studio.photo(f"{side}.png", take=side // 100, side=side, size=(side, side), at=(0, 0))
        assert len(Painted()(read_picture(photo))) == 0
        assert verdict(gallery, photo)[0]


def test_a_small_face_in_a_large_photo_is_looked_at_from_nearby(studio: Studio, gallery: Gallery) -> None:
    photo = studio.photo("12 megapixels.jpg", side=240, size=(4000, 3000), at=(3500, 100))
    far = Painted()(read_picture(photo))
    assert far.quality[0] < 0.4
    assert verdict(gallery, photo)[0]
    assert gallery.templates("Ada")[0].quality > 2 * far.quality[0]


class Moody(Painted):
    """What it says of a face is off, and otherwise at each look."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Image] = []

    def __call__(self, image: Image) -> Faces:
        faces = super().__call__(image)
        self.seen.append(image)
        for row in range(len(faces)):
            mood = faces.embeddings[row] + unit(10_000 + 10 * len(self.seen) + row)
            faces.embeddings[row] = mood / np.linalg.norm(mood)
        return faces


def sides(faces: Faces) -> list[float]:
    return sorted((faces.boxes[:, 2] - faces.boxes[:, 0]).tolist())


@pytest.mark.parametrize(("size", "pictures"), [((640, 480), 1), ((320, 256), 5)])
def test_a_template_is_the_mean_of_looks_in_several_sizes_and_in_the_mirror(
    studio: Studio, gallery: Gallery, size: tuple[int, int], pictures: int
) -> None:
    photo, moody = studio.photo("1.png", at=(200, 130), turned=0.2), Moody()
    moody.size = size
    truth = Painted()(read_picture(photo)).embeddings[0]
    [told] = enroll("Ada", [photo], moody, gallery, threshold=THRESHOLD)
    assert told.accepted, told.reason
    looks = moody.seen[2:]
    assert len(looks) == pictures
    assert all(look.shape[1] <= size[0] and look.shape[0] <= size[1] for look in looks)
    seen = [Painted()(look) for look in looks]
    each = sorted(side for faces in seen for side in sides(faces))
    assert each == pytest.approx(sorted(size * 107 / 112 for size in LOOKS for _ in range(2)), abs=2)
    noses = np.concatenate([faces.landmarks[:, 2, 0] - faces.boxes[:, [0, 2]].mean(1) for faces in seen])
    assert (noses > 0).sum() == (noses < 0).sum() == len(LOOKS)
    assert max(float((moody(look).embeddings @ truth).max()) for look in looks) < 0.9
    assert gallery.templates("Ada")[0].embedding @ truth > 0.93


def test_no_look_enlarges_a_face(studio: Studio, gallery: Gallery) -> None:
    model = Moody()
    enroll("Ada", [studio.photo("1.png", side=60)], model, gallery, threshold=THRESHOLD)
    [look] = model.seen[2:]
    assert sides(Painted()(look)) == pytest.approx([48 * 107 / 112] * 2 + [60] * 2, abs=2)


def test_no_photo_takes_more_memory_than_a_small_board_has(studio: Studio, gallery: Gallery) -> None:
    """Neither a wall without a face nor a face that fills a telephone's photo; each had taken gigabytes."""
    close = studio.photo("close.png", side=2400, size=(3000, 3000))
    wall = close.with_name("wall.png")
    cv2.imwrite(str(wall), np.full((3000, 4000, 3), 120, np.uint8))
    seen = []

    class Watched(Painted):
        def __call__(self, image: Image) -> Faces:
            seen.append(image.nbytes)
            return super().__call__(image)

    nobody, somebody = enroll("Ada", [wall, close], Watched(), gallery, threshold=THRESHOLD)

    assert nobody.reason == "shows no face that can be made out"
    assert somebody.accepted, somebody.reason
    photos = [3000 * 4000 * 3, 3000 * 3000 * 3]  # which are there in any case
    assert max(size for size in seen if size not in photos) < 4 * 1200 * 4 * 1200 * 3


def test_enrolling_again_adds_nothing_and_does_not_even_look(studio: Studio, gallery: Gallery) -> None:
    photos = [studio.photo("1.png"), studio.photo("2.png", take=2)]
    enroll("Ada", photos, Painted(), gallery, threshold=THRESHOLD)
    before = gallery.path.read_bytes()
    model = Painted()
    renamed = photos[0].rename(photos[0].with_name("renamed.png"))
    verdicts = enroll("Ada", [renamed, photos[1], photos[1]], model, gallery, threshold=THRESHOLD)
    assert [(v.accepted, v.reason) for v in verdicts] == [(True, "is enrolled already")] * 3
    assert model.looks == 0
    assert gallery.path.read_bytes() == before


def test_a_photo_given_twice_counts_once(studio: Studio, gallery: Gallery) -> None:
    photo = studio.photo("1.png")
    verdicts = enroll("Ada", [photo, photo], Painted(), gallery, threshold=THRESHOLD)
    assert [v.accepted for v in verdicts] == [True, True]
    assert enrolled(gallery) == {"Ada": ["1.png"]}


def test_a_photo_saved_again_does_not_count_double(studio: Studio, gallery: Gallery) -> None:
    first, again = studio.photo("1.png"), studio.photo("2.jpg")
    told = enroll("Ada", [first, again], Painted(), gallery, threshold=THRESHOLD)[1]
    assert (told.accepted, told.reason) == (False, "is the same photo as 1.png, saved again: it adds nothing")
    assert verdict(gallery, again) == (False, told.reason)
    assert enrolled(gallery) == {"Ada": ["1.png"]}


def test_one_face_does_not_get_two_names(studio: Studio, gallery: Gallery) -> None:
    assert verdict(gallery, studio.photo("1.png"))[0]
    accepted, reason = verdict(gallery, studio.photo("2.png", take=2), name="Ben")
    assert not accepted
    assert reason.startswith("looks like Ada, who is enrolled (similarity 0.8")
    assert verdict(gallery, studio.photo("3.png", take=2, who=5), name="Ben")[0]
    assert verdict(gallery, studio.photo("2.png", take=2))[0]
    assert enrolled(gallery) == {"Ada": ["1.png", "2.png"], "Ben": ["3.png"]}


def test_a_photo_that_is_unlike_the_persons_others_is_told(studio: Studio, gallery: Gallery) -> None:
    def told(*photos: Path) -> list[bool]:
        """Of which a doubt is told; all are taken."""
        verdicts = enroll("Ada", photos, Painted(), gallery, threshold=THRESHOLD, unlike=0.5)
        assert all(each.accepted for each in verdicts)
        return ["is unlike what else there is of" in each.reason for each in verdicts]

    mine = [studio.photo(f"{take}.png", take=take) for take in range(4)]
    other = studio.photo("other.png", who=5, take=9)
    assert told(mine[0]) == [False]
    assert told(mine[1], mine[2]) == [False, False]
    assert told(other, mine[3]) == [True, False]  # beside those that were there before
    gallery.forget("Ada")
    assert told(mine[0], other, mine[1], mine[2]) == [False, True, False, False]
    gallery.forget("Ada")
    assert told(other, mine[0]) == [False, True]  # of two, it could be either


def test_of_somebody_unlike_it_is_told_what_to_do(studio: Studio, gallery: Gallery) -> None:
    people = {"Ada": [studio.photo("1.png"), studio.photo("2.png", who=5, take=9)]}
    for dry_run, word in ((True, "would be"), (False, "is")):
        [_, doubt] = enroll_all(people, Painted(), gallery, threshold=THRESHOLD, unlike=0.5, dry_run=dry_run)["Ada"]
        assert doubt.reason.startswith(f"{word} enrolled: a face of 160 pixels, quality 0.80; but it is unlike what ")
        assert doubt.reason.endswith("if it shows somebody else, forget Ada and enroll again without it")


def test_a_bad_name_is_told_before_any_photo_is_looked_at(studio: Studio, gallery: Gallery) -> None:
    model = Painted()
    with pytest.raises(GalleryError, match="1 to 64 characters"):
        enroll("  ", [studio.photo("1.png")], model, gallery, threshold=THRESHOLD)
    assert model.looks == 0


def test_interrupted_while_it_looks_nothing_has_changed(studio: Studio, gallery: Gallery) -> None:
    assert verdict(gallery, studio.photo("0.png", take=9))[0]
    before = gallery.path.read_bytes()

    class Interrupted(Painted):
        def __call__(self, image: Image) -> Faces:
            if self.looks == 3:
                raise KeyboardInterrupt
            return super().__call__(image)

    photos = [studio.photo(f"{take}.png", take=take) for take in range(1, 4)]
    with pytest.raises(KeyboardInterrupt):
        enroll("Ada", photos, Interrupted(), gallery, threshold=THRESHOLD)
    assert gallery.path.read_bytes() == before
    assert enrolled(gallery) == {"Ada": ["0.png"]}
    assert all(v.accepted for v in enroll("Ada", photos, Painted(), gallery, threshold=THRESHOLD))


def test_a_persons_photos_are_stored_together(studio: Studio, tmp_path: Path) -> None:
    class Interrupted(Gallery):
        def add(self, *template: Any, **more: Any) -> bool:
            if self.templates("Ada"):
                raise KeyboardInterrupt
            return super().add(*template, **more)

    photos = [studio.photo(f"{take}.png", take=take) for take in range(1, 4)]
    with Interrupted.open(tmp_path / "gallery.db", tmp_path / "gallery.key", "a1" * 32) as gallery:
        with pytest.raises(KeyboardInterrupt):
            enroll("Ada", photos, Painted(), gallery, threshold=THRESHOLD)
        assert gallery.people() == []
    with Gallery.open(tmp_path / "gallery.db", tmp_path / "gallery.key") as after:
        assert after.people() == []


def test_two_who_enroll_the_same_photo_at_once_store_it_once(studio: Studio, gallery: Gallery) -> None:
    photo = studio.photo("1.png")

    class Slow(Painted):
        def __call__(self, image: Image) -> Faces:
            if self.looks == 0:
                with Gallery.open(gallery.path, gallery.key.file, gallery.model_sha) as other:
                    enroll("Ada", [photo], Painted(), other, threshold=THRESHOLD)
            return super().__call__(image)

    [told] = enroll("Ada", [photo], Slow(), gallery, threshold=THRESHOLD)
    assert (told.accepted, told.reason) == (True, "is enrolled already")
    assert enrolled(gallery) == {"Ada": ["1.png"]}


# --- everybody at once, for show, and for another model -----------------------------------------


def test_a_dry_run_tells_what_would_come_of_it_and_stores_nothing(studio: Studio, gallery: Gallery) -> None:
    people = {
        "Ada": [studio.photo("1.png"), studio.photo("blurred.png", take=4, blur=9)],
        "Ben": [studio.photo("2.png", take=2), studio.photo("3.png", who=5)],
    }
    shown: list[Path] = []

    def progress(photos: Sequence[Path]) -> Iterator[Path]:
        for photo in photos:
            shown.append(photo)
            yield photo

    def enrolled_all(dry_run: bool) -> dict[str, list[Verdict]]:
        return enroll_all(people, Painted(), gallery, threshold=THRESHOLD, dry_run=dry_run, progress=progress)

    dry = enrolled_all(dry_run=True)
    assert not gallery.path.exists()
    assert gallery.people() == []
    assert shown == [*people["Ada"], *people["Ben"]]
    wet = enrolled_all(dry_run=False)
    assert [v.accepted for v in dry["Ada"] + dry["Ben"]] == [True, False, False, True]
    for name, verdicts in dry.items():
        for would, did in zip(verdicts, wet[name], strict=True):
            assert would.reason == did.reason.replace("is enrolled:", "would be enrolled:")
    assert dry["Ben"][0].reason.startswith("looks like Ada")
    assert enrolled(gallery) == {"Ada": ["1.png"], "Ben": ["3.png"]}
    again = enroll_all(people, Painted(), gallery, threshold=THRESHOLD)
    assert again["Ada"][0].reason == again["Ben"][1].reason == "is enrolled already"


def test_the_ground_for_enrolling_is_kept_and_can_be_renewed(studio: Studio, gallery: Gallery) -> None:
    photo, note = studio.photo("1.png"), Note("the door", "by word of mouth")
    enroll("Ada", [photo], Painted(), gallery, threshold=THRESHOLD, note=note)
    enroll("Ada", [photo], Painted(), gallery, threshold=THRESHOLD)
    assert gallery.people()[0].note == note
    enroll("Ada", [photo], Painted(), gallery, threshold=THRESHOLD, note=Note("the till"))
    assert gallery.people()[0].note == Note("the till", "by word of mouth")
    enroll("Ben", [studio.photo("2.png", side=20)], Painted(), gallery, threshold=THRESHOLD, note=note)
    assert [person.name for person in gallery.people()] == ["Ada"]


def test_another_model_takes_over_from_the_photos_that_were_kept(
    studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Mirrored(Painted):
        def __call__(self, image: Image) -> Faces:
            faces = super().__call__(image)
            faces.embeddings[:] *= -1
            return faces

    paths = tmp_path / "gallery.db", tmp_path / "gallery.key"
    photos = [studio.photo(f"{take}.png", take=take) for take in range(3)]
    with Gallery.open(*paths, "a1" * 32) as gallery:
        enroll("Ada", photos, Painted(), gallery, threshold=THRESHOLD, note=Note("the door"))
        enroll("Ben", [studio.photo("ben.png", who=5)], Painted(), gallery, threshold=THRESHOLD)
        now, [ada, *_] = datetime.now(UTC), gallery.templates("Ada")
        for model in "a1" * 32, "b2" * 32:
            gallery.keep_stranger(Stranger("door", now, now, ada.embedding, 0.9, b"her picture", model=model))
    (studio.folder / "old").mkdir()
    photos[0].rename(studio.folder / "old" / "renamed.png")
    photos[1].unlink()
    (studio.folder / "ben.png").unlink()
    with pytest.raises(GalleryError, match="onelook gallery migrate"):
        Gallery.open(*paths, "b2" * 32)
    for again in range(2):
        with Gallery.open(*paths) as gallery:
            told = migrate(studio.folder, Mirrored(), gallery, "b2" * 32)
        assert told == [Migrated("Ada", 0, 0, 2) if again else Migrated("Ada", 2, 1), Migrated("Ben", 0, 1)]
    with Gallery.open(*paths) as gallery:
        gallery.forget("Ben")
        assert [each.model for each in gallery.strangers()] == ["b2" * 32], "forget finds nobody in the rest"
    with Gallery.open(*paths, "b2" * 32) as gallery:
        [ada] = gallery.people()
        assert (len(ada.templates), ada.note.purpose) == (2, "the door")
        [match] = gallery.match(Mirrored()(read_picture(photos[2])).embeddings)
        assert match.similarity > 0.8
    (tmp_path / "empty").mkdir()
    with Gallery.open(*paths) as gallery:
        with pytest.raises(EnrollError, match="holds no photos"):
            migrate(tmp_path / "empty", Painted(), gallery, "b2" * 32)
        with pytest.raises(EnrollError, match=r"There is no folder .*nowhere\.$"):
            migrate(tmp_path / "nowhere", Painted(), gallery, "b2" * 32)

        def shut(folder: Path) -> bool:
            raise PermissionError(13, "Permission denied", str(folder))

        monkeypatch.setattr(Path, "is_dir", shut)  # no mode stops root
        with pytest.raises(EnrollError, match=r"The folder .*shut cannot be read: Permission denied\.$"):
            migrate(tmp_path / "shut", Painted(), gallery, "b2" * 32)


def test_the_same_model_may_look_at_the_photos_again(studio: Studio, gallery: Gallery) -> None:
    photos = [studio.photo(f"{take}.png", take=take) for take in range(2)]
    enroll("Ada", photos, Moody(), gallery, threshold=THRESHOLD, note=Note("the door"))
    before = gallery.templates("Ada")
    photos[0].unlink()

    assert migrate(studio.folder, Painted(), gallery, gallery.model_sha or "") == [Migrated("Ada", 0, 0, 2)]
    assert gallery.templates("Ada") == before
    told = migrate(studio.folder, Painted(), gallery, gallery.model_sha or "", again=True)
    assert told == [Migrated("Ada", 1, 1, 1)], "what cannot be looked at again stays"
    stays, anew = gallery.templates("Ada")
    assert (stays, anew.sha256) == (before[0], before[1].sha256)
    assert anew.embedding @ before[1].embedding < 0.99
    assert gallery.people()[0].note == Note("the door")


def test_who_is_enrolled_or_forgotten_while_photos_are_looked_at_again_stays_so(
    studio: Studio, gallery: Gallery
) -> None:
    class Meanwhile(Painted):
        """Others do not wait until it is through."""

        def __call__(self, image: Image) -> Faces:
            with Gallery.open(gallery.path, gallery.key.file, gallery.model_sha) as other:
                enroll("Ada", photos, Painted(), other, threshold=THRESHOLD)
                other.forget("Ben")
            return super().__call__(image)

    photos = [studio.photo(f"{take}.png", take=take) for take in range(2)]
    enroll("Ada", photos[:1], Painted(), gallery, threshold=THRESHOLD)
    enroll("Ben", [studio.photo("ben.png", who=5)], Painted(), gallery, threshold=THRESHOLD)

    migrate(studio.folder, Meanwhile(), gallery, gallery.model_sha or "", again=True)

    [ada] = gallery.people()
    assert [template.source for template in ada.templates] == ["0.png", "1.png"]


# --- a folder per person ------------------------------------------------------------------------


def test_a_folder_per_person_is_read_as_people_keep_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for place in (
        "Ada Lovelace/2.JPG",
        "Ada Lovelace/1.jpeg",
        "Ada Lovelace/3.HEIC",
        "Ada Lovelace/4.jfif",
        "Ada Lovelace/notes.txt",
        "Ada Lovelace/.hidden.jpg",
        "Jose\u0301/a.png",
        "nobody yet/readme.md",
        "@eaDir/thumbnail.jpg",
        ".trash/old.jpg",
        "loose.jpg",
    ):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_bytes(b"")
    (tmp_path / "Ada Lovelace" / "folder.jpg").mkdir()
    people = folder_people(tmp_path)
    assert {name: [photo.name for photo in photos] for name, photos in people.items()} == {
        "Ada Lovelace": ["1.jpeg", "2.JPG", "3.HEIC", "4.jfif"],
        "José": ["a.png"],
    }
    assert all(photo.is_file() for photos in people.values() for photo in photos)
    [told] = caplog.messages
    assert told.startswith(f"{tmp_path / 'nobody yet'} holds no photos of a kind that can be read (.avif, .bmp, ")


def test_a_folder_without_people_is_told(tmp_path: Path) -> None:
    (tmp_path / "loose.jpg").write_bytes(b"")
    with pytest.raises(EnrollError, match="holds no folders with photos: make one per person"):
        folder_people(tmp_path)
    with pytest.raises(EnrollError, match="cannot be read: No such file"):
        folder_people(tmp_path / "nowhere")
    (tmp_path / ("x" * 65)).mkdir()
    (tmp_path / ("x" * 65) / "1.jpg").write_bytes(b"")
    with pytest.raises(GalleryError, match=r"In .*: A name has 1 to 64 characters"):
        folder_people(tmp_path)
