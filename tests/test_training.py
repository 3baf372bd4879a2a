"""The training code end to end on a handful of pictures: pack, train, be killed, go on, export, run.

Needs what training needs (requirements/training.txt), which is too large for every test run:
`make test-training` makes an environment for it.
"""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest

from onelook import align
from onelook.align import similarity
from onelook.errors import OwnerError
from onelook.model import FaceModel
from onelook.spec import load

pytest.importorskip("torch", reason="training needs torch: make test-training")

ROOT = Path(__file__).parents[1]
PORTRAITS = ROOT / "daemon" / "onelook" / "portraits"
PATCH, MARGIN = 144, 16


def pack(out: Path, count: int = 24) -> Path:
    """The two portraits, found by the shipped network, aligned and packed `count` times with made-up labels."""
    random = np.random.default_rng(0)
    blobs, offsets, marks = [], [], []
    for name in ("grace_hopper.jpg", "eileen_collins.jpg"):
        image = cv2.imread(str(PORTRAITS / name))
        shrunk = cv2.resize(image, None, fx=320 / max(image.shape), fy=320 / max(image.shape))
        faces = FaceModel(threads=1)(shrunk[:, :, ::-1])
        where = faces.landmarks[:1]
        lay = similarity(where)[0]  # template to pixels
        turn = np.linalg.inv(lay[:, :2])
        shift = MARGIN - turn @ lay[:, 2]
        patch = cv2.warpAffine(shrunk, np.column_stack([turn, shift]), (PATCH, PATCH))
        marks.append(where[0] @ turn.T + shift)
        blobs.append(cv2.imencode(".jpg", patch)[1].tobytes())
    data = bytearray()
    for i in range(count):
        offsets.append(len(data))
        data += blobs[i % 2]
    teacher = random.normal(size=(count, 256)).astype(np.float16)  # or those that are held out would be learnt from too
    teacher /= np.linalg.norm(teacher.astype(np.float32), axis=1, keepdims=True)
    which = np.arange(count) % 2
    out.with_suffix(".bin").write_bytes(data)
    np.savez(
        out.with_suffix(".npz"), offset=np.array(offsets), length=np.array([len(blobs[i]) for i in which]),
        landmarks=np.array(marks)[which].astype(np.float16), teacher=teacher, age=np.full(count, 40),
        attributes=np.where(random.random((count, 40)) < 0.5, 1, -1).astype(np.int8), male=np.zeros(count, np.int8),
        ethnicity=np.zeros(count, np.int8), emotion=which.astype(np.int8), identity=which.astype(str),
        attribute_names=np.array([f"a{i}" for i in range(40)]), source=np.full(count, "portraits"),
        split=np.where(np.arange(count) < count - 4, "train", "test"),
    )
    return out.with_suffix(".npz")


def scenes(folder: Path) -> Path:
    """A street of two portraits, with the boxes of the shipped network."""
    folder.mkdir()
    rows = []
    for i in range(3):
        street = np.full((320, 480, 3), 90 + 20 * i, np.uint8)
        for k, name in enumerate(("grace_hopper.jpg", "eileen_collins.jpg")):
            image = cv2.imread(str(PORTRAITS / name))
            small = cv2.resize(image, None, fx=200 / image.shape[0], fy=200 / image.shape[0])[:, :220]
            street[60:60 + small.shape[0], 10 + 230 * k:10 + 230 * k + small.shape[1]] = small
        cv2.imwrite(str(folder / f"{i}.jpg"), street)
        faces = FaceModel(threads=1)(street[:, :, ::-1])
        rows.append({
            "file": f"{i}.jpg", "width": 480, "height": 320, "ignore": [[0, 0, 5, 5]], "source": "streets",
            "faces": [{"box": box.tolist(), "score": 0.9, "landmarks": points.tolist()}
                      for box, points in zip(faces.boxes, faces.landmarks, strict=True)],
        })
    (folder / "labels.json").write_text(json.dumps(rows))
    return folder


