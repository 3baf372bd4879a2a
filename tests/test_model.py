"""The network through FaceModel, on photographs: whose faces it finds, and what it must never choke on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Any

import cv2
import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from clip import EILEEN, FACES, GRACE, LANDMARKS, head
from onelook import align
from onelook import model as model_module
from onelook.decode import Quantisation
from onelook.face import Faces
from onelook.model import FaceModel, ModelError, _Map, _Tensor, shipped
from onelook.picture import read_picture
from onelook.spec import Map, load

Image = NDArray[np.uint8]


@pytest.fixture(scope="module")
def model() -> FaceModel:
    return FaceModel()


@pytest.fixture(scope="module")
def crowd() -> Image:
    """Twenty heads in four rows: more than the network describes at once."""
    canvas = np.full((480, 640, 3), 110, np.uint8)
    for place in range(20):
        picture = head((EILEEN, GRACE)[place % 2], 112)
        x, y = 128 * (place % 5), 4 + 120 * (place // 5)
        canvas[y : y + 112, x : x + picture.shape[1]] = picture
    return canvas


def overlap(one: NDArray[np.float32], other: tuple[float, ...]) -> float:
    """Intersection over union of two boxes xyxy."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    both = max(0.0, float(width)) * max(0.0, float(height))
    areas = (one[2] - one[0]) * (one[3] - one[1]) + (other[2] - other[0]) * (other[3] - other[1])
    return both / (float(areas) - both)


def assert_found(boxes: NDArray[np.float32], box: tuple[float, ...]) -> None:
    assert max((overlap(each, box) for each in boxes), default=0) > 0.5, boxes


def known_box(portrait: Path) -> tuple[float, ...]:
    x, y, w, h = FACES[portrait]
    return x, y, x + w, y + h


