#!/usr/bin/env bash
# Linters, the length of files, and no path or address of one machine in any file.
# gofumpt and staticcheck are installed into .tools where they are missing.
set -euo pipefail
cd "$(dirname "$0")/.."

gofumpt_version=v0.12.0
staticcheck_version=v0.8.2
export PATH="$PWD/.tools/bin:$PATH"
failed=0

tool() { # name, module, version
	if ! command -v "$1" >/dev/null; then
		echo "lint: installing $1 $3 into .tools"
		GOBIN="$PWD/.tools/bin" go install "$2@$3"
	fi
}
tool gofumpt mvdan.cc/gofumpt "$gofumpt_version"
tool staticcheck honnef.co/go/tools/cmd/staticcheck "$staticcheck_version"

# every file that is committed or would be
mapfile -t files < <(git ls-files --cached --others --exclude-standard | while read -r f; do [[ -f $f ]] && echo "$f"; done)
mapfile -t go_files < <(printf '%s\n' "${files[@]}" | grep '\.go$')

unformatted=$(gofumpt -l "${go_files[@]}")
if [[ -n $unformatted ]]; then
	echo "lint: not formatted by gofumpt:"
	echo "$unformatted"
	failed=1
fi

go vet ./... || failed=1
staticcheck ./... || failed=1

for f in "${go_files[@]}"; do
	lines=$(wc -l <"$f")
	if [[ $f != *_test.go ]] && ((lines > 600)); then
		echo "lint: $f has $lines lines, more than 600"
		failed=1
	fi
done

# The brackets keep the patterns from matching themselves.
if grep -nE '(^|[^[:alnum:]_.}-])/(wor[k]|roo[t])/|regist[r]y\.npmjs|prox[y]\.golang\.org|de[b]\.debian\.org' "${files[@]}" /dev/null; then
	echo "lint: the lines above name a path of one machine or a registry's host"
	failed=1
fi

if ((failed)); then
	exit 1
fi
echo "lint: ok, ${#go_files[@]} Go files"