def command(module: str, *words: str | Path) -> subprocess.Popen[str]:
    """A training tool in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", f"edge_models.training.{module}", *map(str, words)], cwd=ROOT, text=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'daemon'}:{ROOT}"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )


def finish(module: str, *words: str | Path) -> None:
    """Run a training tool to its end, which is to be a good one."""
    running = command(module, *words)
    said = running.communicate(timeout=200)[0]
    assert running.returncode == 0, said


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with packed faces, a street, and what was decoded of them."""
    folder = tmp_path_factory.mktemp("training")
    pack(folder / "faces")
    scenes(folder / "scenes")
    return folder


@pytest.mark.timeout(300)
def test_a_run_survives_a_kill_and_becomes_a_model_that_the_daemon_loads(packed: Path, tmp_path: Path) -> None:
    pytest.importorskip("litert_torch", reason="export needs litert-torch: make test-training")
    import torch  # noqa: PLC0415  only here when it is installed

    faces, street, run = packed / "faces.npz", packed / "scenes", tmp_path / "run"
    words = (run, "--scenes", street, "--cache", packed / "cache", "--plans", "tiny",
             "--threads", "1", "--warm", "2", "--decay", "4", "--save-every", "2")

    first = command("train", *words, "--faces", faces, "--steps", "1000")
    # It goes on as on another machine: with the faces in pieces.
    cut = command("shard", tmp_path / "pieces", faces)
    patience = time.monotonic() + 120
    while not (run / "last.pt").exists() and time.monotonic() < patience and first.poll() is None:
        time.sleep(0.1)
    first.send_signal(signal.SIGKILL)
    said = first.communicate()[0]
    assert (run / "last.pt").exists(), said
    said = cut.communicate(timeout=100)[0]
    assert cut.returncode == 0, said
    pieces = tmp_path / "pieces" / "faces-00.npz"
    before, after = np.load(faces), np.load(pieces)
    assert sorted(after["identity"]) == sorted(before["identity"]), "both its faces and those it holds out"
    assert (after["split"] == "test").sum() == 4

    kept = torch.load(run / "last.pt", weights_only=True)["step"]
    finish("train", *words, "--faces", pieces, "--steps", str(kept + 4))
    done = torch.load(run / "last.pt", weights_only=True)
    assert done["step"] == kept + 4
    assert all(torch.isfinite(v).all() for v in done["average"].values())
    with (run / "log.csv").open() as table:
        assert any("held out" in row for row in csv.reader(table))
    if find_spec("tensorboard"):
        told = b"".join(file.read_bytes() for file in run.glob("events.out.tfevents.*"))
        assert b"held out/cosine" in told

    made = export(run, tmp_path / "model", packed)
    model = FaceModel(made.parent, threads=1, score=0.0, most=5)
    seen = model(cv2.imread(str(PORTRAITS / "grace_hopper.jpg"))[:, :, ::-1])
    assert len(seen) == 5
    assert np.allclose(np.linalg.norm(seen.embeddings, axis=1), 1, atol=1e-3)


def export(run: Path, out: Path, packed: Path, *words: str | Path) -> Path:
    """The network of a run, exported: its model.tflite."""
    finish("export", run, out, "--faces", packed / "faces.npz", "--scenes", packed / "scenes",
           "--cache", packed / "cache", "--frames", "3", "--steps", "3", *words)
    return out / "model.tflite"


def untrained(run: Path) -> Path:
    """A run that ends where it begins."""
    import torch  # noqa: PLC0415
    from edge_models.training.network import OneLook  # noqa: PLC0415

    torch.manual_seed(1)
    run.mkdir()
    network = OneLook()
    for name, figure in network.named_buffers():  # as if it had been learnt, but for the reading that it may lack
        if name.endswith("running_mean") and not name.startswith("again."):
            figure.normal_(0, 1e-3)
    torch.save({"average": network.state_dict(), "step": 1, "seen": 1000}, run / "last.pt")
    (run / "run.json").write_text(json.dumps({"commit": "c" * 40, "seed": 1, "faces": ["faces.npz"]}))
    return run


