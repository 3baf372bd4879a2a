"""Fill MODEL_CARD.md and the tables of README and docs from the files beside the model: no figure is typed by hand.

    python -m edge_models.training.card MODEL README.md
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from edge_models.training.door import leave

from onelook.cohort import Cohort
from onelook.spec import ModelSpec

DOCS = Path(__file__).resolve().parents[2] / "docs" / "identity.md"
LOGS = Path(__file__).resolve().parents[1] / "checkpoints" / "log"
SPEED = ("<!-- benchmarks: written by benchmarks/tables.py -->", "<!-- end of benchmarks -->")
"""Marks of a part of the card that is not ours: it is carried over."""
BEGIN, END = "<!-- figures: written by edge_models/training/card.py -->", "<!-- end of figures -->"
NAMES = {
    "lfw.accuracy.112": ("Same person or not, LFW 10-fold, faces of 112 px", "%"),
    "lfw.accuracy.80": ("… 80 px", "%"),
    "lfw.accuracy.48": ("… 48 px", "%"),
    "lfw.accuracy.32": ("… 32 px", "%"),
    "lfw.accuracy.cosine.112": ("… by the plain cosine, as others are measured, and not as the daemon decides: 112 px", "%"),
    **{f"lfw.accuracy.cosine.{size}": (f"… {size} px", "%") for size in (80, 48, 32)},
    "lfw.tar_at_far_1e-3.80": ("True accepts at 1 false accept in 1,000, LFW, 80 px", "%"),
    "lfw.tar_at_far_1e-3.80.all_pairs": ("… where the strangers are all 30 million pairs of two of LFW's people, and not 3,000", "%"),
    "celeba40.mean_accuracy": ("40 CelebA attributes, mean accuracy", "%"),
    "gender.accuracy.utkface": ("Gender, UTKFace", "%"),
    "gender.accuracy.celeba": ("Gender, CelebA", "%"),
    "gender.accuracy.fairface": ("Gender, FairFace validation", "%"),
    "age.mae": ("Age, UTKFace, mean error in years", ""),
    "ethnicity.accuracy": ("Ethnicity (5), UTKFace", "%"),
    "ethnicity.accuracy.fairface7": ("Ethnicity (7), FairFace validation", "%"),
    "emotion.accuracy.fer2013": ("Emotion (7), FER2013 PrivateTest", "%"),
    "emotion.accuracy.rafdb": ("Emotion (7), RAF-DB test", "%"),
    "celeba40.ece": ("Calibration error (ECE) of the attributes' probabilities", "%"),
    "gender.ece": ("… of gender's, UTKFace and CelebA", "%"),
    "ethnicity.ece": ("… of ethnicity's, UTKFace", "%"),
    "emotion.ece.fer2013": ("… of emotion's, FER2013 PrivateTest", "%"),
    "emotion.ece.rafdb": ("… of emotion's, RAF-DB test", "%"),
    "detection.ap50.voc": ("Detection, hand-made boxes on 9 VOC pictures, AP50", "%"),
    "detection.ap50.crowds": ("Detection, faces of 16 px and more that SCRFD-2.5g is sure of, 11 stills and 30 frames of one film, AP50", "%"),
    "detection.ap50.crowds.yunet": ("… YuNet at the same input size", "%"),
    "detection.ap50.stills": ("… the stills alone", "%"),
    "detection.ap50.stills.yunet": ("… YuNet on these", "%"),
    "detection.ap50.film": ("… the film alone", "%"),
    "detection.ap50.film.yunet": ("… YuNet on this", "%"),
    "detection.recall_24px": ("Detection, share found of what SCRFD-2.5g finds, 24 px and more, stills and film", "%"),
    "detection.false_per_picture": ("… false boxes a picture", ""),
    "landmarks.nme": ("Landmarks, mean error over the distance of the eyes", "%"),
    "embedding.float_cosine": ("Embedding, cosine of int8's to that of the float network, 80 px", ""),
    "cost.frame_mmac_640x480": ("Cost of a 640x480 frame, million multiply-adds", ""),
    "cost.face_mmac": ("Cost of each face, million multiply-adds", ""),
}
HEADLINES = (
    *(f"lfw.accuracy.{size}" for size in (112, 80, 48, 32)), *(f"gender.accuracy.{of}" for of in ("utkface", "celeba", "fairface")),
    "age.mae", "ethnicity.accuracy", "ethnicity.accuracy.fairface7", "emotion.accuracy.fer2013", "emotion.accuracy.rafdb",
    "celeba40.mean_accuracy", "detection.ap50.crowds", "detection.ap50.crowds.yunet", "landmarks.nme", "cost.frame_mmac_640x480",
    "cost.face_mmac")
"""Those that the README shows."""
EXPECTED = ("<!-- expected: written by edge_models/training/card.py -->", "<!-- end of expected -->")
"""Marks of what the README says that one may expect."""
SURE = 0.95
"""Share of faces of a size that are found, from which it counts as one that can be seen."""


def table(metrics: dict[str, dict[str, float]], keys: Collection[str] = NAMES) -> str:
    """The figures as Markdown."""
    lines = ["| what | int8 | 95 % interval | n | float |", "|---|---|---|---|---|"]
    for key, (name, unit) in NAMES.items():
        if key not in metrics or key not in keys:
            continue
        row = metrics[key]
        times, after = (100, " %") if unit else (1, "")
        exact, digits = key.startswith("cost."), 4 if key.endswith("cosine") else 1
        between = "" if exact else f"{row['low'] * times:.{digits}f} to {row['high'] * times:.{digits}f}"
        whole = f"{row['float_value'] * times:.1f}{after}" if "float_value" in row and not exact else ""
        count = "" if exact else row["n"]
        lines.append(f"| {name} | {row['value'] * times:.{digits}f}{after} | {between} | {count} | {whole} |")
    return "\n".join(lines)


def opened(record: dict[str, Any]) -> str:
    """Open-set identification as Markdown, from openset.json."""
    def percent(row: dict[str, float], key: str) -> str:
        return f"{100 * row[key]:.1f} %" if key in row else ""

    lines = ["| enrolled | looks | DIR at FPIR 1 % | DIR at FPIR 0.1 % | at the daemon's bar for `far: 0.01`: DIR | FPIR | "
             "`far: 0.001`: DIR | FPIR | probes |", "|---|---|---|---|---|---|---|---|---|"]
    kinds = {"frame": "one frame", "track": f"track of {record['frames']} frames of one photo",
             "photos": f"track of {record['photos']} photos"}
    for key, row in record.items():
        count, _, kind = key.partition(".")
        if kind not in kinds:
            continue
        cells = [percent(row, name) for name in (
            "dir_at_fpir_0.01", "dir_at_fpir_0.001", "dir_at_far_0.01", "fpir_at_far_0.01", "dir_at_far_0.001",
            "fpir_at_far_0.001")]
        lines.append(f"| {int(count):,} | {kinds[kind]} | {' | '.join(cells)} | {row['enrolled']:,} of enrolled, "
                     f"{row['strangers']:,} strangers |")
    return "\n".join(lines)


SOURCES = {"celeba": "CelebA", "celebw": "CelebA in the wild", "utk": "UTKFace", "vgg": "VGGFace2"}


def lfw_opened(record: dict[str, Any]) -> str:
    """LFW's people at the door, as Markdown, from openset.json."""
    if "lfw" not in record:
        return ""
    lines = ["| of LFW's people enrolled | DIR at FPIR 1 % | DIR at FPIR 0.1 % | at the daemon's bar for `far: 0.01`: DIR | FPIR | "
             "`far: 0.001`: DIR | FPIR | probes |", "|---|---|---|---|---|---|---|---|"]
    for count, row in record["lfw"].items():
        cells = [f"{100 * row[name]:.{digits}f} %" for name, digits in (
            ("dir_at_fpir_0.01", 1), ("dir_at_fpir_0.001", 1), ("dir_at_far_0.01", 1), ("fpir_at_far_0.01", 2), ("dir_at_far_0.001", 1),
            ("fpir_at_far_0.001", 2))]
        lines.append(f"| {int(count):,} | {' | '.join(cells)} | {row['galleries'] * row['enrolled']:,.0f} of enrolled, "
                     f"{row['strangers']:,.0f} strangers before each of {row['galleries']} galleries |")
    return "\n".join(lines)


