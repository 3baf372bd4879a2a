"""Two TFLite runtimes, one FaceModel: ai-edge-litert here, tflite-runtime in an environment of its own.

The two round differently where ai-edge-litert has faster kernels (XNNPACK) and tflite-runtime has not, so
faces are first compared with those kernels off, exactly, and then as users get them, nearly.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import fields
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType  # type: ignore[import-untyped]
from numpy.typing import NDArray

from clip import EILEEN, FACES, GRACE
from environment import LOCKS, REPOSITORY, environment, some_of
from onelook import spec
from onelook.face import Faces, Floats
from onelook.model import FaceModel, shipped
from onelook.picture import read_picture

pytestmark = pytest.mark.timeout(600)  # the first time, packages are installed

PORTRAITS = (EILEEN, GRACE)
HEIGHT = 96
"""Of the face, in pixels: as cameras show it, and as the network was taught."""
NEEDED = (
    "annotated-types", "numpy", "opencv-python-headless", "pydantic", "pydantic-core", "tflite-runtime",
    "typing-extensions", "typing-inspection",
)  # fmt: skip
"""What finding faces takes; the rest of the daemon is not in that environment."""

SCRIPT = """
import sys
from dataclasses import fields
import numpy as np
from onelook.model import FaceModel

pictures, model = np.load(sys.argv[1]), FaceModel()
assert "tflite_runtime" in sys.modules and "ai_edge_litert" not in sys.modules and np.__version__ < "2"
found = {}
for name in pictures:
    faces = model(pictures[name])
    found |= {f"{name}.{each.name}": getattr(faces, each.name) for each in fields(faces)}
np.savez(sys.argv[2], **found)
"""

Image = NDArray[np.uint8]


@pytest.fixture(scope="module")
def pictures() -> dict[str, Image]:
    whole = {portrait: read_picture(portrait) for portrait in PORTRAITS}
    return {
        portrait.stem: np.asarray(
            cv2.resize(picture, None, fx=scale(portrait), fy=scale(portrait), interpolation=cv2.INTER_AREA), np.uint8
        )
        for portrait, picture in whole.items()
    }


def scale(portrait: Path) -> float:
    return HEIGHT / FACES[portrait][3]


def face(portrait: Path) -> Floats:
    """Where the face is on the picture, as xyxy."""
    x, y, width, height = FACES[portrait]
    return np.array([x, y, x + width, y + height], np.float32) * np.float32(scale(portrait))


@pytest.fixture(scope="module")
def by_tflite_runtime(pictures: dict[str, Image], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Faces]:
    python = sys.executable if sys.version_info[:2] == (3, 11) else shutil.which("python3.11")
    if python is None:
        pytest.skip("tflite-runtime needs Python 3.11, which is not here")
    own = environment("tflite-runtime", some_of((LOCKS / "tflite-runtime.lock").read_text(), NEEDED), python)
    folder = tmp_path_factory.mktemp("found")
    np.savez(folder / "pictures.npz", **pictures)  # type: ignore[arg-type]  # the stubs take any name for an option
    done = subprocess.run(
        [own, "-c", SCRIPT, folder / "pictures.npz", folder / "found.npz"],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY / "daemon")}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = np.load(folder / "found.npz")
    return {name: Faces(**{each.name: found[f"{name}.{each.name}"] for each in fields(Faces)}) for name in pictures}


def overlap(one: Floats, other: Floats) -> Floats:
    """Intersection over union of boxes (N, 4) with boxes (M, 4), as (N, M)."""
    low, high = np.maximum(one[:, None, :2], other[:, :2]), np.minimum(one[:, None, 2:], other[:, 2:])
    both = np.clip(high - low, 0, None).prod(-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(-1) for boxes in (one, other)]
    return np.asarray(both / (areas[0][:, None] + areas[1] - both), np.float32)


def step() -> float:
    """One step of int8 of the places, where it is coarsest, in pixels."""
    outputs = Interpreter(str(shipped() / "model.tflite")).get_signature_runner("frame").get_output_details()
    strides = spec.load(shipped())[0].detector.strides
    return max(float(outputs[f"place{level}"]["quantization"][0]) * stride for level, stride in enumerate(strides))


def test_with_the_same_kernels_both_runtimes_see_exactly_the_same(
    pictures: dict[str, Image], by_tflite_runtime: dict[str, Faces]
) -> None:
    plain = partial(Interpreter, experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
    model = FaceModel(runtime=plain)
    for name, picture in pictures.items():
        faces = model(picture)

        assert len(faces) > 0, name
        for each in fields(Faces):
            # The last bits of float32 are numpy's, of which there are two versions here.
            np.testing.assert_allclose(
                getattr(faces, each.name), getattr(by_tflite_runtime[name], each.name),
                rtol=1e-4, atol=1e-5, err_msg=f"{name}: {each.name}",
            )  # fmt: skip


def test_as_installed_both_runtimes_find_and_describe_the_same_person(
    pictures: dict[str, Image], by_tflite_runtime: dict[str, Faces]
) -> None:
    model = FaceModel()
    for portrait in PORTRAITS:
        here, there = model(pictures[portrait.stem]), by_tflite_runtime[portrait.stem]

        clear = model.score + 0.15  # what is nearer to the threshold may fall on either side of it
        for these, those in ((here, there), (there, here)):
            again = overlap(these.boxes, those.boxes).max(1)
            assert (again[these.scores > clear] > 0.8).all(), f"{portrait.stem}: a face that one alone finds"
        one, other = (int(overlap(face(portrait)[None], faces.boxes)[0].argmax()) for faces in (here, there))
        # One step of int8 is 3 % of a box's size, which moves one side alone by more than 2 pixels; all sides by 2
        # would be an overlap of 0.92.
        common = float(overlap(here.boxes[one][None], there.boxes[other][None])[0, 0])
        assert common > 0.95, f"{portrait.stem}: boxes overlap by {common}"
        apart = abs(here.landmarks[one] - there.landmarks[other]).max()
        assert apart <= 1.01 * step(), f"{portrait.stem}: landmarks are {apart} pixels apart"
        alike = float(here.embeddings[one] @ there.embeddings[other])
        assert alike > 0.95, f"{portrait.stem}: similarity {alike}"
