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
# The shipped run took 2 h 10 min of wall time on two busy cores. It was stopped and resumed as data
# came in (the logs are in edge_models/checkpoints/log/), which is why phases follow each other:
#   A  faces, fer, fairface, rafdb                      to step  5,000 (landmark weight 2)
#   B  + celeba178, aaf; canvases of 320 px             to step  7,000
#   C  + utk; landmark weight 12, box and score 1.5     to step 20,500
#   D  + hqmen, portraits, vgg; rate falling from 2e-3  to step 23,500 (of a plan for 25,000)
#   E  + scenes2; plan "scenes"; rate 5e-4 falling      1,400 steps (planned 1,700)
#   F  fewer faces at hand: faces; fer from step 500, rafdb from 2,000, 6,000 of fairface from 5,000; scenes2 of 1,963
#      pictures (masks, streets and CelebA in the wild, none enlarged for labelling); plan "frames"; 1e-3 to step 2,000, then
#      the norms' figures held still and 6e-4, falling from step 3,000. 1 h 20 min on a share of two busy cores.
#
#   G  faces, fer, rafdb, fairface, fairface2, fairface3, utk (108,525 faces), two processes on two cores; race7 joins the traits;
#      Muon in the place of AdamW, and the loss `choice`; plan "last", the norms' figures still, 1e-3 falling all the way.
#
# The network that is to follow (dense.py: --network dense) has been begun on the shards of G: plan "faces" with 2e-3, from step
# 2,800 in two processes with 2.5e-3, from 7,200 plan "last" with 2e-3 falling (edge_models/checkpoints/dense-begun.pt, after 2.3
# million faces, of some ten that it needs; its log is dense.csv). Go on with
#   train RUN --network dense --weights edge_models/checkpoints/dense-begun.pt --faces ... --scenes ... --plans faces, then last.
# Run from nothing, A to D are one call, and so are F and G; the weights will be as good but not the same.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PYTHONPATH=daemon:. OMP_WAIT_POLICY=PASSIVE
all="$DATA/faces.npz $DATA/fer.npz $DATA/fairface.npz $DATA/rafdb.npz $DATA/celeba178.npz $DATA/aaf.npz \
$DATA/utk.npz $DATA/hqmen.npz $DATA/portraits.npz $DATA/vgg.npz"
[ -f "$DATA/fer.npz" ] || python -m edge_models.training.align_fer "$DATA/fer2013.npz" "$WEIGHTS/yunet_n_dynamic.onnx" "$DATA/fer"
python -m edge_models.training.train "$RUNS/first" --faces $all --scenes "$DATA/scenes" \
  --backgrounds "$RAW/nonfaces" --threads 1 --seed 1 --steps 25000 --decay 4500 --optimiser adamw
python -m edge_models.training.train "$RUNS/second" --weights "$RUNS/first/last.pt" --plans scenes --rate 5e-4 --warm 60 \
  --faces $all --scenes "$DATA/scenes" "$DATA/scenes2" --backgrounds "$RAW/nonfaces" --threads 1 --seed 1 \
  --steps 1400 --decay 1400 --optimiser adamw
python -m edge_models.training.train "$RUNS/third" --weights "$RUNS/second/last.pt" --plans frames --rate 6e-4 --warm 200 \
  --freeze-norms --faces "$DATA"/{faces,fer,rafdb,fairface}.npz --scenes "$DATA/scenes" "$DATA/scenes2" \
  --backgrounds "$RAW/nonfaces" --threads 1 --seed 1 --steps 6200 --decay 3200 --optimiser adamw
torchrun --nproc-per-node 2 -m edge_models.training.train "$RUNS/fourth" --weights "$RUNS/third/last.pt" --plans last \
  --rate 1e-3 --warm 60 --freeze-norms --faces "$DATA"/{faces,fer,rafdb,fairface,fairface2,fairface3,utk}.npz \
  --scenes "$DATA/scenes" "$DATA/scenes2" --backgrounds "$RAW/nonfaces" --threads 1 --workers 0 --seed 1 \
  --steps 3600 --decay 3500
python -m edge_models.training.export "$RUNS/fourth" edge_models/onelook --faces "$DATA/faces.npz" "$DATA/fer.npz" \
  --scenes "$DATA/scenes"
python -m edge_models.training.calibrate edge_models/onelook --data "$DATA"/{faces,fairface}.npz
[ -f "$DATA/reference_detections.json" ] || python -m edge_models.training.consensus "$RAW/testdata" \
  "$DATA/reference_detections.json" --scrfd "$WEIGHTS/scrfd_2.5g.onnx" --yunet "$WEIGHTS/yunet_n_dynamic.onnx"
python -m edge_models.training.evaluate edge_models/onelook --data "$DATA"/{lfw,faces,fer,rafdb,fairface}.npz \
  --pictures "$RAW/testdata" --reference "$DATA/reference_detections.json" --yunet "$WEIGHTS/yunet_n_dynamic.onnx"
python -m edge_models.training.openset edge_models/onelook --data "$DATA"
python -m edge_models.training.card edge_models/onelook README.md
