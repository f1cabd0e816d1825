#!/bin/sh
# usage: install_azurite.sh WHAT_IS_LOST FOLDER
# Installs Azurite, an emulator of Azure Blob Storage, from npm into a folder, where npm is there.
# Never fails: without it those tests are skipped, and say so.
command -v azurite-blob >/dev/null 2>&1 && exit 0
[ -x "$2/node_modules/.bin/azurite-blob" ] && exit 0
say="$1; npm install --prefix $2 azurite@3.35.0"
command -v npm >/dev/null 2>&1 || { echo "$say"; exit 0; }
echo "installing azurite for the tests"
mkdir -p "$2"
npm install --silent --no-audit --no-fund --prefix "$2" azurite@3.35.0 >/dev/null 2>&1 || echo "$say"
exit 0