@pytest.mark.timeout(300)
def test_a_branch_learns_alone_goes_on_where_it_was_and_leaves_the_rest_as_it_is(packed: Path, tmp_path: Path) -> None:
    import torch  # noqa: PLC0415

    run = untrained(tmp_path / "run")
    (run / "run.json").write_text(json.dumps({"faces": ["more.npz"]}))
    alone = ("--faces", packed / "faces.npz", "--cache", packed / "cache", "--threads", "1")
    finish("head", "keep", tmp_path / "kept", *alone, "--weights", run / "last.pt", "--scenes", packed / "scenes",
           "--plans", "tiny", "--count", "96")
    assert np.load(tmp_path / "kept" / "maps.npy").any(axis=(1, 2, 3)).all(), "all rows are filled"
    before = run
    for branch, parts, stops in (
        ("identity", ("identity.",), (2, 4)), ("looks", ("looks.3.", "from_embedding."), (4,)),
        ("emotion", ("again.",), (4,)),
    ):  # fmt: skip
        for steps in stops:
            finish("head", "learn", tmp_path / branch, tmp_path / "kept", *alone, "--branch", branch,
                   "--weights", before / "last.pt", "--batch", "64", "--steps", str(steps))
        was, now = (torch.load(where / "last.pt", weights_only=True) for where in (before, tmp_path / branch))
        assert now["step"] == 4
        assert now["seen"] == was["seen"] + 4 * 64
        for name, value in now["average"].items():
            begins = branch == "emotion"  # whose norms have yet to find their figures
            learnt = name.startswith(parts) and (begins or "running" not in name) and "tracked" not in name
            assert torch.equal(value, was["average"][name]) != learnt, name
        before = tmp_path / branch
    told = json.loads((before / "run.json").read_text())
    assert told["faces"] == ["faces.npz", "more.npz"], "what it learnt from before is told too"
    assert told["scenes"] == ["scenes"]

    finish("blend", tmp_path / "blend", before, run)
    mixed, one, other = (torch.load(where / "last.pt", weights_only=True)["average"]["looks.3.weight"]
                         for where in (tmp_path / "blend", before, run))
    assert torch.allclose(mixed, (one + other) / 2, atol=1e-6)


@pytest.mark.timeout(300)
def test_a_network_that_tells_the_same_embeddings_serves_the_galleries_of_before(packed: Path, tmp_path: Path) -> None:
    """Though int8 holds them otherwise, as it learnt that from other frames."""
    pytest.importorskip("litert_torch", reason="export needs litert-torch: make test-training")
    import torch  # noqa: PLC0415

    run = untrained(tmp_path / "run")
    first = export(run, tmp_path / "model", packed)
    again = export(run, tmp_path / "again", packed, "--frames", "2", "--before", first.parent)
    assert again.read_bytes() != first.read_bytes()
    was, now = (load(file.parent)[0] for file in (first, again))
    assert now.embeddings == was.sha256
    assert now.training.data == was.training.data

    kept = torch.load(run / "last.pt", weights_only=True)
    kept["average"]["identity.5.0.weight"] = kept["average"]["identity.5.0.weight"].flip(0)
    torch.save(kept, run / "last.pt")
    other = export(run, tmp_path / "other", packed, "--frames", "2", "--before", first.parent)
    assert load(other.parent)[0].embeddings == "", "another embedding is nobody's of before"


def test_what_is_no_checkpoint_is_told_in_a_sentence(tmp_path: Path) -> None:
    from edge_models.training.network import checkpoint  # noqa: PLC0415

    (tmp_path / "last.pt").write_text("weights")

    with pytest.raises(OwnerError, match=r"last\.pt is no checkpoint: give the last\.pt of a run\.$"):
        checkpoint(tmp_path / "last.pt")


def test_faces_are_kept_from_wherever_they_lie(tmp_path: Path) -> None:
    """A GPU's memory, of which nothing can be read without copying it; "meta" has none that could be copied."""
    import torch  # noqa: PLC0415
    from edge_models.training.head import shelves  # noqa: PLC0415

    labels = {"teacher": torch.zeros(9, 256, dtype=torch.float16, device="meta"),
              "age": torch.zeros(9, dtype=torch.long, device="meta")}
    shelves(tmp_path, labels, 4)
    for name, shape, kind in (("teacher", (4, 256), np.float16), ("age", (4,), np.int64)):
        store = np.load(tmp_path / f"{name}.npy")
        assert (store.shape, store.dtype) == (shape, kind)


