#!/bin/sh
# Starts Ceph's object gateway with one monitor and one disk, as an ordinary user; at the first start, makes the
# users that are named as arguments, and writes their keys to S3_CREDENTIALS, one profile for each.
# What it holds survives a restart. There is one copy of it: back up S3_DIR while it is stopped.
set -eu
dir=${S3_DIR:-/var/lib/s3} port=${S3_PORT:-7480} credentials=${S3_CREDENTIALS:-/credentials/credentials}
monitor=${S3_MONITOR_PORT:-6789} bytes=${S3_BYTES:-107374182400}
conf=$dir/ceph.conf
export CEPH_CONF="$conf"
umask 077

write_configuration() {
  cat > "$conf" <<CONF
[global]
fsid = $(cat "$dir/fsid")
mon host = [v1:127.0.0.1:$monitor]
public network = 127.0.0.0/8
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
keyring = $dir/keyring
run dir = $dir
admin socket = $dir/\$name.asok
log file = $dir/\$name.log
crash dir = $dir
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon warn on pool no redundancy = false
mon max pg per osd = 1000
[mon]
mon data = $dir/mon
mon initial members = a
paxos propose interval = 0.05
paxos min wait = 0.02
mon cluster log file = $dir/cluster.log
[osd]
osd data = $dir/osd
osd objectstore = bluestore
bluestore block size = $bytes
osd memory target = 1073741824
[client]
rgw data = $dir/rgw
rgw frontends = beast port=$port tcp_nodelay=1
rgw enable usage log = false
CONF
}

running=
start() {
  "$@" &
  running="$! $running"
}
stop() { # the last one first; a gateway that is expiring objects, as it does by night, hangs for two minutes
  trap - EXIT TERM INT
  for pid in $running; do
    kill "$pid" 2> /dev/null || continue
    { sleep 15 && kill -9 "$pid"; } 2> /dev/null &
    patience=$!
    wait "$pid" || true
    kill "$patience" 2> /dev/null || true
  done
  exit "$1"
}

make_cluster() { # from the beginning, until it is whole
  mkdir -p "$dir/mon" "$dir/osd" "$dir/rgw"
  rm -rf "$dir"/mon/* "$dir"/osd/* "$dir/keyring"
  cat /proc/sys/kernel/random/uuid > "$dir/fsid"
  write_configuration
  ceph-authtool --create-keyring "$dir/keyring" --gen-key -n mon. --cap mon 'allow *'
  for name in client.admin client.rgw; do
    ceph-authtool "$dir/keyring" --gen-key -n $name --cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *'
  done
  ceph-authtool "$dir/keyring" --gen-key -n osd.0 --cap mon 'allow profile osd' --cap osd 'allow *'
  monmaptool --create --clobber --fsid "$(cat "$dir/fsid")" --addv a "[v1:127.0.0.1:$monitor]" "$dir/monmap"
  ceph-mon -i a --mkfs --monmap "$dir/monmap" --keyring "$dir/keyring"
  start ceph-mon -f -i a
  disk=$(cat /proc/sys/kernel/random/uuid)
  ceph osd new "$disk" 0
  ceph-osd -i 0 --mkfs --osd-uuid "$disk"
  touch "$dir/made"
}

make_user() { # keeps keys that were made before
  grep -qs "^\[$1\]" "$credentials" && return
  key=$(od -An -N10 -tx1 /dev/urandom | tr -d ' \n') secret=$(od -An -N20 -tx1 /dev/urandom | tr -d ' \n')
  radosgw-admin user create --uid="$1" --display-name="$1" --access-key="$key" --secret-key="$secret" > /dev/null
  printf '[%s]\naws_access_key_id = %s\naws_secret_access_key = %s\n\n' "$1" "$key" "$secret" >> "$credentials"
}

mkdir -p "$dir" "$(dirname "$credentials")"
trap 'stop 1' EXIT
trap 'stop 0' TERM INT
if [ -e "$dir/made" ]; then
  write_configuration
  start ceph-mon -f -i a
else
  make_cluster
fi
start ceph-osd -f -i 0
for name in "$@"; do make_user "$name"; done
chmod 0644 "$credentials" # for the users of the other containers, which share nothing but this volume
start radosgw -f -n client.rgw
echo "S3 on port $port; keys of $* in $credentials"
wait
