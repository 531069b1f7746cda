#!/usr/bin/env bash
# Trains what the tables of docs/ show and puts their csv beside them: docs/tables.sh [TABLE ...], without a name all.
# Hours on one core. Kill it at any time: the same call resumes from the last checkpoints.
#   DATA    folder of MNIST, and of PhysioNet's set-a, set-c and Outcomes files in DATA/physionet
#   RUNS    where runs are kept (runs/tables)
#   PYTHON  interpreter (python)
set -euo pipefail
DOCS="$(cd "$(dirname "$0")" && pwd)"
RUNS="${RUNS:-runs/tables}" PYTHON="${PYTHON:-python}" DATA="${DATA:-${SCHEMENET_DATA:-data}}"

schemenet() { "$PYTHON" -m lightning_modules "$@"; }

# table NAME.csv EXPERIMENT...: one comparison, the rows of all its runs copied to docs/NAME.csv
table() {
  local name="$1"; shift
  schemenet compare "$@" logger=csv launcher.jobs=1 launcher.threads=1 folder="$RUNS/$name"
  mkdir -p "$DOCS/$(dirname "$name")"
  cp "$RUNS/$name/results.csv" "$DOCS/$name.csv"
}

dynamics() {
  for system in lotka_volterra lorenz; do
    table "dynamics/$system" experiment=dynamics_table "data=$system"
  done
  table dynamics/known experiment=dynamics_known
  table dynamics/species experiment=dynamics_table 'networks=[neural_ode, universal_ode]' baseline=neural_ode arms=null \
    data.train_size=8 data.noise=0.02 trainer.max_epochs=1200 trainer.check_test_every_n_epoch=100 seeds=1
}

densities() {
  for set in pinwheel 2spirals; do
    table "densities/$set" experiment=density_table "data.set=$set"
  done
}

series() {
  for observed in 30 50 100; do
    table "series/spirals_$observed" experiment=spirals_table "data.observed=$observed" seeds=8
  done
  table series/physionet experiment=physionet_interpolation "data.root=$DATA/physionet"
}

mnist() {
  table mnist/results experiment=mnist_words "data.root=$DATA"
}

gradients_along_depth() {
  "$PYTHON" "$DOCS/gradients_along_depth.py"
  schemenet sweep data=digits architecture=resnet56,plain56 architecture.width=0.5 architecture.norm=batch,none \
    optimizer.lr=0.001,0.01,0.1 optimizer.schedule=cosine 'seed=range(3)' data.batch_size=64 trainer.max_epochs=5 \
    logger=csv launcher.jobs=1 launcher.threads=1 folder="$RUNS/gradients_along_depth"
  cp "$RUNS/gradients_along_depth/results.csv" "$DOCS/gradients_along_depth/digits.csv"
}

one_dimension() {
  schemenet sweep experiment=one_dimension architecture.augment=0,1 'seed=range(8)' \
    launcher.jobs=1 launcher.threads=1 folder="$RUNS/one_dimension"
  cp "$RUNS/one_dimension/results.csv" "$DOCS/one_dimension/results.csv"
  "$PYTHON" "$DOCS/one_dimension.py" "$RUNS/one_dimension"
}

depth_doubling() {
  "$PYTHON" "$DOCS/depth_doubling.py" "$RUNS/depth_doubling"
}

[ $# -gt 0 ] || set -- mnist dynamics densities series gradients_along_depth one_dimension depth_doubling
for name in "$@"; do "$name"; done
