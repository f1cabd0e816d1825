#!/bin/sh
# usage: install_packages.sh WHAT_IS_LOST PACKAGE[:COMMAND]...
# Installs Debian packages that some tests need, where that is possible; each brings a command of
# its own name, or COMMAND. Never fails: without them those tests are skipped, and say so.
lost=$1
shift
missing= all=
for one; do
    all="$all ${one%%:*}"
    command -v "${one#*:}" >/dev/null 2>&1 || missing="$missing ${one%%:*}"
done
[ -n "$missing" ] || exit 0
say="$lost; as root: apt-get install -y --no-install-recommends$all"
[ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1 || { echo "$say"; exit 0; }
export DEBIAN_FRONTEND=noninteractive
install="apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends$all"
echo "installing$all for the tests"
{ $install || { apt-get update -qq && $install; }; } >/dev/null 2>&1 || echo "$say"
exit 0
