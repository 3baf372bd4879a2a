#!/usr/bin/env bash
# The exact run behind edge_models/onelook/model.tflite, phase by phase.
#
#   DATA=packed-data RAW=pictures WEIGHTS=teachers RUNS=runs edge_models/training/reference.sh
#
# DATA holds faces.npz, fer2013.npz, lfw.npz (+ .bin) and scenes/; the shards below are made by
# prepare.py, scenes2/ by label_scenes.py (in phase E: 1,498 pictures of CelebA in the wild to step 1,000, then
# 2,398, with crowds, masks and streets, as labelled so far), backgrounds are
# pictures without faces. Needs: torch 2.13, litert-torch 0.10, ai-edge-quantizer 0.10, ai-edge-litert 2.3.
#
# Shards beyond those above: fairface and fairface2 and fairface3 (FairFace in three parts, validation in the first), utk
# (UTKFace), rafdb; fer is made below. Two processes on two cores; the logs are in edge_models/checkpoints/log/ (run, last).
#   run    plan "faces": 88,710 faces at first and one process to step 2,800, 108,525 and two processes from there on (a second
#          batch a step), rate 2e-3, then 2.5e-3. It was stopped where time was up, not where it had learnt what it can.
#   last   plan "last", the norms' figures held still after 200 steps, the rate falling all the way.
# Run from nothing, it will be as good but not the same.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PYTHONPATH=daemon:. OMP_WAIT_POLICY=PASSIVE
faces="$DATA"/{faces,fer,rafdb,fairface,fairface2,fairface3,utk}.npz
[ -f "$DATA/fer.npz" ] || python -m edge_models.training.align_fer "$DATA/fer2013.npz" "$WEIGHTS/yunet_n_dynamic.onnx" "$DATA/fer"
python -m edge_models.training.train "$RUNS/first" --faces $all --scenes "$DATA/scenes" \
  --backgrounds "$RAW/nonfaces" --threads 1 --seed 1 --steps 25000 --decay 4500
python -m edge_models.training.train "$RUNS/second" --start "$RUNS/first/last.pt" --plans scenes --rate 5e-4 --warm 60 \
  --faces $all --scenes "$DATA/scenes" "$DATA/scenes2" --backgrounds "$RAW/nonfaces" --threads 1 --seed 1 \
  --steps 1400 --decay 1400
python -m edge_models.training.train "$RUNS/third" --start "$RUNS/second/last.pt" --plans frames --rate 6e-4 --warm 200 \
  --freeze-norms --faces "$DATA"/{faces,fer,rafdb,fairface}.npz --scenes "$DATA/scenes" "$DATA/scenes2" \
  --backgrounds "$RAW/nonfaces" --threads 1 --seed 1 --steps 6200 --decay 3200
python -m edge_models.training.export "$RUNS/third" edge_models/onelook --faces "$DATA/faces.npz" "$DATA/fer.npz" \
  --scenes "$DATA/scenes"
python -m edge_models.training.calibrate edge_models/onelook --data "$DATA"/{faces,fairface}.npz
[ -f "$DATA/reference_detections.json" ] || python -m edge_models.training.consensus "$RAW/testdata" \
  "$DATA/reference_detections.json" --scrfd "$WEIGHTS/scrfd_2.5g.onnx" --yunet "$WEIGHTS/yunet_n_dynamic.onnx"
python -m edge_models.training.evaluate edge_models/onelook --data "$DATA"/{lfw,faces,fer,rafdb}.npz \
  --pictures "$RAW/testdata" --reference "$DATA/reference_detections.json"
python -m edge_models.training.openset edge_models/onelook --data "$DATA"
python -m edge_models.training.card edge_models/onelook README.md