def head_box(place: int) -> tuple[float, ...]:
    """Where the face of that head of the crowd is: the middle of it (see clip.head)."""
    x, y = 128 * (place % 5), 4 + 120 * (place // 5)
    width = 112 * FACES[(EILEEN, GRACE)[place % 2]][2] / FACES[(EILEEN, GRACE)[place % 2]][3]
    return x + width / 4, y + 28, x + width * 3 / 4, y + 84


def assert_sound(faces: Faces, most: int = 200) -> None:
    """Every array has a row for each face, and every number is one that it can be."""
    count = len(faces)
    assert count <= most
    for each in fields(faces):
        array = getattr(faces, each.name)
        assert len(array) == count, each.name
        assert array.dtype == np.float32, each.name
        assert np.isfinite(array).all(), each.name
    assert faces.boxes.shape == (count, 4)
    assert faces.landmarks.shape == (count, 5, 2)
    assert (faces.boxes[:, 2:] > faces.boxes[:, :2]).all()
    np.testing.assert_allclose(np.linalg.norm(faces.embeddings, axis=1), 1, atol=1e-4)
    for name in ("ethnicity", "emotion"):
        np.testing.assert_allclose(getattr(faces, name).sum(1), 1, atol=1e-4)
    for name in ("scores", "attributes", "gender", "ethnicity", "emotion", "quality"):
        values = getattr(faces, name)
        assert ((values >= 0) & (values <= 1)).all(), name
    assert ((faces.age >= 0) & (faces.age <= 110)).all()
    assert (np.diff(faces.scores) <= 0).all()  # best first


# --- whom it finds -------------------------------------------------------------------------------


@pytest.mark.parametrize("portrait", [EILEEN, GRACE], ids=lambda path: path.stem)
def test_it_is_surest_of_the_face_of_a_portrait_and_knows_where_it_is(model: FaceModel, portrait: Path) -> None:
    faces = model(read_picture(portrait))

    assert_sound(faces)
    assert len(faces) == 1
    assert overlap(faces.boxes[0], known_box(portrait)) > 0.5
    points = np.array(LANDMARKS[portrait], np.float32)
    between_eyes = np.linalg.norm(points[1] - points[0])
    assert np.linalg.norm(faces.landmarks[0] - points, axis=1).max() < 0.15 * between_eyes


def test_it_tells_two_people_apart_and_knows_one_again(model: FaceModel) -> None:
    def look(portrait: Path, height: int) -> NDArray[np.float32]:
        faces = model(head(portrait, height))
        assert len(faces) >= 1
        return faces.embeddings[0]

    threshold = model.spec.threshold(1e-3)

    assert look(EILEEN, 180) @ look(EILEEN, 160) > threshold
    assert look(GRACE, 180) @ look(GRACE, 160) > threshold
    assert look(EILEEN, 180) @ look(GRACE, 180) < threshold


@pytest.mark.parametrize("size", [(320, 256), (1280, 736)])
@pytest.mark.parametrize("portrait", [EILEEN, GRACE], ids=lambda path: path.stem)
def test_the_same_file_looks_at_other_sizes(portrait: Path, size: tuple[int, int]) -> None:
    faces = FaceModel(size=size)(read_picture(portrait))

    assert_sound(faces)
    assert_found(faces.boxes, known_box(portrait))


def test_a_crowd_is_described_in_batches_as_it_would_be_one_by_one(crowd: Image) -> None:
    everybody = FaceModel()(crowd)

    assert_sound(everybody)
    assert len(everybody) == 20
    found = [max(overlap(each, head_box(place)) for each in everybody.boxes) > 0.4 for place in range(20)]
    assert all(found)
    for most in (1, 5, 16, 17):  # less than a batch, a whole one, one more
        some = FaceModel(most=most)(crowd)
        assert len(some) == most
        for each in fields(some):
            np.testing.assert_array_equal(getattr(some, each.name), getattr(everybody, each.name)[:most])
    rows = np.arange(20) % 3 == 1
    asked: list[NDArray[np.float32]] = []
    some = FaceModel()(crowd, lambda boxes: asked.append(boxes) or rows)  # type: ignore[func-returns-value]
    np.testing.assert_array_equal(asked[0], everybody.boxes)
    np.testing.assert_array_equal(some.described, rows)
    for each in fields(some):
        whole, part = getattr(everybody, each.name), getattr(some, each.name)
        places = each.name in ("boxes", "scores", "landmarks", "sizes")
        np.testing.assert_array_equal(part[rows], whole[rows])
        np.testing.assert_array_equal(part[~rows], whole[~rows] if places else np.zeros_like(whole[~rows]))
    few = FaceModel()
    few.spec = few.spec.model_copy(update={"faces_at_once": 7})
    np.testing.assert_array_equal(few(crowd).embeddings, everybody.embeddings)
    # The same two heads all over: whichever batch a face came into, it looks like its own kind.
    alike = everybody.embeddings @ everybody.embeddings.T
    column = np.rint((everybody.boxes[:, 0] + everybody.boxes[:, 2]) / 256 - 0.5).astype(int)
    row = np.rint((everybody.boxes[:, 1] + everybody.boxes[:, 3]) / 240 - 0.5).astype(int)
    kind = (row * 5 + column) % 2
    same = kind[:, None] == kind[None, :]
    assert alike[same].mean() > alike[~same].mean() + 0.2


# --- pictures of every kind ----------------------------------------------------------------------


def test_a_grey_picture_has_faces_too(model: FaceModel, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "grey.png"), cv2.imread(str(GRACE), cv2.IMREAD_GRAYSCALE))

    faces = model(read_picture(tmp_path / "grey.png"))

    assert_sound(faces)
    assert_found(faces.boxes, known_box(GRACE))


def test_an_odd_sized_picture_has_its_face_where_it_was(model: FaceModel) -> None:
    picture = read_picture(EILEEN)[3:314, 5:400]  # 311x395, and not contiguous
    x1, y1, x2, y2 = known_box(EILEEN)

    faces = model(picture)

    assert_sound(faces)
    assert_found(faces.boxes, (x1 - 5, y1 - 3, x2 - 5, y2 - 3))


def test_a_huge_picture_is_scaled_down_and_its_boxes_back_up(model: FaceModel) -> None:
    picture = read_picture(GRACE)

    faces = model(np.asarray(cv2.resize(picture, None, fx=10, fy=10), np.uint8))

    assert_sound(faces)
    assert_found(faces.boxes / 10, known_box(GRACE))


@pytest.mark.parametrize("shape", [(1, 1), (1, 2000), (3000, 1), (2, 3), (31, 33)])
def test_a_picture_too_small_for_a_face_has_none(model: FaceModel, shape: tuple[int, int]) -> None:
    faces = model(np.full((*shape, 3), 77, np.uint8))

    assert_sound(faces)
    assert len(faces) == 0


