#!/bin/sh
# Put Debian's cloud kernel, with its modules, where the tests' virtual machines look for it:
# kernel.sh FOLDER.  Nothing is installed.  Where there is no apt-get, nothing is there afterwards,
# and the tests that need a machine say so.  What depmod needs is in FOLDER/lib/modules, and
# FOLDER/modules is the way to the modules themselves, without the kernel's version.
set -eu

FOLDER=$1
[ -e "$FOLDER/lib" ] && exit 0
command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || exit 0
echo "Fetching Debian's cloud kernel ..." >&2
mkdir -p "$FOLDER"
cd "$FOLDER"
package=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image-/ { print $2; exit }')
apt-get download -qq "$package" 2>/dev/null || {
    echo "Debian's cloud kernel can't be fetched" >&2
    exit 0
}
dpkg-deb -x "$package"_*.deb tree
rm "$package"_*.deb
mv tree/boot/vmlinuz-* vmlinuz
rm -rf modules
mv tree/lib lib
ln -s lib/modules/*/kernel modules
rm -r tree
