#!/bin/sh
# Build the container image of the RPMs in a folder: build.sh FOLDER IMAGE, with podman or buildah.
# BASE=... in the environment is another base than the Containerfile's.
set -eu
here=$(dirname "$0")
folder=$(realpath "$1")
image=$2

builder=$(command -v podman || command -v buildah) || {
    echo "build.sh needs podman or buildah, and neither is here" >&2
    exit 1
}
# OCI's own format has no health checks.  A layer that is kept would be taken again for other
# packages, for it goes by the command alone.  The label z is for SELinux.
"$builder" build --format=docker --layers=false --tag="$image" --volume="$folder:/rpms:ro,z" \
    ${BASE:+"--build-arg=BASE=$BASE"} --file="$here/Containerfile" "$here"
"$builder" images "$image"