@pytest.mark.parametrize("level", [0, 127, 255])
def test_an_empty_scene_has_no_faces(model: FaceModel, level: int) -> None:
    faces = model(np.full((480, 640, 3), level, np.uint8))

    assert_sound(faces)
    assert len(faces) == 0
    assert faces.embeddings.shape == (0, model.spec.embedding_size)


def test_nothing_of_a_picture_is_left_over_for_the_next(model: FaceModel) -> None:
    picture = read_picture(EILEEN)
    before = model(picture)

    assert len(model(np.full((20, 20, 3), 127, np.uint8))) == 0
    after = model(picture)

    for each in fields(before):
        np.testing.assert_array_equal(getattr(after, each.name), getattr(before, each.name))


# --- what can be asked of it ---------------------------------------------------------------------


def test_the_least_score_decides_who_counts(crowd: Image) -> None:
    counts = [len(FaceModel(score=score)(crowd)) for score in (0.05, 0.4, 0.999)]

    assert counts == sorted(counts, reverse=True)
    assert counts[1] > counts[2]


def test_each_stage_is_told_in_order(crowd: Image) -> None:
    stages: list[str] = []

    def stage(name: str) -> AbstractContextManager[None]:
        stages.append(name)
        return nullcontext()

    FaceModel(stage=stage)(crowd)

    assert stages == ["preprocess", "frame", "decode", "faces"]


def changed(folder: Path, change: Callable[[Any, Any], None], **spec: object) -> FaceModel:
    """The shipped network with a change to its first graph, as `change(network, graph)` makes it."""
    described, content = load(shipped())
    network = schema.ModelT.InitFromPackedBuf(content, 0)
    for buffer in network.buffers:  # large ones lie behind the tables
        if buffer.data is None and buffer.size:
            buffer.data = np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    change(network, network.subgraphs[0])
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(network.Pack(builder), b"TFL3")
    made = bytes(builder.Output())
    (folder / "model.tflite").write_bytes(made)
    (folder / "model.json").write_text(
        described.model_copy(update={"sha256": hashlib.sha256(made).hexdigest(), "cohort": None, **spec}
                             ).model_dump_json())
    return FaceModel(folder)


def test_a_network_may_take_pixels_one_by_one(tmp_path: Path, crowd: Image, model: FaceModel) -> None:
    """The shipped one takes the same bytes in cells of four pixels, as suits a convolution with a large stride."""
    assert model._image.shape == (1, 480, 160, 12)

    def narrow(network: Any, graph: Any) -> None:
        single, reshape, code = schema.TensorT(), schema.OperatorT(), schema.OperatorCodeT()
        wide = int(graph.inputs[0])
        single.shape, single.type, single.buffer = [1, 480, 640, 3], graph.tensors[wide].type, 0
        single.name, single.quantization = "single", graph.tensors[wide].quantization
        graph.tensors.append(single)
        shape, data = schema.TensorT(), schema.BufferT()
        data.data = np.frombuffer(np.array([1, 480, 160, 12], np.int32).tobytes(), np.uint8)
        network.buffers.append(data)
        shape.shape, shape.type, shape.buffer = [4], schema.TensorType.INT32, len(network.buffers) - 1
        graph.tensors.append(shape)
        code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.RESHAPE
        network.operatorCodes.append(code)
        reshape.opcodeIndex = len(network.operatorCodes) - 1
        reshape.inputs, reshape.outputs = [len(graph.tensors) - 2, len(graph.tensors) - 1], [wide]
        graph.operators.insert(0, reshape)
        graph.inputs = [len(graph.tensors) - 2]
        signature = next(s for s in network.signatureDefs if s.signatureKey == b"frame")
        signature.inputs[0].tensorIndex = graph.inputs[0]

    found, wanted = changed(tmp_path, narrow, patches=[])(crowd), model(crowd)

    for each in fields(found):
        assert np.array_equal(getattr(found, each.name), getattr(wanted, each.name))


