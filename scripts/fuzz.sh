#!/usr/bin/env bash
# Runs each fuzz target of the module for a time: scripts/fuzz.sh 10s. As many run at
# once as there are processors, with one worker each.
set -euo pipefail
cd "$(dirname "$0")/.."

export FUZZ_TIME=${1:-1m}

# fuzz_target runs one target and prints what it said only when it failed.
fuzz_target() { # package, target
	local output tries
	output=$(mktemp)
	for tries in first second; do
		if go test -run '^$' -fuzz "^$2\$" -fuzztime "$FUZZ_TIME" -parallel 1 "$1" >"$output" 2>&1 </dev/null; then
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

targets=$(
	go list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}' ./... | sed '/^$/d' | while read -r package; do
		{ go test -list '^Fuzz' "$package" | grep '^Fuzz' || true; } | sed "s|^|$package |"
	done
)
[[ -n $targets ]]
xargs -P "$(getconf _NPROCESSORS_ONLN)" -L 1 bash -c 'fuzz_target "$@"' fuzz <<<"$targets"
echo "fuzz: $(wc -l <<<"$targets") targets, $FUZZ_TIME each"
