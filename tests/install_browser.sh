#!/bin/sh
# Installs the browser that the report is tested in (Debian's Chromium, 90 MB) where that is possible.
# Never fails: the test that needs it is skipped without it, and says so.
command -v chromium >/dev/null 2>&1 && exit 0
say="the report will NOT be tested in a browser; as root: apt-get install -y --no-install-recommends chromium"
[ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1 || { echo "$say"; exit 0; }
export DEBIAN_FRONTEND=noninteractive
install="apt-get install -y -qq --no-install-recommends chromium"
echo "installing chromium for the test of the report"
{ $install || { apt-get update -qq && $install; }; } >/dev/null 2>&1 || echo "$say"
exit 0
