"""Enrol: photos of a person become templates in the gallery, each with a verdict that says why (not).

    for verdict in enroll("Ada", photos, model, gallery, threshold=0.5):
        print(verdict.photo, verdict.reason)

A bad template is worse than none: it names strangers for as long as it is kept. So a photo has
to show one face, large, sharp and turned to the camera.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

import cv2
import numpy as np

from onelook.align import FACE_BOX, TEMPLATE_SIZE
from onelook.errors import GalleryError, OwnerError
from onelook.face import Faces, Floats
from onelook.gallery import Gallery, Note, Template, clean_name
from onelook.picture import SUFFIXES, Image, PictureError, is_shown, read_picture

log = logging.getLogger(__name__)

SIZE = 112.0
"""`Faces.sizes` of a photo that is good enough, about."""
VIEW = 4.0
"""Sides of the square that a face is looked at in, in sides of the face."""
SURROUNDED: Final = 1.8
"""The same for each of LOOKS: all ten lie side by side on one picture of 640x480, and take one call of the network."""
LARGEST = 1024
"""Pixels of a face's longer side that are looked at: a larger one with room around it would fill a board's memory."""
KNOWN = 88
"""Pixels of a face's longer side that it is looked at in, where it has more: the network was trained on
faces of 20 to 112, and describes one of 126 hardly better than one of 20."""
LOOKS: Final = (112, 96, 80, 64, 48)
"""Sizes (`Faces.sizes`) in which a photo's face is described, each as it is and in the mirror, to be averaged.

What one look gets wrong by chance, others do not, and a photo is looked at but once. Of held-out people, a face of
80 pixels is known by one photo, at a false accept rate of 1e-3, in 47 of 100 cases, with the largest look alone in 42
(`calibrate`). Chosen on people of the training data: by the cosine alone, with the largest look 38.3, with its mirror
image too 40.4, with all sizes 41.4, with all of both 42.2; two more sizes add more than looks turned by 7 degrees,
darker and brighter ones."""
TRAITS: Final = ("attributes", "age", "gender", "ethnicity", "emotion")
"""What looks tell of a face, beside whose it is."""
SMALLEST = 48
"""Pixels of the face's shorter side: below, recognisers lose more than other photos make up for."""
ALONE = 2.0
"""How many times larger than the next one a face must be to be the one that is meant."""
CERTAIN = 0.9
"""Share of the surest face's score that another must reach to be in question: a doubtful find is no rival."""
TURNED = 0.4
"""How far the nose may lie from between the eyes, in eye distances: about 35 degrees of turning.

On 6,000 photographs the cosine to the same person's frontal faces falls from 0.84 to 0.66 there.
"""
TILTED = (0.25, 0.85)
"""Where the nose may lie between the eyes (0) and the mouth (1): nodding down or up."""
SHARP = 0.02
"""Least share of fine detail. Of 2,000 portraits not 1 in 200 has less; blurred (Gaussian) by a
thirtieth of the face's width, 99 in 100 have."""
USEFUL = 0.2
"""Least quality that the model must think a photo of."""
SAME_PHOTO = 0.98
"""Cosine from which two photos are one, saved twice: it would count double and add nothing."""
UNLIKE: Final = 0.68
"""Share of the similarity that 1 in 100 strangers reach, under which a photo hardly shows whom the person's others do.

Of LFW's pairs, described as photos are, 92 of 100 of two people are under it, and 2.6 of one person's. Of held-out
faces, harder ones, 93 of 100 strangers are beside two photos of somebody, and 6 of the person's own; beside three, 3.
"""


class EnrollError(OwnerError):
    """A folder that people cannot be enrolled from."""


class Model(Protocol):
    """What is asked of the model."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of a picture that it sees without making it smaller."""

    def __call__(self, image: Image) -> Faces:
        """All faces of an RGB image (height, width, 3)."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one photo."""

    photo: Path
    accepted: bool
    """Whether the gallery now holds it, be it since just now or since before."""
    reason: str
    """For the owner to read, as what the photo does: "shows 3 faces …"."""