def test_what_is_held_out_is_not_learnt_from_under_another_name_and_namesakes_are(tmp_path: Path) -> None:
    from edge_models.training import data  # noqa: PLC0415
    from edge_models.training.shard import as_bytes  # noqa: PLC0415

    looks = np.eye(9, 256, dtype=np.float32)
    again = 0.92 * looks[2] + np.sqrt(1 - 0.92**2) * looks[8]  # smaller, or cut otherwise
    same_day = 0.84 * looks[2] + np.sqrt(1 - 0.84**2) * looks[8]
    nobody = np.zeros(256, np.float32)
    held = [("0001.jpg", "vgg/1", looks[0]), ("7.jpg", "celeba/7", looks[1]), ("8.jpg", "", looks[2]),
            ("9.jpg", "", nobody)]
    learnt = [
        ("0001.jpg", "vgg/2", looks[3], True),  # another's first picture
        ("0001.jpg", "vgg/1", looks[4], False), ("7.jpg", "celeba/7", looks[5], False), ("7.jpg", "", looks[5], False),
        ("8.jpg", "somebody", looks[6], False), ("men/8.jpg", "", again, False), ("men/9.jpg", "", same_day, True),
        ("10.jpg", "", nobody, True),
    ]  # fmt: skip
    tables = []
    for file, rows, split in (("held", held, "test"), ("learnt", learnt, "train")):
        columns = {name: np.array([row[i] for row in rows]) for i, name in enumerate(("name", "identity", "teacher"))}
        tables.append({"split": np.full(len(rows), split), **columns})
        np.savez(tmp_path / f"{file}.npz", **tables[-1])

    out = data.held_out([tmp_path / "held.npz", tmp_path / "learnt.npz"])
    assert data.of_split(tables[1], "train", out).tolist() == [row[3] for row in learnt]
    assert data.of_split(tables[0], "test", out).all()
    in_pieces = tables[1] | {"teacher": as_bytes(tables[1]["teacher"])}
    assert data.of_split(in_pieces, "train", out).tolist() == [row[3] for row in learnt]
    without = {"split": tables[1]["split"]}
    assert data.of_split(without, "train", out).all(), "of expressions nothing else is known"


def test_int8_is_learnt_to_lie_nearer_to_float_which_stays_as_it_is() -> None:
    pytest.importorskip("litert_torch", reason="export needs litert-torch: make test-training")
    import torch  # noqa: PLC0415
    from edge_models.training.export import Describe, Frame, by_cells, folded, stored  # noqa: PLC0415
    from edge_models.training.network import OneLook  # noqa: PLC0415
    from edge_models.training.scales import Scales, learn, read_at, within  # noqa: PLC0415

    torch.manual_seed(1)
    network = folded(OneLook().eval())
    network.quarter[0][0] = by_cells(network.quarter[0][0])
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, torch.nn.Conv2d):
                layer.weight *= 1.8  # its numbers are about as large as what is learnt makes them
    marks = torch.from_numpy(align.TEMPLATE)[None]
    frames = [(stored(torch.rand(1, 3, 128, 128)), marks) for _ in range(9)]
    one = (frames[0][0], *read_at(*frames[0]))

    def scales() -> Scales:
        return Scales(Frame(network), Describe(network))

    def same(was: dict[str, torch.Tensor], now: dict[str, torch.Tensor]) -> list[str]:
        return [name for name in was if torch.allclose(now[name], was[name], atol=1e-3)]

    at_first = scales()(*one, rounded=False)
    uneven = scales()
    with torch.no_grad():
        for factor in uneven.factors.values():
            factor.normal_(0, 1.5)
    uneven.bake()
    before = scales()(*one, rounded=False)
    assert same(at_first, before) == [name for name in before if name != "features"], "its channels are scaled too"

    even = scales()
    first, last = learn(even, frames, 60)
    even.bake()
    assert last < 0.6 * first
    assert len(even.ranges()) == len(even.held)
    assert same(at_first, scales()(*one, rounded=False)) == same(at_first, before)
    even.shift()
    assert not same(at_first, scales()(*one, rounded=False)), "which is for int8 alone"

    held = within(torch.tensor([-1.0, -0.1, 0.0, 0.5, 9.0]), torch.tensor([-1.0, 1.55]))
    assert held.tolist() == pytest.approx([-1, -0.1, 0, 0.5, 1.55], abs=1e-6), "in hundredths, up to the end"


