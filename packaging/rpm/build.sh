#!/bin/sh
# Build the RPMs of HEAD and a repository of them: build.sh FOLDER [RELEASE].  With BUNDLED=1 they
# carry the Python libraries along.  It needs what `make rpm` has installed and fetched.
set -eu
cd "$(dirname "$0")/../.."

folder=$1
release=${2:-1}
here=packaging/rpm

[ -z "$(git status --porcelain)" ] ||
    echo "The RPMs are made of the last commit: what has changed since is not in them." >&2

# 0.1.0.dev0 and 0.1.0rc1 come before 0.1.0, which is what a tilde says to rpm.
version=$(git show HEAD:pyproject.toml | sed -nE 's/^version = "(.*)"/\1/p' |
    sed -E 's/\.?(dev|a|b|rc)([0-9]+)$/~\1\2/')
name=$(sed -nE 's/^Name: *//p' $here/vsock-tap.spec)

rm -rf "$folder"
mkdir -p "$folder"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 2' HUP INT TERM
mkdir "$work/SOURCES"
git archive --prefix="$name-$version/" -o "$work/SOURCES/$name-$version.tar.gz" HEAD
git show "HEAD:$here/vsock-tap.spec" |
    sed -E "s/^(Version: +)0$/\1$version/; s/^(Release: +)0/\1$release/" >"$work/vsock-tap.spec"

set -- --define "_topdir $work" --define "pages_python $PWD/.venv/bin/python"
# Where rpm has no macros of Fedora's, it knows of no installed packages either.
[ -n "$(rpm --eval '%{?pyproject_wheel:1}')" ] ||
    set -- "$@" --nodeps --load "$PWD/$here/macros.missing"
if [ -n "${BUNDLED-}" ]; then
    set -- "$@" --with bundled
    cp .venv/wheels/* "$work/SOURCES"
fi
rpmbuild -ba --noclean "$@" "$work/vsock-tap.spec" >"$work/log" 2>&1 || {
    cat "$work/log" >&2
    exit 1
}
mv "$work"/RPMS/* "$folder"
mv "$work/SRPMS" "$folder/src"
createrepo_c --quiet "$folder"