def by_source(record: dict[str, Any]) -> str:
    """Who stood at the door of openset.json, and the rows of each source's strangers alone, as Markdown."""
    if "strangers_from" not in record:
        return ""

    def told(counts: dict[str, int]) -> str:
        *most, last = [f"{many:,} of {SOURCES[name]}" for name, many in sorted(counts.items(), key=lambda row: -row[1])]
        return f"{', '.join(most)} and {last}" if most else last

    lines = [f"By where they are from, the strangers are {told(record['strangers_from'])}; the enrolled {told(record['enrolled_from'])}.", "",
             "| enrolled | looks | strangers | DIR at FPIR 1 % | at the daemon's bar for `far: 0.01`: DIR | FPIR | `far: 0.001`: FPIR |",
             "|---|---|---|---|---|---|---|"]
    for key, row in record.items():
        count, _, rest = key.partition(".")
        kind, _, source = rest.partition(".")
        if source:
            cells = [f"{100 * row[name]:.1f} %" for name in ("dir_at_fpir_0.01", "dir_at_far_0.01", "fpir_at_far_0.01", "fpir_at_far_0.001")]
            lines.append(f"| {int(count):,} | {'one frame' if kind == 'frame' else 'track of one photo'} | "
                         f"{row['strangers']:,} of {SOURCES[source]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def at_bars(record: dict[str, Any], spec: ModelSpec) -> str:
    """What of LFW's pairs passes the shipped bars, as Markdown, from metrics.json."""
    rows = record.get("bars") or []
    if not rows or any(row["similarity"] != spec.threshold(row["far"], 80) for row in rows):
        return "Not measured with these thresholds: run `edge_models/training/evaluate.py`."
    lines = [f"| false accept rate, as stated | of {rows[0]['pairs']:,} pairs of two of LFW's people pass | times that stated | "
             f"of LFW's {rows[0]['same_pairs']:,} pairs of one person pass |", "|---|---|---|---|"]
    lines += [f"| {row['far']:g} | {row['strangers']:.2g} | {row['strangers'] / row['far']:.2g} | {100 * row['same']:.1f} % |" for row in rows]
    return "\n".join(lines)


def expected(model: Path) -> str:
    """What somebody with a camera and some friends will see, as Markdown, from openset.json and sizes.json."""
    told = json.loads((model / "openset.json").read_text())
    kinds = {"frame": "by one frame", "track": f"by {told['frames']} frames of one photo",
             "photos": f"by {told['photos']} different photos; a true track lies between"}

    def at(kind: str, rate: str) -> list[float]:
        return [told[f"1000.{kind}"][f"{rate}_at_far_{far}"] for far in ("0.01", "0.001")]

    def row(what: str, shares: Iterable[float], digits: int) -> str:
        return f"| {what} | {' | '.join(f'{100 * share:.{digits}f} %' for share in shares)} |"

    def of_lfw(count: str, rate: str) -> list[float]:
        return [told["lfw"][count][f"{rate}_at_far_{far}"] for far in ("0.01", "0.001")]

    lines = ["| | with `report.far: 0.01` | with `0.001`, the default |", "|---|---|---|"]
    for count in told["lfw"]:
        lines += [row(f"{int(count):,} of LFW's people enrolled: named rightly, by one frame", of_lfw(count, "dir"), 0),
                  row("… strangers given a name", of_lfw(count, "fpir"), 2)]
    lines += [row(f"1,000 who are harder to tell apart: named rightly, {looks}", at(kind, "dir"), 0) for kind, looks in kinds.items()]
    lines += ["", "| input of the network | smallest face that it finds in a picture of 1920x1080 |", "|---|---|"]
    for name, of in json.loads((model / "sizes.json").read_text())["inputs"].items():
        if name != "tiles":
            seen = [int(size) for size, face in of["faces"].items() if face["found"]["value"] >= SURE]
            least = f"{min(seen)} px" if seen else f"more than {list(of['faces'])[-1]} px"
            lines.append(f"| {name} | {least} |")
    return "\n".join(lines)


def placed(text: str, marks: tuple[str, str], written: str) -> str:
    """A document with something else between its marks. Raises ValueError where it has none."""
    start, end = text.index(marks[0]) + len(marks[0]), text.index(marks[1])
    return f"{text[:start]}\n{written}\n{text[end:]}"


def between(row: dict[str, float], times: float = 100) -> str:
    """A figure with its interval."""
    return f"{row['value'] * times:.1f} ({row['low'] * times:.1f} to {row['high'] * times:.1f})"


PHOTOGRAPHS = {"street": "streets and news, masks worn or not, boxes made by hand", "masks": "people with masks",
               "celebw": "CelebA in the wild"}
"""Source of held-out photographs -> what they are."""


def grouped(model: Path, spec: ModelSpec) -> str:
    """What groups.json tells of this network, as Markdown."""
    held = model / "groups.json"
    if not held.exists() or (record := json.loads(held.read_text()))["model"] != spec.sha256:
        return "Not measured for this network: run `edge_models/training/groups.py`."

    lines = ["| FairFace validation | faces | found, % | gender, % | origin (7), % | false match rate in the group | times that asked | by the cosine alone |",
             "|---|---|---|---|---|---|---|---|"]
    for name, row in record["fairface"].items():
        rate = row["false_match_rate"]
        lines.append(f"| {name} | {row['faces']:,} | {between(row['found'])} | {between(row['gender'])} | {between(row['race7'])} | {rate:.2g} | "
                     f"{rate / record['far']:.1f} | {row['false_match_rate_by_cosine'] / record['far']:.1f} |")
    lines += ["", "| UTKFace, held out | faces | gender, % | its calibration error, % | origin (5), % | mean error in years | mean, with its sign |",
              "|---|---|---|---|---|---|---|"]
    for name, row in record["utkface"].items():
        lines.append(f"| {name} | {row['faces']:,} | {between(row['gender'])} | {between(row['gender_ece'])} | "
                     f"{between(row['ethnicity'])} | "
                     f"{between(row['age_mae'], 1)} | {between(row['age_bias'], 1)} |")
    lines += ["", "| CelebA, held out | faces | found, % | landmarks off, % of the eyes' distance | attributes, % | pairs of one person | of these pass, % |",
              "|---|---|---|---|---|---|---|"]
    for name, row in record["celeba"].items():
        lines.append(f"| {name} | {row['faces']:,} | {between(row['found'])} | {between(row['landmarks'])} | "
                     f"{between(row['attributes'])} | {row['same']['n']:,} | {between(row['same'])} |")
    return "\n".join(lines)


def in_hard_cases(model: Path, spec: ModelSpec) -> str:
    """What hard.json tells of this network, as Markdown."""
    held = model / "hard.json"
    if not held.exists() or (record := json.loads(held.read_text()))["model"] != spec.sha256:
        return "Not measured for this network: run `edge_models/training/hard.py`."
    bars = next(iter(record["cases"].values()))["same"]
    lines = [f"| faces | how many | found, % | cosine to the teacher | gender, % | {' | '.join(f'pass the bar for {far}, %' for far in bars)} |",
             f"|---|---|---|---|---|{'---|' * len(bars)}"]
    for name, row in record["cases"].items():
        told = [between(row["gender"]) if "gender" in row else "", *(between(row["same"][far]) if "same" in row else "" for far in bars)]
        lines.append(f"| {name} | {row['found']['n']:,} | {between(row['found'])} | {row['cosine']['value']:.3f} | {' | '.join(told)} |")
    lines += ["", "| photographs | pictures | faces | AP50, % | YuNet's, % |", "|---|---|---|---|---|"]
    for source, row in record["photographs"].items():
        lines.append(f"| {PHOTOGRAPHS[source]} | {row['ap50']['n']} | {row['faces']} | {between(row['ap50'])} | {between(row['yunet'])} |")
    return "\n".join(lines)


def resized(model: Path, spec: ModelSpec) -> str:
    """What sizes.json tells of this network, as Markdown."""
    held = model / "sizes.json"
    if not held.exists() or (record := json.loads(held.read_text()))["model"] != spec.sha256:
        return "Not measured for this network: run `edge_models/training/sizes.py`."
    sizes = list(next(iter(record["inputs"].values()))["faces"])
    lines = [f"| input | MMAC a frame | time, 640x480 = 1 | {' | '.join(f'{size} px' for size in sizes)} |",
             f"|---|---|---|{'---|' * len(sizes)}"]
    for name, row in record["inputs"].items():
        what = f"{record['tiles']} tiles of 640x480, {record['overlap']} px shared" if name == "tiles" else name
        cells = [f"{100 * of['found']['value']:.0f} %" + (f" ({of['cosine']['value']:.2f})" if "cosine" in of else "")
                 for of in row["faces"].values()]
        lines.append(f"| {what} | {row['mmac']:,.0f} | {row['time']:.2f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def alone(folder: Path = LOGS / "tasks") -> str:
    """What each task learns alone, and with all the others, on one budget, as Markdown; from the runs' logs."""
    held = ("cosine", "tar@0.01", "attributes", "gender", "age", "race7", "emotion")
    lines = ["| learnt | loss of box | cosine to the teacher | TAR at FAR 1 % | attributes | gender | age, years off | ethnicity (7) | emotion |",
             "|---|---|---|---|---|---|---|---|---|"]
    of = {"cosine": "identity", "tar@0.01": "identity", "emotion": "emotion"}
    for name in ("together", "detection", "identity", "looks", "emotion"):
        rows = [dict(zip(row[3::2], row[4::2], strict=True)) for row in csv.reader((folder / f"{name}.csv").open())]
        last, found = next(row for row in reversed(rows) if "cosine" not in row), rows[-1]
        cells = [found[what] if name in ("together", of.get(what, "looks")) else "" for what in held]
        lines.append(f"| {name}{'' if name == 'together' else ' alone'} | {' | '.join([last.get('box', ''), *cells])} |")
    return "\n".join(lines)


def balanced(file: Path = LOGS / "balance.json") -> str:
    """How hard each task pulls at what all share, as Markdown."""
    parts = json.loads(file.read_text())["parts"]
    tasks = list(next(iter(parts.values())))
    lines = [f"| layers | {' | '.join(tasks)} |", f"|---|{'---|' * len(tasks)}"]
    for part, of in parts.items():
        cells = [f"{of[task]['pull']} ({of[task]['towards']:+.2f})" for task in tasks]
        lines.append(f"| `{part}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def trials(folder: Path = LOGS / "trials") -> str:
    """What short runs of equal budget taught, as Markdown, from their logs."""
    lines = ["| trial | steps | loss of embedding | of box | of attributes | of emotion | held out: cosine | TAR at FAR 1 % |",
             "|---|---|---|---|---|---|---|---|"]
    for name, what in json.loads((folder / "trials.json").read_text()).items():
        rows = [dict(zip(row[3::2], row[4::2], strict=True), steps=row[0]) for row in csv.reader((folder / f"{name}.csv").open())]
        held = {row["steps"]: row for row in rows if "cosine" in row}
        for row in rows:
            if "cosine" in row or row["steps"] not in ("1000", "2000"):
                continue
            found = held.get(row["steps"], {})
            cells = [row[key] for key in ("embedding", "box", "attributes", "emotion")]
            cells += [found.get("cosine", ""), found.get("tar@0.01", "")]
            lines.append(f"| {what} | {int(row['steps']):,} | {' | '.join(cells)} |")
    return "\n".join(lines)


MISSED = {"lfw.accuracy": ("LFW", "%"), "lfw.tar_at_far_1e-3": ("true accepts at 1 in 1,000", "%"), "gender": ("gender, UTKFace", "%"),
          "age": ("age, UTKFace, years off", ""), "race7": ("ethnicity (7), FairFace", "%"), "emotion": ("emotion, FER2013", "%")}
"""Of curve.json: what is asked and not yet reached, or hardly."""
AT = 320_000
"""Faces seen, at which heads are compared while the rate is the same for all."""
HOPELESS = 10e9
"""Faces to be seen, beyond which a line through four networks tells that more of the same is no way."""


def pace(name: str) -> float:
    """Faces learnt from a second, by a run's log."""
    rows = [row for row in csv.reader((LOGS / f"{name}.csv").read_text().splitlines()) if row[2].isdecimal()]
    first, last = rows[0], rows[-1]
    return (int(last[1]) - int(first[1])) / (int(last[2]) - int(first[2]))


def more(file: Path = LOGS / "curve.json") -> str:
    """What more faces seen would give, as Markdown, from the releases' networks."""
    record = json.loads(file.read_text())
    lines = [f"| network | identity's bottlenecks | faces seen | cosine to the teacher, held out | … learnt from | {' | '.join(name for name, _ in MISSED.values())} |",
             f"|---|---|---|---|---|{'---|' * len(MISSED)}"]

    def shown(key: str, value: float) -> str:
        return f"{100 * value:.1f} %" if MISSED[key][1] else f"{value:.2f}"

    for row in record["networks"]:
        cells = [shown(key, row[key]) for key in MISSED]
        lines.append(f"| {row['name']} | {row['deep']} | {row['seen'] / 1e6:.1f} million | {row['cosine']:.3f} | {row['cosine.learnt']:.3f} | {' | '.join(cells)} |")
    lines += ["", "| floor | faces to be seen for it, by the line through all networks | without one of them in turn | hours on one H100 | on two cores |",
              "|---|---|---|---|---|"]
    done = max(row["seen"] for row in record["networks"] if row["deep"] == record["deep"])
    quick, slow = pace("eighth"), pace("ninth")
    for key, row in record["needed"].items():
        what = f"{MISSED[key][0]}: {shown(key, row['floor'])}"
        if row["seen"] is None or row["seen"] > HOPELESS:
            lines.append(f"| {what} | more than {HOPELESS / 1e9:.0f} billion: not this way | | | |")
            continue
        left = max(row["seen"] - done, 0)
        between = f"{row['low'] / 1e6:,.0f} to " + (f"{row['high'] / 1e6:,.0f} million" if row["high"] else "never")
        lines.append(f"| {what} | {row['seen'] / 1e6:,.0f} million | {between} | {left / quick / 3600:.1f} | "
                     f"{left / slow / 3600:,.0f} |")
    return "\n".join(lines)


def heads(folder: Path = LOGS / "heads") -> str:
    """What deeper heads learn of what the frozen network gives them, as Markdown, from the logs."""
    lines = ["| head | faces seen | loss of embedding | held out: cosine | TAR at FAR 1 % | at 0.1 % |", "|---|---|---|---|---|---|"]
    for name, what in json.loads((folder / "heads.json").read_text()).items():
        rows = [[*row[:3], dict(zip(row[3::2], row[4::2], strict=True))]
                for row in csv.reader((folder / f"{name}.csv").read_text().splitlines())]
        held = {row[0]: row[3] for row in rows if row[2] == "held out"}
        learnt = [row for row in rows if row[2] != "held out"]
        for step, seen, _, told in (row for row in learnt if int(row[1]) == AT or row is learnt[-1]):
            found = held.get(step, {})
            cells = [told["embedding"], *(found.get(key, "") for key in ("cosine", "tar@0.01", "tar@0.001"))]
            lines.append(f"| {what} | {int(seen):,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def reading(file: Path = LOGS / "reach.json") -> str:
    """How like the teacher's embeddings come out, by how far aside of each sample a face is read, as Markdown."""
    told = json.loads(file.read_text())["cosine"]
    reaches = list(next(iter(told.values())))
    lines = ["| face, px | " + " | ".join("at the sample alone" if reach == "0" else f"{reach} px aside" for reach in reaches) + " |",
             f"|---|{'---|' * len(reaches)}"]
    lines += [f"| {size} | {' | '.join(str(row[reach]['value']) for reach in reaches)} |" for size, row in told.items()]
    return "\n".join(lines)


def identification(model: Path, spec: ModelSpec) -> str:
    """What openset.json tells of this network, as Markdown."""
    held = model / "openset.json"
    if held.exists() and (record := json.loads(held.read_text()))["model"] == spec.sha256:
        return opened(record)
    return "Not measured for this network: run `edge_models/training/openset.py`."


def at_the_door(model: Path, spec: ModelSpec) -> str:
    """What openset.json tells of this network by where strangers are from, as Markdown."""
    held = model / "openset.json"
    record = json.loads(held.read_text()) if held.exists() else {}
    return "\n\n".join(filter(None, (lfw_opened(record), by_source(record)))) if record.get("model") == spec.sha256 else ""


def fill(model: Path, readme: Path, docs: Path) -> None:
    """Write all three."""
    spec = ModelSpec.model_validate_json((model / "model.json").read_text())
    record = json.loads((model / "metrics.json").read_text())
    if record["model"] != spec.sha256:
        raise SystemExit("metrics.json was measured on another network: run evaluate first.")
    figures = table(record["metrics"])
    thresholds = "\n".join(f"| {t.size:g} | {t.far:g} | {t.similarity:.3f} | {100 * t.tar:.1f} % |" for t in spec.thresholds)
    cohort = f"{len(Cohort.read(model, spec).centres)} middles of training faces"
    card = model / "MODEL_CARD.md"
    identified, groups, sizes, hard = (tell(model, spec) for tell in (identification, grouped, resized, in_hard_cases))
    cosine = f"{record['metrics']['embedding.float_cosine']['value']:.4f}"
    nano = record["metrics"]["cost.frame_mmac_640x480"]["value"] * 384 * 288 / (640 * 480)
    _, begin, after = (card.read_text() if card.exists() else "").partition(SPEED[0])
    speed = SPEED[0] + (after.partition(SPEED[1])[0] if begin else "\n") + SPEED[1]
    card.write_text(f"""# Model card: onelook {spec.version}

One network, one file, one look at a frame: boxes, five landmarks, identity embedding ({spec.embedding_size} numbers),
40 attributes, age, gender, ethnicity (5), emotion (7) and a quality for every face.

Written by `edge_models/training/card.py` from `model.json` and `metrics.json`; nothing here is typed by hand but the words.

## Measured

On the shipped int8 file through onelook's own FaceModel: every face composed into a 640x480 frame at 80 px
(the side of its aligned 112 template) unless said otherwise, found, aligned and described by the one pass. A face
that was not found counts as wrong. Held-out data; bootstrap intervals.

{figures}

The AP on nine pictures says little; the interval shows it. The film's frames are of one street within seconds, so that they
tell of less than their number, and their interval is too narrow. A calibration error comes out larger where faces are drawn
again, as for these intervals, so that it may lie below its own. Where SCRFD itself misses faces, what this network finds
there counts as false unless YuNet saw it too.

## Speed, and what it costs

Against cascades of separate networks, by `python -m benchmarks`; what they are and how it was measured is in
`benchmarks/README.md`.

{speed}

## At other input sizes

By `edge_models/training/sizes.py`: faces of these sizes in the pixels of a camera of 1920x1080, whose frames the network
reads scaled down to its input, whole (`model.input_width: 1920`, `model.input_height: 1088`) or, which the daemon does not do,
tile by tile. Share found, and in brackets the mean cosine of the embedding to the teacher's of those found. The
time is the median of ratios, turn by turn, on frames of twenty faces.

{sizes}

A network of its own for small machines was not made. At 384x288 this one takes {nano:,.0f} million multiply-adds a frame, and a face that
is 80 px wide in a camera's picture of 640x480 is 48 px wide there: the row of 48 px further up is its own.

## In hard cases

By `edge_models/training/hard.py`: held-out faces of 80 px, altered, or as they are by nature; the teacher saw them as they were. The last columns
are LFW's 3,000 pairs of one person, the first face altered, the second as it is, and the shipped thresholds.

{hard}

Boxes of the photographs but for the first kind are SCRFD's. Of a face with a mask neither looks nor identity should be relied on.

## Thresholds

Similarity for each size of face and false accept rate, calibrated on pairs of held-out people, with the true
accept rate on held-out identities of CelebA and VGGFace2 (other pictures than LFW's, and harder). It is the cosine, less what the two
faces have in common with the most like of a cohort of {cohort} (`daemon/onelook/cohort.py`), so that the same threshold serves children and
others, and peoples of whom the network has seen few:

| face, px | false accept rate | similarity | true accept rate |
|---|---|---|---|
{thresholds}

They were calibrated on pairs of people of one sex and origin, as FairFace and UTKFace are labelled, since most who come to one door have
much in common; the true accepts are those of CelebA's and VGGFace2's people. By pairs of everybody with everybody, as until 0.9.2, five times
as many of LFW's strangers passed as was stated at 0.001, and fifteen times at 0.00001. Now, by `evaluate.py`, faces of 80 px, each of LFW's
people against each other. (No threshold was set by LFW; but of five kinds of pairs to calibrate on this one was taken with its rates known.)

{at_bars(record, spec)}

The true accepts of the table further up may be a little too good. CelebA-HQ, which was learnt from, holds 56 of the 2,176 held-out
pictures of CelebA and VGGFace2 once more (the teacher's cosine is above .9; 74 from .88 on), without names or attributes, and more
pictures of the same people. With each person counted once, 57.0 % of the pairs of one person pass the bar for 0.001 at
80 px: 53.3 % of those of people of whom no face learnt from is above a cosine of .75, 71.7 % of the others'. Open-set
identification has the same people enrolled. In the same way 50 of UTKFace's 765 held-out pictures were learnt from, 66 of RAF-DB's 3,005
and 37 of FairFace's 4,967, with labels; without those UTKFace's gender comes to 94.4 %, and its ages to 6.0 years. (Counted with the packed
data and 0.9.3's file, which has these weights; training leaves such pictures out since.)

At the strict rates most true pairs of single pictures are missed: tracks gather many pictures of a person, but an
identity from this version is a hint and no proof. It must not open doors.

## Who is it, among many

Open-set identification, by `edge_models/training/openset.py`: held-out people enrolled from one to three photos, the
gallery padded with real templates of others; at the door their other photos, at 80 px, and held-out people who are not
enrolled. FPIR: share of those for whom anybody is named; DIR: share of the enrolled who are named rightly.

{identified}

{at_the_door(model, spec)}

`far` holds to about 33 people at 0.001 and 333 at 0.01; with more the bar is at the strictest rate that was calibrated, and the daemon says so as
it starts. Strangers from where the enrolled are from are more like them than others are. How much of what is common is taken off
(`SHARE` in `cohort.py`), how a face is read (`REACH` in `network.py`) and how much stricter the daemon is than `far` (`CAUTION` in
`calibrate.py`) were chosen on the same faces as these, but for LFW's, so that others may do a little worse.

## With whom it fails more

By `edge_models/training/groups.py`, faces of 80 px, with 95 % bootstrap intervals. False matches: pairs of two people of one
group that pass the shipped threshold for 1 in 1,000, which was calibrated on pairs of one sex and one of these origins. What was done
about it: that; FairFace, whose groups are of like size, is a third of the pictures learnt from; what faces have in common with many others is
taken off their similarity (the last column is what the cosine alone would do, at a bar that as many pairs of everybody pass);
every identity decision waits for many frames; and the thresholds can be made stricter (`report.far`) where the people before a camera are of one group.
What is left of it: boys are told to be girls, girls and women over 60 to be men, in one of four; people over 60 to be years younger; people from the
Middle East, Latin America and Southeast Asia to be from elsewhere, more often than not; and of two pictures of one woman it says less often than of
two of one man that they are of one person.

{groups}

## Training

- Network: `edge_models/training/network.py`. {spec.training.faces_seen:,} faces seen in {spec.training.steps:,} steps of the
  last phase and those before it, seed {spec.training.seed}, last phase at commit `{spec.training.commit[:12]}`.
- Data: {", ".join(spec.training.data)}. Embeddings were distilled from three public recognisers (Intel
  face-reidentification-retail-0095 and two MobileFaceNets); boxes of crowd photographs from SCRFD.
- The exact commands: `edge_models/training/reference.sh`; the logs: `edge_models/checkpoints/log/`.
- Training pictures are research data (CelebA, VGGFace2, UTKFace, FER2013, RAF-DB, FairFace, All-Age-Faces, ShanghaiTech
  and others, some of them portraits of nobody that networks drew) with thin or non-commercial licences. LFW served for measuring alone. From what `prepare.py`
  packed pictures were left out whose teacher embedding lies close to one of LFW, at a cosine of 0.75, so some LFW people surely remain as
  other pictures. Not so from faces.npz: 49 of its faces that were learnt from are above that (24 of VGGFace2, 13 of UTKFace, 12 of CelebA),
  to pictures of 22 of LFW's people; without those people's pairs LFW at 80 px is 95.25 % and not 95.27.

## What was tried

Runs of 2,000 steps (240,000 faces), the rate falling over the last 600, on the same pictures in the same order; mean
training losses of the 200 steps before the one named, and what held-out faces of 80 px gave at the end:

{trials()}

### What int8 takes

256 steps tell of every tensor, of all its channels alike. As all layers are convolutions, ReLU, adds and doubling, a channel can be
divided by a factor where it is made and multiplied by it where it is read, and what the network computes in float is the same.
Since 0.9.4 `export` learns these factors, where each tensor's range ends, and by how much int8's biases take back what rounding moves a
channel on the mean, from 350 frames of training pictures, by what embeddings, landmarks, boxes, scores and traits lose
(`edge_models/training/scales.py`, 900 steps, eight minutes of two cores); ranges were set tensor by tensor before. The mean
cosine of int8's embeddings to those in float, at 80 px, was 0.9890, without the biases it came to 0.9931, and is {cosine}. Of six
settings that was taken by which held-out faces and crowds came out likest to float. Small faces alone, or blurred ones alone, cut off
what large clear ones reach. What the rows above tell moves with any rounding by some tenths of a point, either way.

### Each task alone

Runs of 1,200 steps from random weights (144,000 faces, one process), the rate falling over the last 400, on the same pictures in
the same order: all tasks at once, or one of them with the whole network to itself. Held-out faces of 80 px; the loss of boxes is
that of training. Looks and emotion are learnt better beside identity, whose teachers label every face, than alone; identity
gains nothing from them, and detection, which has other pictures to itself, pays a little for their company.

{alone()}

What each task pulls at the layers that they share, by `edge_models/training/balance.py`: root mean square of its gradient over
batches, the weights of the losses included, and in brackets the cosine of its mean gradient with identity's.

{balanced()}

### What more would give

By `edge_models/training/curve.py`: the float networks of the releases, on faces of 80 px read by their true landmarks, as faces are read since 0.9.2; true
accepts where 1 in 1,000 of all pairs of two of LFW's people pass, by the plain cosine. An error that falls as a power of the faces
seen is followed to what was asked of the network, through those of one make, whose identity had two bottlenecks; the hours are at
the pace of the runs' own logs. They know what they learnt from hardly better than what was held out: they lack steps and layers
more than pictures.

{more()}

More layers in the head help as well, which is why identity has five bottlenecks now. Learnt alone from random weights, on what the
frozen network of 0.7.0 gives of a million faces, with one budget, the rate falling from 360,000 faces on:

{heads()}

Who it is tells much of age, gender and origin: since 0.9.0 the looks read the embedding as well, by one layer of 128 (0.04 million
multiply-adds). The rows of 0.8.0 and 0.9.0 above tell what it gave; emotion has no part in it. Since 0.9.3 emotion has a reading of its
own of what the trunk gives (0.25 million multiply-adds), learnt from pictures with an emotion alone; the row of 0.9.3 is with that.

How a face is read off the map matters as much. On a face wider than 56 px the 14 samples a side lie further apart than the map's
cells: what is between them was passed over, and what was read turned with where the grid happened to fall. Since 0.9.2 each sample of
such a face is the mean of four points around it, which costs no multiply-adds of the network. By `edge_models/training/reach.py`,
on the weights of 0.9.1, the mean cosine of held-out faces' embeddings to the teacher's, by how far off the points lie along both axes,
in pixels of the template (112 a side); the shipped network has 1.5:

{reading()}

## Not for

Emotion recognition at work or in education is unlawful in the EU (AI Act, article 5(1)(f)). Not for identification of
people who do not know of it, not for decisions about people, not as a lock. Age, gender, ethnicity and emotion are
guesses about looks, as the training data's annotators labelled them; error rates differ between groups, as measured above.

## Licence

{spec.licence}
""")
    text = placed(readme.read_text(), (BEGIN, END), table(record["metrics"], HEADLINES))
    readme.write_text(placed(text, EXPECTED, expected(model)))
    docs.write_text(placed(docs.read_text(), (BEGIN, END), identified))


def main() -> None:
    """Parse, fill."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("model", type=Path)
    ask.add_argument("readme", type=Path)
    ask.add_argument("docs", type=Path, nargs="?", default=DOCS)
    options = ask.parse_args()
    fill(options.model, options.readme, options.docs)


if __name__ == "__main__":
    leave(main)
