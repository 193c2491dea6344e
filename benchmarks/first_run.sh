#!/usr/bin/env bash
# The first run of the GPU backend on a device: 800 seconds in two commands of at most 10 minutes each, no network, nothing installed.
#
#   bash benchmarks/first_run.sh first  [--out DIR]   is it right, and how fast: smoke test, device tests, report
#   bash benchmarks/first_run.sh second [--out DIR]   what to tune and what is hidden: sweep of tiles, ncu, sanitizers
#   bash benchmarks/first_run.sh --rehearse           both at toy size on the CPU, in Triton's interpreter
#
# DIR is $OUT, or out/first_run; every result is there as soon as it is known, in at most 8 files. Each step has a time limit; one that
# fails or runs out of time is a line in the table, and the others go on, but for the smoke test: after wrong values nothing is worth
# measuring. The exit status is 1 if a step failed.
#
# It needs a copy of this tree and a python3 (or what PYTHON names) with torch, triton, numpy, numba, scipy, threadpoolctl, pybind11,
# setuptools, pytest, pytest-xdist and a C++ compiler. It is faster with, in the ignored folder .carry/:
#   .carry/triton-cache.tar.gz   compiled kernels, by `python benchmarks/gpu_compile.py cache` of the same tree with the same triton
#   .carry/shared/data/mnist/    MNIST, where NC_FAST_SHARED names no folder and ../shared is absent; without it agreement is skipped
# A compiled nc_fast/_projector*.so for the same Python may be carried too; otherwise it is built.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
ROOT=$PWD

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$ROOT/benchmarks/first_run.sh"; }

parts=()
out=${OUT:-out/first_run}
rehearse=
while (($#)); do
    case $1 in
        first | second) parts+=("$1") ;;
        --rehearse) rehearse=1 ;;
        --out) out=${2:?--out needs a folder} && shift ;;
        -h | --help) usage && exit ;;
        *) usage >&2 && exit 2 ;;
    esac
    shift
done
if [[ ${#parts[@]} == 0 ]]; then
    [[ $rehearse ]] || { usage >&2 && exit 2; }
    parts=(first second)
fi
mkdir -p "$out"
out=$(cd "$out" && pwd)

PYTHON=${PYTHON:-python3}
export PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
workers=8 slack=1 tiny=()
if [[ $rehearse ]]; then
    export TRITON_INTERPRET=1 CUDA_VISIBLE_DEVICES=
    workers=2 slack=3 tiny=(--tiny) # a busy machine of two cores
else
    unset TRITON_INTERPRET
fi
if [[ -z ${NC_FAST_SHARED:-} && ! -d ../shared/data/mnist && -d .carry/shared/data/mnist ]]; then
    export NC_FAST_SHARED=$ROOT/.carry/shared
fi

failed=0 smoked=
record() { # NAME SECONDS LIMIT HOW: a line of the table
    printf '%s\t%s s\t%s s\t%s\n' "$@" >>"$steps"
}

step() { # NAME LIMIT COMMAND...: run it within the limit, show and keep what it says, record how it ended
    local name=$1 limit=$(($2 * slack)) status=0 start=$SECONDS how=ok
    shift 2
    printf '\n== %s (at most %s s)\n' "$name" "$limit" | tee -a "$log"
    timeout --kill-after=5 "$limit" "$@" 2>&1 | tee -a "$log" || status=${PIPESTATUS[0]}
    case $status in
        0) ;;
        124) how="out of time" ;;
        137) how="killed" ;;
        *) how="failed, exit status $status" ;;
    esac
    [[ $how == ok ]] || failed=1
    record "$name" $((SECONDS - start)) "$limit" "$how"
    return "$status"
}

skip() { # NAME WHY
    printf '\n== %s: skipped, %s\n' "$1" "$2" | tee -a "$log"
    record "$1" 0 0 "skipped: $2"
}

tool() { # NAME: print the path of one of CUDA's tools, or nothing
    command -v "$1" || find /usr/local/cuda*/bin /opt/nvidia -name "$1" -type f -perm -u+x 2>/dev/null | head -n 1 || true
}