class _Refusal(Exception):  # noqa: N818 - not an error: the answer to a question
    """Why a photo cannot be used."""


@dataclass(frozen=True, slots=True, eq=False)
class _Candidate:
    photo: Path
    sha256: str
    embedding: Floats
    quality: float
    pixels: int


def enroll(
    name: str,
    photos: Iterable[Path],
    model: Model,
    gallery: Gallery,
    *,
    threshold: float,
    unlike: float = -1.0,
    quality: float = USEFUL,
    note: Note | None = None,
) -> list[Verdict]:
    """Adds what is usable of `photos` to the person `name`; returns a verdict for each, in order.

    `threshold` is the cosine from which the model takes two faces for one person: a face that is
    so near to somebody else enrolled is refused, because two names for one face make both
    uncertain for ever. A photo that is less like the person's others than `unlike` is taken, as people
    look unlike themselves at times, but told: of two people under one name both would be called by it,
    or neither. `quality` is the least that the model must think of the face, 0 to 1. `note` says
    on what ground the person is enrolled; none: as noted before.

    The person's photos are stored all at once when all have been looked at: interrupted before
    that, nothing has changed; run again, nothing is added twice. Raises GalleryError for a bad
    name or a gallery that cannot be written.
    """
    name = clean_name(name)
    verdicts: list[Verdict] = []
    candidates: dict[int, _Candidate] = {}
    for photo in photos:
        try:
            candidate = _candidate(
                photo,
                name=name,
                others=list(candidates.values()),
                model=model,
                gallery=gallery,
                threshold=threshold,
                quality=quality,
            )
        except (_Refusal, PictureError) as refusal:
            reason = str(refusal).removeprefix(f"{photo} ")
            verdicts.append(Verdict(photo, False, reason))
            continue
        if candidate is not None:
            candidates[len(verdicts)] = candidate
        verdicts.append(Verdict(photo, True, "is enrolled already"))
    annotated = note is not None and note != Note() and (candidates or gallery.templates(name))
    doubts = _doubts(candidates, gallery.templates(name), gallery, unlike)
    with gallery.transaction() if candidates or annotated else nullcontext():
        for place, new in candidates.items():
            if gallery.add(name, new.embedding, new.quality, new.photo.name, new.sha256):
                reason = f"is enrolled: a face of {new.pixels} pixels, quality {new.quality:.2f}"
                if place in doubts:
                    reason += (
                        f"; but it is unlike what else there is of {name} (similarity {doubts[place]:.2f}): if it "
                        f"shows somebody else, forget {name} and enroll again without it"
                    )
                verdicts[place] = Verdict(new.photo, True, reason)
        if annotated and note is not None:
            gallery.annotate(name, note)
    return verdicts


def _doubts(
    candidates: Mapping[int, _Candidate], stored: Sequence[Template], gallery: Gallery, unlike: float
) -> dict[int, float]:
    """The similarities, under `unlike`, of candidates to the mean of the person's other photos; of two, the later's."""
    kept: list[_Candidate | Template] = [*stored, *candidates.values()]
    whole = sum(each.quality * each.embedding for each in kept)
    doubts = {}
    for place, new in candidates.items():
        if len(kept) < 2 or (len(kept) == 2 and new is kept[0]):
            continue
        others = whole - new.quality * new.embedding
        mean = np.asarray(others / max(float(np.linalg.norm(others)), 1e-6), np.float32)
        similarity = gallery.similarity(new.embedding, mean)
        if similarity < unlike:
            doubts[place] = similarity
    return doubts


def enroll_all(
    people: Mapping[str, Sequence[Path]],
    model: Model,
    gallery: Gallery,
    *,
    threshold: float,
    unlike: float = -1.0,
    note: Note | None = None,
    dry_run: bool = False,
    progress: Callable[[Sequence[Path]], Iterable[Path]] = lambda photos: photos,
) -> dict[str, list[Verdict]]:
    """Enrols everybody of `people`, as `enroll` does; the verdicts by name.

    dry_run: what would come of it all, as if those before were enrolled, with nothing stored. progress: hands on the
    photos that it is given, and may tell how far it is. Raises GalleryError as `enroll` does.
    """
    verdicts = {}
    with gallery.rehearsal() if dry_run else nullcontext():
        for name, photos in people.items():
            verdicts[name] = enroll(
                name, progress(photos), model, gallery, threshold=threshold, unlike=unlike,
                note=None if dry_run else note,
            )
    if dry_run:
        return {name: [_would(verdict) for verdict in told] for name, told in verdicts.items()}
    return verdicts