def test_faces_may_be_read_from_several_maps(tmp_path: Path, crowd: Image, model: FaceModel) -> None:
    """A second map that nobody uses comes and goes beside the first, and changes nothing."""
    def double(network: Any, graph: Any) -> None:
        frame, faces = network.signatureDefs
        assert (frame.signatureKey, faces.signatureKey) == (b"frame", b"faces")
        features = next(out for out in frame.outputs if out.name == b"features")
        more, given, tensor = schema.TensorMapT(), schema.TensorMapT(), schema.TensorT()
        more.name, more.tensorIndex = "more", features.tensorIndex
        frame.outputs.append(more)
        head = network.subgraphs[faces.subgraphIndex]
        aligned = head.tensors[head.inputs[0]]
        tensor.shape, tensor.type, tensor.quantization = aligned.shape, aligned.type, aligned.quantization
        tensor.name, tensor.buffer = "more", 0
        head.tensors.append(tensor)
        head.inputs = [int(head.inputs[0]), len(head.tensors) - 1]
        faces.inputs[0].name = "features"
        given.name, given.tensorIndex = "more", head.inputs[1]
        faces.inputs.append(given)

    maps = model.spec.maps | {"more": model.spec.maps["features"]}
    found, wanted = changed(tmp_path, double, maps=maps)(crowd), model(crowd)

    for each in fields(found):
        assert np.array_equal(getattr(found, each.name), getattr(wanted, each.name))
    with pytest.raises(ModelError, match=r"maps.more.stride should be 4, not 8"):
        changed(tmp_path, double, maps=maps | {"more": Map(stride=8, channels=40, samples=14)})


def test_a_network_of_other_dimensions_is_refused(tmp_path: Path) -> None:
    def flat(network: Any, graph: Any) -> None:
        graph.tensors[graph.inputs[0]].shape = [480, 640, 3]

    with pytest.raises(ModelError, match="dimensions"):
        changed(tmp_path, flat)


def test_a_network_may_take_pixels_in_any_scale(tmp_path: Path, crowd: Image, model: FaceModel) -> None:
    """The shipped one takes them as they are, less 128, which costs no look-up."""
    def other(_: Any, graph: Any) -> None:
        graph.tensors[graph.inputs[0]].quantization.scale = np.array([2 / 255], np.float32)

    scaled = changed(tmp_path, other, input_mean=127.0, input_scale=2 / 255)
    ramp = np.resize(np.arange(256, dtype=np.uint8), (480, 640, 3))
    for each, stored in ((model, ramp - 128.0), (scaled, np.minimum(ramp - 127.0, 127))):
        each._preprocess(ramp)
        assert np.array_equal(each._frame.lies(each._image).reshape(480, 640, 3), stored)
    found, wanted = scaled(crowd), model(crowd)
    assert len(found) == len(wanted)
    assert np.median((found.embeddings * wanted.embeddings).sum(1)) > 0.9  # half a grey level apart


@pytest.mark.parametrize("size", [(640, 470), (100, 96), (32, 32), (0, 0)])
def test_an_input_size_that_does_not_fit_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ModelError, match="both must be multiples of 32"):
        FaceModel(size=size)


def test_without_a_runtime_it_says_which_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_module, "RUNTIMES", ("no_such_runtime.interpreter",))

    with pytest.raises(ModelError, match="No TFLite runtime is installed: pip install ai-edge-litert"):
        FaceModel()


@pytest.mark.parametrize("becomes", [Quantisation(0.05, -128), Quantisation(0.04, -120), Quantisation(0.0, 0)])
def test_faces_are_read_off_a_map_as_it_is_stored(becomes: Quantisation) -> None:
    random, was = np.random.default_rng(3), Quantisation(0.05 if becomes.scale else 0.0, -128)
    numbers = random.integers(-128, 60, (30, 40, 8)).astype(np.int8)
    stored = numbers if was.scale else numbers.astype(np.float32)
    x, y = (random.uniform(-1, side, (3, 16)).astype(np.float32) for side in (40, 30))
    at = align.Grid(x, y, np.array([[0, 0], [0.5, -0.2], [0, 0]], np.float32))
    shape = Map(stride=4, channels=8, samples=4)
    each = _Map.between(shape, _Tensor(0, stored.dtype, stored.shape, was),
                        _Tensor(1, stored.dtype, (5, 4, 4, 8), becomes), 40)
    there = np.full((5, 4, 4, 8), 77, stored.dtype)

    each.fill(there, stored, at)
    each.fill(there, stored, at)  # in the room of before

    wanted = becomes.stored(align.sample(was.real(stored), at), stored.dtype)
    off = np.abs(there[:3].astype(float) - wanted.astype(float))
    # Rounded once, or where the numbers mean something else, once more.
    assert off.max() <= {0.05: 1, 0.04: 2, 0.0: 1e-5}[becomes.scale]
    assert off.mean() < 0.4
    assert (there[3:] == 77).all(), "no more than there are faces"
