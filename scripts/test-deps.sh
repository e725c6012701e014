#!/usr/bin/env bash
# Installs what the tests need beside Go where it is missing: MQTT clients that
# nobody here wrote, an OpenID provider, Stripe's signer and server, the clients of AWS,
# a mail server, and PostgreSQL. What cannot be installed is named, and the tests that
# need it skip; with CI=true that is a failure.
set -euo pipefail
cd "$(dirname "$0")/.."

missing_why=()

give_up() { # name, why
	echo "test-deps: without $1: $2" >&2
	missing_why+=("$1")
}

have_aiosmtpd() { /usr/bin/python3 -c 'import aiosmtpd' 2>/dev/null; }
have_paho() { /usr/bin/python3 -c 'import paho.mqtt.client' 2>/dev/null; }
have_boto() { /usr/bin/python3 -c 'import boto3' 2>/dev/null; }
have_postgres() { command -v initdb >/dev/null || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null; }
have_npm() { # package: installed in the version that e2e/package.json names
	[[ "$(sed -n 's/^ *"version": "\(.*\)",*$/\1/p' "e2e/node_modules/$1/package.json" 2>/dev/null)" == "$(sed -n "s/^ *\"$1\": \"\(.*\)\",*\$/\1/p" e2e/package.json)" ]]
}

packages=()
command -v mosquitto_pub >/dev/null || packages+=(mosquitto-clients)
have_aiosmtpd || packages+=(python3-aiosmtpd)
have_paho || packages+=(python3-paho-mqtt)
have_postgres || packages+=(postgresql)
have_boto || packages+=(python3-boto3)
command -v curl >/dev/null || packages+=(curl)
command -v openssl >/dev/null || packages+=(openssl)
command -v npm >/dev/null || packages+=(nodejs npm)
if ! [[ -x /usr/sbin/mosquitto ]]; then
	if [[ "${CI:-}" == true ]]; then
		packages+=(mosquitto)
	else
		# Its package starts a service on port 1883, which is not ours to start.
		echo "test-deps: without the mosquitto broker: the simulator's codec is not tested against it" >&2
	fi
fi

if ((${#packages[@]})); then
	as_root=()
	if [[ $EUID != 0 ]]; then as_root=(sudo -n); fi
	if ! command -v apt-get >/dev/null; then
		give_up "${packages[*]}" "there is no apt-get here; install them by hand"
	elif [[ $EUID != 0 ]] && ! sudo -n true 2>/dev/null; then
		give_up "${packages[*]}" "neither root nor sudo without a password; install them by hand"
	else
		echo "test-deps: installing ${packages[*]}"
		"${as_root[@]}" apt-get update -qq </dev/null || true
		if ! "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
			apt-get install -y -qq --no-install-recommends "${packages[@]}" </dev/null >/dev/null; then
			give_up "${packages[*]}" "apt-get install failed"
		fi
	fi
fi

if ! have_npm mqtt || ! have_npm oidc-provider || ! have_npm stripe || ! have_npm standardwebhooks || ! have_npm amazon-kinesis-video-streams-webrtc; then
	if ! command -v npm >/dev/null; then
		give_up "what e2e/package.json names" "there is no npm"
	else
		echo "test-deps: installing what e2e/package.json names into e2e/node_modules"
		# Optional packages of the viewer of AWS are 600, for telephones.
		if ! npm install --prefix e2e --no-package-lock --ignore-scripts --omit=optional --no-audit --no-fund --loglevel error </dev/null; then
			give_up "what e2e/package.json names" "npm install failed"
		fi
	fi
fi

# Stripe's own description of its interface as a server. It takes a minute to build.
if ! [[ -x .tools/bin/stripe-mock ]]; then
	echo "test-deps: installing stripe-mock into .tools/bin"
	if ! GOBIN="$PWD/.tools/bin" go install github.com/stripe/stripe-mock@v0.203.0 </dev/null 2>/dev/null; then
		give_up "stripe-mock" "go install failed"
	fi
fi

if ((${#missing_why[@]})) && [[ "${CI:-}" == true ]]; then
	echo "test-deps: with CI=true everything must be there" >&2
	exit 1
fi
