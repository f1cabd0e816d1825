#!/bin/sh
# usage: install_packages.sh WHAT_IS_LOST PACKAGE...
# Installs Debian packages that some tests need, where that is possible; each brings a command of
# its own name. Never fails: without them those tests are skipped, and say so.
lost=$1
shift
missing=
for package; do
    command -v "$package" >/dev/null 2>&1 || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
say="$lost; as root: apt-get install -y --no-install-recommends $*"
[ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1 || { echo "$say"; exit 0; }
export DEBIAN_FRONTEND=noninteractive
install="apt-get install -y -qq --no-install-recommends $*"
echo "installing $* for the tests"
{ $install || { apt-get update -qq && $install; }; } >/dev/null 2>&1 || echo "$say"
exit 0