def _would(verdict: Verdict) -> Verdict:
    return replace(verdict, reason=verdict.reason.replace("is enrolled:", "would be enrolled:"))


@dataclass(frozen=True, slots=True)
class Migrated:
    """What came of one person when another model took over."""

    name: str
    photos: int
    """Photos from which there are templates now; 0: the person is as before."""
    missing: int
    """Templates whose photos were not found, or cannot be used any more."""
    kept: int = 0
    """Templates that are as before and serve: of this model."""


def migrate(
    folder: Path, model: Model, gallery: Gallery, model_sha: str, *, quality: float = USEFUL, again: bool = False
) -> list[Migrated]:
    """Enrols everybody anew with `model` from the photos in `folder` that they were enrolled from, by name.

    again: from those too of which there are templates by this very model, as it may look at photos better by now.

    The photos are known by their bytes, wherever in the folder they lie and whatever they are called. A person of
    whom no photo is found keeps the old templates; strangers of another model go, once anybody is enrolled anew.
    gallery: opened without a model, so that it opens at all. All is stored at once, at the end. Raises EnrollError for
    the folder, GalleryError for the gallery.
    """
    try:
        if not folder.is_dir():
            raise EnrollError(f"There is no folder {folder}.")
        photos = [file for file in sorted(folder.rglob("*")) if is_shown(file)]
    except OSError as error:
        raise EnrollError(f"The folder {error.filename} cannot be read: {error.strerror}.") from error
    if not photos:
        raise EnrollError(f"The folder {folder} holds no photos.")
    by_bytes = {}
    for photo in photos:
        with suppress(_Refusal):
            by_bytes[_sha256(photo)] = photo
    told, renewed = [], {}
    for person in gallery.people():
        new: dict[str | None, Template] = {}  # by the photo's bytes
        kept = missing = 0
        for template in person.templates:
            ours = template.model == model_sha
            if ours and not again:
                kept += 1
                continue
            try:
                face = _face(read_picture(by_bytes[template.sha256 or ""]), model, quality)
            except (_Refusal, PictureError, KeyError):
                missing += 1
                kept += ours
                continue
            new[template.sha256] = replace(
                template, embedding=face.embeddings[0], quality=float(face.quality[0]), model=model_sha
            )
        told.append(Migrated(person.name, len(new), missing, kept))
        if new:
            renewed[person.name] = new
    if renewed:
        with gallery.transaction():
            for name, new in renewed.items():
                # Of what is there by now: photos take long, and others enroll and forget meanwhile.
                there = [new.get(template.sha256, template) for template in gallery.templates(name)]
                if serve := [template for template in there if template.model == model_sha]:
                    gallery.renew(name, serve)
            # Nothing finds these any more, and so not who asks to be forgotten either.
            gallery.drop_strangers([each.number for each in gallery.strangers() if each.model != model_sha])
    return told


def folder_people(folder: Path) -> dict[str, list[Path]]:
    """Name -> photos, for a folder that holds one folder per person, named after them.

    Raises EnrollError if there is no such folder in it, GalleryError for one whose name cannot be
    a person's.
    """
    people: dict[str, list[Path]] = {}
    try:
        for inner in sorted(folder.iterdir()):
            if inner.is_dir() and not inner.name.startswith((".", "@")):  # @: thumbnails of file servers
                photos = sorted(file for file in inner.iterdir() if is_shown(file))
                if photos:
                    people.setdefault(clean_name(inner.name), []).extend(photos)
                else:
                    log.warning("%s holds no photos of a kind that can be read (%s): nobody is enrolled from it.",
                                inner, ", ".join(sorted(SUFFIXES)))
    except OSError as error:
        raise EnrollError(f"The folder {error.filename} cannot be read: {error.strerror}.") from error
    except GalleryError as error:
        raise GalleryError(f"In {folder}: {error}") from None
    if not people:
        raise EnrollError(
            f"The folder {folder} holds no folders with photos: make one per person, named after them."
        )
    return people


