#!/bin/sh
# Make the disk of the tests' Debian machine, with systemd: debian.sh FOLDER KERNEL.
#
# KERNEL is what kernel.sh has made.  FOLDER gets disk.qcow2, packed, from which QEMU boots as it is,
# and `made-of`, by which the next call knows whether it is still the same; making it takes root, a
# mirror of Debian's and a minute.  Where it can't be made, one line says why.
set -eu

RELEASE=bookworm
PACKAGES=systemd-sysv,systemd-resolved,udev,dbus,kmod,procps,python3,iproute2,iputils-ping,curl,dnf,rpm,python3-systemd
SIZE=4G

here=$(dirname "$0")
folder=$1
kernel=$2

give_up() { # REASON
    echo "No Debian machine for the tests in tests/vm: $1" >&2
    exit 1
}

made_of() {
    cat "$0" "$here/machine_agent.py"
    cd "$kernel/lib/modules" && echo *
}

export PATH="$PATH:/usr/sbin:/sbin"
command -v qemu-system-x86_64 >/dev/null || give_up "qemu-system-x86_64 is missing"
[ -e "$kernel/lib" ] || give_up "Debian's cloud kernel could not be had by apt-get"
sum=$(made_of | sha256sum)
[ "$(cat "$folder/made-of" 2>/dev/null)" != "$sum" ] || exit 0
[ "$(id -u)" = 0 ] || give_up "root has to make its disk, once (sudo make test-vm)"
for program in mmdebstrap mke2fs qemu-img; do
    command -v $program >/dev/null || give_up "$program is missing"
done

echo "Making a disk with Debian and systemd ..." >&2
mkdir -p "$folder"
rm -f "$folder/made-of" "$folder/disk.qcow2"
work=$(mktemp -d "$folder/work.XXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 2' HUP INT TERM
root=$work/root

# No documentation: what nobody reads is not unpacked.
mmdebstrap --quiet --mode=root --format=directory --variant=essential --include="$PACKAGES" \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/info/*' \
    "$RELEASE" "$root" >"$folder/mmdebstrap.log" 2>&1 ||
    give_up "mmdebstrap: $(sed -n 's/^E: //p' "$folder/mmdebstrap.log" | head -n 1)"

cp -r "$kernel/lib/modules" "$root/lib/"
chroot "$root" depmod "$(ls "$root/lib/modules")"

install -D "$here/machine_agent.py" "$root/usr/local/lib/machine_agent.py"
cat >"$root/etc/systemd/system/machine-agent.service" <<'UNIT'
[Unit]
Description=Commands from outside, for the tests
BindsTo=dev-virtio\x2dports-commands.device
After=dev-virtio\x2dports-commands.device

[Service]
ExecStart=/usr/bin/python3 -u /usr/local/lib/machine_agent.py /dev/virtio-ports/commands
Environment=HOME=/root LANG=C.UTF-8
WorkingDirectory=/root
# What a command has left in the background is not the agent's.
KillMode=process

[Install]
WantedBy=multi-user.target
UNIT
systemctl --quiet --root="$root" enable machine-agent.service
systemctl --quiet --root="$root" set-default multi-user.target
# Nobody logs in, nothing happens by the clock, and names are looked up for those only who ask for it.
systemctl --quiet --root="$root" mask getty.target getty@.service serial-getty@.service \
    dpkg-db-backup.timer fstrim.timer
systemctl --quiet --root="$root" disable systemd-resolved.service

echo machine >"$root/etc/hostname"
printf '127.0.0.1 localhost machine\n' >"$root/etc/hosts"
echo 0123456789abcdef0123456789abcdef >"$root/etc/machine-id"
echo '/dev/nvme0n1 / ext4 defaults 0 0' >"$root/etc/fstab"
rm -f "$root/etc/resolv.conf"
: >"$root/etc/resolv.conf"

mke2fs -q -t ext4 -d "$root" "$work/disk" "$SIZE" >"$folder/mke2fs.log"
qemu-img convert -c -O qcow2 -o compression_type=zstd "$work/disk" "$work/disk.qcow2"
mv "$work/disk.qcow2" "$folder/"
echo "$sum" >"$folder/made-of"