begin() { # PART
    log=$out/$1.log steps=$out/$1.steps.tsv
    rm -f "$log" "$steps"
    if [[ -f .carry/triton-cache.tar.gz ]]; then
        export TRITON_CACHE_DIR=$ROOT/out/triton-cache
        mkdir -p "$TRITON_CACHE_DIR"
        step "unpack compiled kernels" 10 "$PYTHON" benchmarks/triton_cache.py .carry/triton-cache.tar.gz "$TRITON_CACHE_DIR" || true
    fi
    # The import is tried outside the table: on a bare tree it is to fail.
    if ! timeout $((20 * slack)) "$PYTHON" -c 'import nc_fast._projector' 2>/dev/null; then
        step "build nc_fast._projector" 90 "$PYTHON" setup.py build_ext --inplace || true
    fi
    step "import, versions" 30 "$PYTHON" benchmarks/gpu_machine.py || true
    [[ $smoked ]] || step "smoke test" 60 "$PYTHON" benchmarks/gpu_smoke.py || {
        printf '\nThe smoke test failed: nothing else is run.\n' | tee -a "$log"
        return 1
    }
    smoked=1
}

device_tests() {
    local options=(-q -m "gpu and not slow" -W default -p no:cacheprovider -n "$workers")
    "$PYTHON" -c 'import pytest_timeout' 2>/dev/null && options+=(--timeout 60)
    step "device tests" 120 "$PYTHON" -m pytest "${options[@]}" tests/backends/test_gpu_device.py || true
}

first() {
    rm -f "$out/report.json"
    device_tests
    step "report" 220 "$PYTHON" benchmarks/gpu_report.py "${tiny[@]}" --out "$out/report.json" || true
}

profile() { # ncu's counters of pure_runs, once for each precision
    local ncu metrics
    ncu=$(tool ncu)
    metrics=gpu__time_duration.sum,sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_elapsed
    metrics+=,sm__inst_executed_pipe_tensor_op_gmma.avg.pct_of_peak_sustained_active
    metrics+=,lts__throughput.avg.pct_of_peak_sustained_elapsed,dram__bytes_read.sum,dram__bytes_write.sum
    metrics+=,launch__registers_per_thread,launch__occupancy_limit_registers,sm__warps_active.avg.pct_of_peak_sustained_active
    if [[ $rehearse ]]; then
        step "ncu's program, without ncu" 40 "$PYTHON" benchmarks/gpu_watched.py products || true
    elif [[ -z $ncu ]]; then
        skip "ncu" "there is no ncu"
    else
        step "ncu" 40 "$ncu" --clock-control none --kernel-name regex:pure_runs --launch-count 4 --metrics "$metrics" \
            --log-file "$out/ncu.txt" "$PYTHON" benchmarks/gpu_watched.py products || true
        [[ ! -f $out/ncu.txt ]] || tee -a "$log" <"$out/ncu.txt"
    fi
}

sanitize() {
    local sanitizer
    sanitizer=$(tool compute-sanitizer)
    if [[ $rehearse ]]; then
        step "the sanitizers' program, without them" 50 "$PYTHON" benchmarks/gpu_watched.py everything || true
    elif [[ -z $sanitizer ]]; then
        skip "memcheck, racecheck" "there is no compute-sanitizer"
    else
        # Without torch's caching every tensor is an allocation of its own, so that memcheck sees where it ends.
        step "memcheck" 50 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 \
            "$sanitizer" --tool memcheck --error-exitcode 1 "$PYTHON" benchmarks/gpu_watched.py everything || true
        step "racecheck (shared memory; not global, where window_greedy keeps its rows)" 50 \
            "$sanitizer" --tool racecheck --error-exitcode 1 "$PYTHON" benchmarks/gpu_watched.py everything || true
    fi
}

second() {
    rm -f "$out/sweep.json" "$out/ncu.txt"
    step "sweep of tiles" 90 "$PYTHON" benchmarks/gpu_sweep.py "${tiny[@]}" --out "$out/sweep.json" || true
    profile
    sanitize
    # Compiling takes most of it: ConSan puts a check before every access to shared memory.
    step "ConSan of the product kernels" 60 "$PYTHON" benchmarks/gpu_watched.py consan || true
}

summary() { # PART: the end of what is printed is what is surely seen
    local table=report
    [[ $1 == first ]] || table=sweep
    printf '\n\n== Summary of the %s command\n' "$1"
    [[ ! -f $out/$table.json ]] || "$PYTHON" benchmarks/gpu_results.py "$out/$table.json" || true
    printf '\nstep, took, limit, how it ended\n'
    cat "$out/$1.steps.tsv"
    printf 'results: %s\n' "$out"
}

for part in "${parts[@]}"; do
    if begin "$part"; then
        case $part in
            first) first ;;
            second) second ;;
        esac
        summary "$part"
    else
        summary "$part"
        break
    fi
done
exit "$failed"