def _candidate(
    photo: Path,
    *,
    name: str,
    others: list[_Candidate],
    model: Model,
    gallery: Gallery,
    threshold: float,
    quality: float,
) -> _Candidate | None:
    """What could be enrolled; none if it is already. Raises _Refusal and PictureError."""
    stored = gallery.templates(name)
    sha256 = _sha256(photo)
    if any(old.sha256 == sha256 for old in stored):
        return None
    if any(other.sha256 == sha256 for other in others):
        return None
    face = _face(read_picture(photo), model, quality)
    embedding = face.embeddings[0]
    known = [(old.source, old.embedding) for old in stored]
    known += [(other.photo.name, other.embedding) for other in others]
    for source, twin in known:
        if float(embedding @ twin) >= SAME_PHOTO:
            raise _Refusal(f"is the same photo as {source}, saved again: it adds nothing")
    match = gallery.match(face.embeddings)[0]
    if match.name not in (None, name) and match.similarity >= threshold:
        raise _Refusal(
            f"looks like {match.name}, who is enrolled (similarity {match.similarity:.2f}): if they are one "
            f"person, keep one of the two names; if not, take a clearer photo"
        )
    return _Candidate(photo, sha256, embedding, float(face.quality[0]), _side(face.boxes[0]))


def _sha256(photo: Path) -> str:
    try:
        with photo.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _Refusal(f"cannot be read: {error.strerror}") from None


def looks_away(landmarks: Floats) -> bool:
    """Whether a face (5, 2) is turned or tilted too far for others to be known by it; see TURNED and TILTED."""
    turn, tilt = _pose(landmarks)
    return abs(turn) > TURNED or not TILTED[0] <= tilt <= TILTED[1]


def _face(image: Image, model: Model, quality: float) -> Faces:
    """The one face that `image` is a photo of. Raises _Refusal."""
    faces = model(image)
    if not len(faces):
        # Users of face projects keep faces cut out tightly, and no detector knows a face
        # without its surroundings, or one that fills its view.
        image = _no_larger(image, LARGEST / max(image.shape[:2]))
        height, width = image.shape[:2]
        image, _ = _around(image, np.array([0, 0, width, height], np.float32), VIEW)
        faces = model(image)
    if not len(faces):
        raise _Refusal("shows no face that can be made out")
    sizes = np.sqrt(np.prod(faces.boxes[:, 2:] - faces.boxes[:, :2], axis=1))
    sure = faces.scores >= CERTAIN * faces.scores.max()
    if sizes[~sure].max(initial=0) > sizes[sure].max():  # or a bystander would be enrolled in its place
        raise _Refusal("shows a face, and a larger one that is hard to make out: cut it down to the one that is meant")
    faces, sizes = faces.take(sure), sizes[sure]
    rows = np.argsort(-sizes)
    rivals = int(np.sum(sizes > sizes[rows[0]] / ALONE))
    if rivals > 1:
        raise _Refusal(f"shows {rivals} faces of like size: cut it down to the one that is meant")
    face = faces.take(rows[:1])
    smaller = LARGEST / float(max(face.boxes[0, 2:] - face.boxes[0, :2]))
    if smaller < 1:
        image = _no_larger(image, smaller)
        face.boxes[:], face.landmarks[:] = face.boxes * smaller, face.landmarks * smaller
    face = _again(image, face, model)
    box, landmarks = face.boxes[0], face.landmarks[0]
    if _side(box) < SMALLEST:
        raise _Refusal(f"shows a face of {_side(box)} pixels, and at least {SMALLEST} are needed")
    if looks_away(landmarks):
        raise _Refusal("shows a face that looks away: take one that looks into the camera")
    if _sharpness(image, box) < SHARP:
        raise _Refusal("shows a blurred face: take a sharper photo")
    if face.quality[0] < quality:
        raise _Refusal(f"is of little use (quality {face.quality[0]:.2f}, at least {quality:.2f} is needed)")
    return replace(face, embeddings=_described(image, face, model))


