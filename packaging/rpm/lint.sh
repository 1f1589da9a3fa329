#!/bin/sh
# Let rpmlint look at the spec and at the packages in a folder: lint.sh FOLDER.  Says only what is
# wrong.
set -eu
here=$(dirname "$0")
found=$(rpmlint --strict -c "$here/rpmlint.toml" "$1"/*/*.rpm "$here/vsock-tap.spec") || {
    echo "$found"
    exit 1
}
