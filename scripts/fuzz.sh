#!/usr/bin/env bash
# Runs each fuzz target of the module for a time: scripts/fuzz.sh 10s. Each has one
# worker, and twice as many run at once as there are processors: so a run of 10 s each
# stays within minutes, however many decoders there will be. Each package is built once.
set -euo pipefail
cd "$(dirname "$0")/.."

export FUZZ_TIME=${1:-1m}
FUZZ_CACHE=$(go env GOCACHE)/fuzz
FUZZ_BIN=$(mktemp -d)
export FUZZ_CACHE FUZZ_BIN
trap 'rm -rf "$FUZZ_BIN"' EXIT

# fuzz_build builds the test binary of a package, with the fuzzer's counters.
fuzz_build() { # folder
	go test -c -fuzz . -o "$FUZZ_BIN/${1//\//_}" "./$1"
}
export -f fuzz_build

# fuzz_target runs one target and prints what it said only when it failed.
fuzz_target() { # folder, target
	local output tries
	output=$(mktemp)
	for tries in first second; do
		if (cd "$1" && "$FUZZ_BIN/${1//\//_}" -test.run '^$' -test.fuzz "^$2\$" -test.fuzztime "$FUZZ_TIME" -test.parallel 1 \
			-test.fuzzcachedir "$FUZZ_CACHE/$1") >"$output" 2>&1 </dev/null; then
			echo "fuzz: $1 $2: $(sed -n 's/^fuzz: elapsed: .*, execs: \([0-9]*\) .*/\1/p' "$output" | tail -n 1) inputs"
			rm -f "$output"
			return 0
		fi
		# On a busy machine the fuzzer itself can fail to stop in time, without having
		# found anything.
		if [[ $tries == second ]] || grep -q 'Failing input written' "$output" || ! grep -q 'context deadline exceeded' "$output"; then
			break
		fi
		echo "fuzz: $2 did not stop in time; once more"
	done
	cat "$output"
	rm -f "$output"
	return 1
}
export -f fuzz_target

# folder and target, a line each
targets=$(git ls-files --cached --others --exclude-standard '*_test.go' | xargs grep -o '^func Fuzz[A-Za-z0-9_]*' /dev/null | sed 's|/[^/]*:func | |' | sort)
[[ -n $targets ]]
processors=$(getconf _NPROCESSORS_ONLN)
cut -d ' ' -f 1 <<<"$targets" | sort -u | xargs -P "$processors" -I '{}' bash -c 'fuzz_build "$1"' fuzz '{}'
xargs -P "$((2 * processors))" -L 1 bash -c 'fuzz_target "$@"' fuzz <<<"$targets"
echo "fuzz: $(wc -l <<<"$targets") targets, $FUZZ_TIME each"
