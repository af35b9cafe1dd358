#!/usr/bin/env bash
# The measuring hour: everything that needs a GPU, by one command, on a machine that is there for minutes.
#
#     benchmarks/measure_gpu.sh FOLDER [--minutes 60] [--device cpu] [--tiny] [--cifar10 FILES] [PART ...]
#
# Parts run one after the other, each for at most eight minutes, and each row of FOLDER/*.csv is on the disk before the
# next one is measured. The same command continues after a kill, on another machine too if it finds FOLDER there:
# finished parts and finished rows are skipped. Where commands are ended after ten minutes, give `--minutes 9` as often
# as needed; the parts that matter most come first, and naming some, as `sigreg training-vit_l14`, leaves out the others.
# After each part FOLDER/all.tar.gz holds its rows, logs and marks of finished parts, for machines that give back few
# files; unpacked in an empty FOLDER it can be continued.
# To measure a row again, delete it and FOLDER/PART.done. At the end, or with the part `table` alone, a Markdown table
# for docs/measurements.md is printed. Neither `datasets` nor a network is needed; CIFAR-10 is trained on if its Parquet
# files are named, otherwise generated images are. With two or more GPUs the part `ranks` is added. `--tiny --device cpu`
# is the dry run of all parts, see tests/benchmarks/test_measure_gpu.py.
set -u

usage() { sed -n '4p' "$0" | sed 's/^# *//' >&2; exit 2; }

[ $# -ge 1 ] && [ "${1#-}" = "$1" ] || usage
folder=$1; shift
minutes=60 part_seconds=${LEJEPA_PART_SECONDS:-480} device=cuda tiny="" cifar10="" parts=()
while [ $# -gt 0 ]; do
  case $1 in
    --minutes) minutes=$2; shift 2 ;;
    --device) device=$2; shift 2 ;;
    --cifar10) cifar10=$2; shift 2 ;;
    --tiny) tiny=--tiny; shift ;;
    -*) usage ;;
    *) parts+=("$1"); shift ;;
  esac
done

python=$(command -v python || command -v python3) || { echo "python is not on the PATH" >&2; exit 1; }
mkdir -p "$folder/logs" || exit 1
folder=$(cd "$folder" && pwd)
cd "$(dirname "$0")/.." || exit 1
export PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}"
export PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True  # batches of several sizes follow each other
export HF_HUB_OFFLINE=${HF_HUB_OFFLINE:-1}

if [ ${#parts[@]} -eq 0 ]; then
  gpus=$("$python" -c 'import torch; print(torch.cuda.device_count())')
  parts=(tests sigreg photometric)
  [ -n "$tiny" ] || parts+=(training-vit_l14)
  parts+=(training-vit_s16 resume)
  [ "$gpus" -gt 1 ] || [ "$device" = cpu ] && parts+=(ranks)
  [ -n "$tiny" ] || parts+=(training-vit_b16 training-resnet50 training-convnext_t)
  parts+=(decoding cifar10)
fi

pack() (  # whole or not at all, should this script be killed meanwhile
  cd "$folder" && shopt -s nullglob && tar -czf all.tar.gz.part logs *.csv *.done && mv all.tar.gz.part all.tar.gz
)

end=$((SECONDS + minutes * 60)) failures=0 running=""
trap '[ -z "$running" ] || kill "$running"; exit 143' TERM INT  # the part would go on without this script
for part in "${parts[@]}"; do
  [ "$part" = table ] && continue
  if [ -f "$folder/$part.done" ]; then echo "$part: finished earlier"; continue; fi
  left=$((end - SECONDS)); limit=$((left < part_seconds ? left : part_seconds))
  if [ "$limit" -lt 20 ]; then echo "$part: no time left"; failures=$((failures + 1)); continue; fi
  script=${part%%-*} argument=()
  [ "$script" = "$part" ] || argument=("${part#*-}")
  [ "$part" = cifar10 ] && argument=(--seconds "$limit" ${cifar10:+--dataset "$cifar10"})
  echo "$part: at most $limit s"
  timeout --kill-after=10 "$limit" "$python" "benchmarks/measure_$script.py" "$folder" --device "$device" $tiny \
    ${argument[@]+"${argument[@]}"} >>"$folder/logs/$part.txt" 2>&1 &
  running=$!
  wait "$running"
  code=$?
  case $code in
    0) touch "$folder/$part.done"; echo "$part: finished" ;;
    124|137) failures=$((failures + 1)); echo "$part: out of time, the same command continues" ;;
    *) failures=$((failures + 1)); echo "$part: failed with $code, see $folder/logs/$part.txt" ;;
  esac
  pack || failures=$((failures + 1))
done
pack || failures=$((failures + 1))
"$python" benchmarks/measure_table.py "$folder"
exit $((failures > 0))
