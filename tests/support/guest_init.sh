#!/bin/busybox sh
# The first process of the guest of tests/support/guest.py. It shows the guest this host's files,
# lays what the guest has of its own over them, and starts systemd. What the guest changes is lost
# with it, except on its disk and in its folder. ADDRESS, FOLDER and SERVED come from the kernel's
# command line.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in /modules/*; do insmod "$module"; done

mount -r -t hostfs -o / none /host
mount -t tmpfs -o mode=755 tmpfs /changes
mkdir /changes/upper /changes/work
mount -t overlay -o lowerdir=/host,upperdir=/changes/upper,workdir=/changes/work overlay /new
mkdir -p /new/guest /new/lib/modules
mount -t hostfs -o "$FOLDER" none /new/guest
mkdir -p /new/guest/served
mount -t hostfs -o "$SERVED" none /new/guest/served
mount --bind /host/usr/lib/uml/modules /new/lib/modules
[ -e /new/sbin/modprobe ] || ln -s /bin/busybox /new/sbin/modprobe

# Of the host's services only what systemd itself brings.
rm -rf /new/etc/systemd/system /new/etc/fstab /new/etc/crypttab
mkdir -p /new/etc/systemd/system-generators /new/etc/tmpfiles.d
for name in /host/lib/systemd/system-generators/*; do
    case ${name##*/} in
    systemd-fstab-generator) ;;
    *) ln -sf /dev/null "/new/etc/systemd/system-generators/${name##*/}" ;;
    esac
done
ln -sf /dev/null /new/etc/tmpfiles.d/tmp.conf # it would empty /tmp
cp -a /new/guest/root/. /new/

ip link set lo up
ip link set vec0 up
ip addr add "$ADDRESS/30" dev vec0
hostname guest
. /new/guest/prepare

for name in proc sys dev; do mount --move /$name /new/$name; done
exec switch_root /new /lib/systemd/systemd