def test_faces_are_read_in_training_as_by_the_daemon() -> None:
    import torch  # noqa: PLC0415
    from edge_models.training.network import GRID, MAP_STRIDE, REACH  # noqa: PLC0415
    from edge_models.training.train import on_grid, sample  # noqa: PLC0415

    random = np.random.default_rng(5)
    around = align.TEMPLATE - align.TEMPLATE.mean(0)
    where = np.stack([around * scale + (70, 66) + random.normal(0, 1, (5, 2)) for scale in (0.3, 0.45, 0.55, 1.0)])
    features = random.uniform(0, 1, (32, 32, 6)).astype(np.float32)

    read = sample(torch.from_numpy(features.transpose(2, 0, 1))[None], on_grid(torch.from_numpy(where).float(), 32),
                  torch.zeros(4, dtype=torch.long)).permute(0, 2, 3, 1).numpy()

    wanted = align.sample(features, align.grid(where.astype(np.float32), MAP_STRIDE, GRID, REACH))
    np.testing.assert_allclose(read, wanted, atol=1 / 16)  # the daemon's points fall on 32nds of a cell
    assert np.abs(read - wanted).mean() < 0.01


def test_a_face_of_nobody_lies_between_the_two_that_it_is_made_of(tmp_path: Path) -> None:
    from edge_models.training.mix import Packed, made, mixed  # noqa: PLC0415

    dark, light = np.full((PATCH, PATCH, 3), 40, np.uint8), np.full((PATCH, PATCH, 3), 200, np.uint8)
    in_one_light = 0
    for seed in range(20):
        patch, share = mixed(dark, light, np.random.default_rng(seed))
        middle = patch[PATCH // 5 : -(PATCH // 5), PATCH // 5 : -(PATCH // 5)].mean()
        in_one_light += bool((patch == 40).all())
        assert (patch == 40).all() or middle == pytest.approx(40 * share + 200 * (1 - share), abs=1)
    assert 0 < in_one_light < 20

    packed = Packed([pack(tmp_path / "faces")])
    table = np.load(tmp_path / "faces.npz")
    assert len(packed.landmarks) == (table["split"] == "train").sum(), "none that is held out"
    for patch, marks in made(packed, 5, np.random.default_rng(1)):
        assert patch.shape == (PATCH, PATCH, 3)
        assert (marks >= packed.landmarks.min(0) - 1e-3).all()
        assert (marks <= packed.landmarks.max(0) + 1e-3).all()


def test_a_network_whose_looks_did_not_read_the_embedding_describes_as_it_did() -> None:
    import torch  # noqa: PLC0415
    from edge_models.training.network import OneLook  # noqa: PLC0415

    torch.manual_seed(1)
    network = OneLook().eval()
    faces = torch.randn(2, network.features, 14, 14).relu()
    with torch.no_grad():
        looks = network.looks(network.trunk(faces)).flatten(1)
        assert torch.equal(network.describe(faces)[1], looks), "it starts by adding nothing"
        earlier = {name: value for name, value in network.state_dict().items() if "from_embedding" not in name}
        other = OneLook().eval()
        other.load_earlier(earlier)
        assert torch.equal(other.describe(faces)[1], looks)
        del earlier["looks.3.bias"]
        with pytest.raises(RuntimeError, match=r"looks\.3\.bias"):
            other.load_earlier(earlier)


@pytest.mark.timeout(300)
def test_the_curve_is_laid_through_networks_of_one_make(tmp_path: Path) -> None:
    import torch  # noqa: PLC0415
    from edge_models.training.curve import FLOORS, reached  # noqa: PLC0415
    from edge_models.training.network import OneLook  # noqa: PLC0415

    assert reached([1, 2, 4], [0.4, 0.2, 0.1], 0.05) == pytest.approx(8)
    assert reached([1, 2, 4], [0.1, 0.2, 0.4], 0.05) == np.inf

    table = dict(np.load(pack(tmp_path / "faces")))
    blob = (tmp_path / "faces.bin").read_bytes()
    everybody = table | {"race7": np.zeros(24, np.int8)}
    pairs = np.random.default_rng(1).integers(24, size=(2, 40))
    lfw = {"offset": table["offset"], "length": table["length"], "landmarks": table["landmarks"], "first": pairs[0],
           "second": pairs[1], "same": (pairs[0] % 2 == pairs[1] % 2).astype(np.int8),
           "name": np.array([f"{('Grace', 'Eileen')[i % 2]}_{i:04d}.jpg" for i in range(24)])}
    for name, columns in {"fairface": everybody, "fer": everybody, "lfw": lfw}.items():
        np.savez(tmp_path / f"{name}.npz", **columns)
        (tmp_path / f"{name}.bin").write_bytes(blob)
    for seen in (1, 2, 4, 5):  # the last of another make, as if there were a newer one
        torch.manual_seed(seen)
        network = OneLook(3) if seen == 5 else OneLook(2, 48)
        torch.save({"average": network.state_dict(), "seen": seen * 1_000_000, "step": 1}, tmp_path / f"{seen}.pt")

    records = []
    for chosen in ((1, 2, 4), (5,)):  # which is put beside what is there
        finish("curve", tmp_path / "curve.json", *(tmp_path / f"{seen}.pt" for seen in chosen),
               "--data", tmp_path, "--cache", tmp_path / "cache")
        records.append(json.loads((tmp_path / "curve.json").read_text()))
    first, record = records

    made = [(row["seen"] // 1_000_000, row["deep"]) for row in record["networks"]]
    assert made == [(1, 2), (2, 2), (4, 2), (5, 3)]
    assert record["needed"] == first["needed"], "the line is of one make"
    assert record["needed"].keys() == FLOORS.keys()
    assert all(0 <= row[rate] <= 1 for row in record["networks"] for rate in FLOORS if rate != "age")


def test_what_is_known_of_a_crowd_lies_where_it_is_seen_on_canvases_either_way_round(tmp_path: Path) -> None:
    import torch  # noqa: PLC0415
    from edge_models.training import data  # noqa: PLC0415

    street, box = np.full((200, 300, 3), 128, np.uint8), (100, 60, 170, 140)
    street[60:140, 100:170] = (40, 60, 40)
    marks = [(116, 82), (152, 82), (134, 100), (120, 122), (148, 122)]
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255)]
    for (x, y), colour in zip(marks, colours, strict=True):
        street[y - 5:y + 6, x - 5:x + 6] = colour
    rows = []
    for i in range(2):
        cv2.imwrite(str(tmp_path / f"{i}.png"), street[:, :, ::-1])
        rows.append({"file": f"{i}.png", "width": 300, "height": 200,
                     "faces": [{"box": box, "score": 1, "landmarks": marks}]})
    (tmp_path / "labels.json").write_text(json.dumps(rows))

    torch.manual_seed(0)
    scenes = data.Scenes([tmp_path], None, tmp_path / "cache")
    canvases, boxes, points, real = scenes.crowd(200, 96)
    assert canvases.shape == (200, 3, 96, 96)
    mirrored = checked = 0
    for canvas, (x1, y1, x2, y2), five in zip(canvases[real[:, 0]], boxes[real], points[real], strict=True):
        assert float((x2 - x1) / (y2 - y1)) == pytest.approx(70 / 80, rel=1e-4)
        times = float(x2 - x1) / 70
        assert ((five[:, 0] > x1) & (five[:, 0] < x2) & (five[:, 1] > y1) & (five[:, 1] < y2)).all()
        assert five[0, 0] < five[1, 0], "left to right in the picture, whichever eye it is"
        if times < 0.6 or five.min() < 0 or five.max() > 95:
            continue
        seen = [canvas[:, round(float(y)), round(float(x))] for x, y in five]
        wanted = torch.tensor(colours) / 255
        straight, other = ((torch.stack(seen) - wanted[order]).abs().max() for order in (range(5), [1, 0, 2, 4, 3]))
        assert min(straight, other) < 0.05
        mirrored, checked = mirrored + bool(other < straight), checked + 1
    assert 0.3 * checked < mirrored < 0.7 * checked
    assert checked > 50