def closely(image: Image, face: Faces, model: Model) -> Faces:
    """One face of a picture (height, width, 3), described as on a photo by which somebody is enrolled.

    It is looked at again from near, and what is told of it is the mean of many looks; its place stays as it was told.
    Of UTKFace's held-out pictures the gender is then right in 94.4 of 100, by the first look from near in 94.0, and
    ages are 5.6 years off and not 5.8.
    """
    smaller = min(1.0, LARGEST / float(max(face.boxes[0, 2:] - face.boxes[0, :2])))
    image, scale = _no_larger(image, smaller), np.float32(smaller)
    near = _again(image, replace(face, boxes=face.boxes * scale, landmarks=face.landmarks * scale), model)
    looks = _looks(image, near, model)
    embeddings = _mean(looks) if looks else near.embeddings
    means = {name: np.mean([getattr(look, name) for look in looks or [near]], axis=0) for name in TRAITS}
    return replace(near, embeddings=embeddings, boxes=face.boxes, landmarks=face.landmarks, **means)


def _no_larger(image: Image, scale: float) -> Image:
    """The picture, made smaller where `scale` is under 1."""
    if scale >= 1:
        return image
    return np.asarray(cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)


def _again(image: Image, face: Faces, model: Model) -> Faces:
    """The same face, looked at again from the distance at which the network knows faces best.

    A photo is scaled to the network's input: what is 300 pixels wide in a telephone's photo may
    have been 40 to it, and a portrait's face larger than any that it was trained on.
    """
    box = face.boxes[0]
    view, corner = _around(image, box, VIEW)
    scale = min(1.0, KNOWN / float(max(box[2:] - box[:2])))
    side = round(len(view) * scale)
    faces = model(np.asarray(cv2.resize(view, (side, side), interpolation=cv2.INTER_AREA), np.uint8))
    faces.boxes[:] = faces.boxes / scale + np.concatenate([corner, corner])
    faces.landmarks[:] = faces.landmarks / scale + corner
    overlap = overlaps(faces.boxes, box)
    if not len(faces) or overlap.max() < 0.4:
        return face
    return faces.take([int(overlap.argmax())])


def _described(image: Image, face: Faces, model: Model) -> Floats:
    """(1, D) of unit length: the mean of what the looks at the face say of it."""
    looks = _looks(image, face, model)
    return _mean(looks) if looks else face.embeddings


def _mean(looks: Sequence[Faces]) -> Floats:
    mean = np.mean([look.embeddings for look in looks], axis=0)
    template: Floats = mean / max(float(np.linalg.norm(mean)), 1e-6)
    return template


def _looks(image: Image, face: Faces, model: Model) -> list[Faces]:
    """The face as each of LOOKS shows it, as far as it is found there. No look enlarges it."""
    box = face.boxes[0]
    view, corner = _around(image, box, SURROUNDED)
    looks, places = [], []
    for scale in sorted({min(1.0, size * _TALL / float(max(box[2:] - box[:2]))) for size in LOOKS}, reverse=True):
        side = round(len(view) * scale)
        small = np.asarray(cv2.resize(view, (side, side), interpolation=cv2.INTER_AREA), np.uint8)
        left, top, right, bottom = ((box - np.concatenate([corner, corner])) * scale).tolist()
        looks += [small, small[:, ::-1]]
        places += [(left, top, right, bottom), (side - right, top, side - left, bottom)]
    told = []
    for picture, laid in _laid(looks, model.size):
        faces = model(picture)
        for number, x, y in laid:
            overlap = overlaps(faces.boxes, np.array(places[number], np.float32) + np.array([x, y, x, y], np.float32))
            if len(faces) and overlap.max() >= 0.4:
                told.append(faces.take([int(overlap.argmax())]))
    return told


