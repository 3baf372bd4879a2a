"""What two strong detectors see on photographs: the yardstick for detection where nobody drew boxes.

    python -m edge_models.training.consensus PICTURES OUT.json --scrfd scrfd_2.5g.onnx --yunet yunet_n_dynamic.onnx

Reads every picture below PICTURES and `--frames` frames, evenly spread, of every film. Writes for each of the
two detectors {picture or film.mp4#INDEX: [{"box": [x1, y1, x2, y2], "score"}, ...]}, in pixels. A face that one
of them sees is not held against a network as a false box; a face that SCRFD is sure of is one to be found.

Needs openvino, tqdm and what onelook needs.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
from edge_models.training.door import leave
from edge_models.training.label_scenes import FACE_SCORE, Detector, pictures_below
from tqdm import tqdm

from onelook.capture import frames as read_frames

YUNET_SCORE = 0.6
DOUBT_SCORE = 0.3
"""What YuNet sees with this score is not counted as a false box either."""


def pictures(folder: Path, count: int) -> dict[str, np.ndarray]:
    """Name -> BGR picture; of films `count` frames each."""
    found = {p.relative_to(folder).as_posix(): cv2.imread(str(p)) for p in pictures_below(folder)}
    for film in sorted(folder.rglob("*.mp4")):
        name = film.relative_to(folder).as_posix()
        read = [frame.image for frame in read_frames(str(film))]
        for index in np.linspace(0, len(read) - 1, count).round().astype(int):
            found[f"{name}#{index}"] = np.ascontiguousarray(read[index][:, :, ::-1])
    return found


def yunet(path: Path, image: np.ndarray) -> list[dict]:
    """Faces of a BGR picture, at its own size and, for large faces, at half of it."""
    boxes, scores = [], []
    for scale in (1.0, 0.5):
        view = image if scale == 1 else cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        finder = cv2.FaceDetectorYN.create(str(path), "", view.shape[1::-1], DOUBT_SCORE, 0.3)
        _, rows = finder.detect(view)
        for row in rows if rows is not None else ():
            boxes.append((row[:4] / scale).tolist())
            scores.append(float(row[14]))
    kept = np.asarray(cv2.dnn.NMSBoxes(boxes, scores, DOUBT_SCORE, 0.4), int).reshape(-1)
    return [{"box": [round(v, 1) for v in (boxes[i][0], boxes[i][1], boxes[i][0] + boxes[i][2], boxes[i][1] + boxes[i][3])],
             "score": round(scores[i], 3)} for i in kept]


def main() -> None:
    """Look, and write down."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("pictures", type=Path)
    ask.add_argument("out", type=Path)
    ask.add_argument("--scrfd", required=True)
    ask.add_argument("--yunet", type=Path, required=True)
    ask.add_argument("--frames", type=int, default=30)
    options = ask.parse_args()
    for file in (options.pictures, Path(options.scrfd), options.yunet):
        file.stat()  # openvino tells of it in a page
    scrfd = Detector(options.scrfd, enlarge=True)
    out: dict[str, dict[str, list[dict]]] = {"scrfd": {}, "scrfd_doubt": {}, "yunet": {}}
    for name, image in tqdm(pictures(options.pictures, options.frames).items(), disable=None):
        found = scrfd(image)
        rows = [{"box": [round(float(v), 1) for v in box], "score": round(float(score), 3)}
                for box, score in zip(found.boxes, found.scores, strict=True)]
        out["scrfd"][name] = [row for row in rows if row["score"] >= FACE_SCORE]
        out["scrfd_doubt"][name] = [row for row in rows if row["score"] < FACE_SCORE]
        out["yunet"][name] = yunet(options.yunet, image)
    options.out.write_text(json.dumps(out))
    print(f"{len(out['scrfd'])} pictures, {sum(map(len, out['scrfd'].values()))} faces by SCRFD, "
          f"{sum(r['score'] >= YUNET_SCORE for v in out['yunet'].values() for r in v)} by YuNet")


if __name__ == "__main__":
    leave(main)
