# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Functions that the scripts of this folder share: messages, steps with progress, the cache.

die() {
	echo "error: $*" >&2
	exit 1
}

note() {
	echo "$*" >&2
}

# shown PATH: prints the name of something in the cache outside of the build root, which knows the
# cache by another one.
shown() {
	echo "${P2PMEM_CACHE:-$CACHE}${1#"$CACHE"}"
}

# Says why a step failed, from what it printed: one line, where the cause is known.
cause() {
	local log=$1 step=$2
	if grep -qE 'No space left on device|not enough free space' "$log"; then
		die "$step: the disk of $(shown "$CACHE") is full: free some 6 GB there, or set XDG_CACHE_HOME"
	elif grep -qE 'Temporary failure resolving|Could not resolve|Could not connect|Unable to connect|Connection (refused|timed out|failed)|Network is unreachable|Failed to fetch|no such host' "$log"; then
		die "$step: the mirror $MIRROR cannot be reached: check the network, or set P2PMEM_MIRROR"
	fi
	tail -n 15 "$log" >&2
	die "$step: failed, all of its output is in $(shown "$log")"
}

# step TEXT COMMAND...: runs something that takes long. Its output goes to a log; here it says
# what it does, for how long, and on a terminal the last line of the log.
step() {
	local text=$1 log started pid seconds last width shown=0
	shift
	mkdir -p "$CACHE/log"
	log=$CACHE/log/$(date +%Y%m%d-%H%M%S)-$$-${text//[^a-zA-Z0-9]/-}
	started=$SECONDS
	[ -t 2 ] || note "$text ..."

	"$@" >"$log" 2>&1 </dev/null &
	pid=$!
	while kill -0 "$pid" 2>/dev/null; do
		seconds=$((SECONDS - started))
		if [ -t 2 ]; then
			width=$(($(tput cols 2>/dev/null || echo 80) - 10))
			last=$(tail -n 1 "$log" | tr -dc '[:print:]') || last=
			last="$text ${seconds}s $last"
			printf '\r\033[K%s' "${last:0:$((width > 20 ? width : 20))}" >&2
		elif ((seconds / 15 > shown)); then
			shown=$((seconds / 15))
			note "$text ... ${seconds}s"
		fi
		sleep 0.2
	done
	[ ! -t 2 ] || printf '\r\033[K' >&2
	if ! wait "$pid"; then
		cause "$log" "$text"
	fi
	note "$text: done in $((SECONDS - started)) s"
}

# lock DESCRIPTOR WHAT: takes a lock for itself alone, and says so if that takes long.
lock() {
	flock --exclusive --nonblock "$1" && return
	note "waiting for another run that makes or uses $2 ..."
	flock --exclusive "$1"
}

# room GIGABYTES: fails early where the cache's disk has less.
room() {
	local free
	free=$(df --output=avail -k "$CACHE" | tail -n 1)
	((free > $1 * 1024 * 1024)) ||
		die "$(shown "$CACHE") needs $1 GB of free disk, there are $((free / 1024 / 1024)): free some, or set XDG_CACHE_HOME"
}

MIRROR=${P2PMEM_MIRROR:-http://deb.debian.org/debian}