def _laid(tiles: Sequence[Image], size: tuple[int, int]) -> Iterator[tuple[Image, list[tuple[int, int, int]]]]:
    """Pictures of at most `size` with square tiles in rows, the largest come first; and the number, x and y of each.

    As many on one as fit, so that one call of the network sees them all: the daemon's frames wait for it.
    """
    width, height = size
    laid: list[tuple[int, int, int]] = []
    x = y = low = 0  # low: where the next row begins
    for number, tile in enumerate(tiles):
        if x + len(tile) > width:
            x, y = 0, low
        if laid and y + len(tile) > height:
            yield _picture(tiles, laid), laid
            laid, x, y, low = [], 0, 0, 0
        laid.append((number, x, y))
        x, low = x + len(tile), max(low, y + len(tile))
    yield _picture(tiles, laid), laid


def _picture(tiles: Sequence[Image], laid: Sequence[tuple[int, int, int]]) -> Image:
    right, bottom = np.max([(x + len(tiles[number]), y + len(tiles[number])) for number, x, y in laid], axis=0)
    picture = np.full((bottom, right, 3), 114, np.uint8)
    for number, x, y in laid:
        picture[y : y + len(tiles[number]), x : x + len(tiles[number])] = tiles[number]
    return picture


_TALL = (FACE_BOX[3] - FACE_BOX[1]) / TEMPLATE_SIZE
"""Height of a face's box, in sizes of the face."""


def _around(image: Image, box: Floats, times: float) -> tuple[Image, Floats]:
    """The square around a box, `times` its longer side, grey where the picture ends; its corner (x, y)."""
    side = max(1, round(times * float(max(box[2:] - box[:2]))))
    left, top = np.round((box[:2] + box[2:] - side) / 2).astype(int).tolist()
    height, width = image.shape[:2]
    square = np.full((side, side, 3), 114, np.uint8)
    inside = image[max(top, 0) : min(top + side, height), max(left, 0) : min(left + side, width)]
    y, x = max(-top, 0), max(-left, 0)
    square[y : y + inside.shape[0], x : x + inside.shape[1]] = inside
    return square, np.array([left, top], np.float32)


def _side(box: Floats) -> int:
    return round(float(min(box[2:] - box[:2])))


def overlaps(boxes: Floats, box: Floats) -> Floats:
    """(N,) intersection over union of boxes (N, 4) with a box (4,)."""
    low, high = np.maximum(boxes[:, :2], box[:2]), np.minimum(boxes[:, 2:], box[2:])
    both = np.prod(np.clip(high - low, 0, None), axis=1)
    each = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    overlap: Floats = both / np.maximum(each + np.prod(box[2:] - box[:2]) - both, 1e-6)
    return overlap


def _pose(landmarks: Floats) -> tuple[float, float]:
    """Turn and tilt of a face (5, 2), whichever way up it is: see TURNED and TILTED."""
    left, right, nose = landmarks[:3]
    eyes, mouth = (left + right) / 2, (landmarks[3] + landmarks[4]) / 2
    across = right - left
    distance = max(float(np.linalg.norm(across)), 1e-6)
    across = across / distance
    down = np.array([-across[1], across[0]])
    turn = float((nose - eyes) @ across) / distance
    tilt = float((nose - eyes) @ down) / max(float((mouth - eyes) @ down), 1e-6)
    return turn, tilt


def _sharpness(image: Image, box: Floats) -> float:
    """Share of detail of one pixel's width in the face at SMALLEST pixels; the lesser direction's.

    At that size, so that a large face need only be as sharp as the smallest that is
    accepted. The lesser of the two, because a moved camera blurs one.
    """
    square, _ = _around(image, box, 1.0)
    small = cv2.resize(square, (SMALLEST, SMALLEST), interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)
    inner = grey[1:-1, 1:-1]
    across = grey[1:-1, 2:] - 2 * inner + grey[1:-1, :-2]
    down = grey[2:, 1:-1] - 2 * inner + grey[:-2, 1:-1]
    contrast = max(float(grey.var()), 25.0)  # a grey wall has little of anything
    return min(float(across.var()), float(down.var())) / contrast
