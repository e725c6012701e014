#!/usr/bin/env bash
# Runs each fuzz target of the module for a time: scripts/fuzz.sh 10s
set -euo pipefail
cd "$(dirname "$0")/.."

time=${1:-1m}
count=0
output=$(mktemp)
trap 'rm -f "$output"' EXIT

run() { # package, target
	go test -run '^$' -fuzz "^$2\$" -fuzztime "$time" "$1" 2>&1 </dev/null | tee "$output"
}

while read -r package; do
	targets=$(go test -list '^Fuzz' "$package" | grep '^Fuzz' || true)
	for target in $targets; do
		echo "fuzz: $package $target $time"
		if ! run "$package" "$target"; then
			# On a busy machine the fuzzer itself can fail to stop in time, without
			# having found anything.
			grep -q 'context deadline exceeded' "$output"
			if grep -q "Failing input written" "$output"; then exit 1; fi
			echo "fuzz: $target did not stop in time; once more"
			run "$package" "$target"
		fi
		count=$((count + 1))
	done
done < <(go list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}' ./... | sed '/^$/d')
echo "fuzz: $count targets, $time each"
((count > 0))
