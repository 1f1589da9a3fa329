#!/bin/sh
# Make sure that the named commands are there: require.sh COMMAND...
#
# Read this for which package of Debian and Fedora has which command.  As root, on a system with
# apt-get or dnf, missing packages are installed; elsewhere one line says what is missing and what to
# type.  `venv` stands for a Python that can make virtual environments, `busybox-static` for a
# busybox that needs no libraries, `rpm-macros` for Fedora's macros of rpmbuild, which only Fedora
# has.  After `--optional` come commands that a caller can do without: they are installed where they
# can be, and never an error.
set -eu

PYTHON=${PYTHON:-python3}

package() { # COMMAND MANAGER
    case $1:$2 in
        venv:apt-get) echo python3-venv ;;
        venv:dnf) echo python3 ;;
        ip:apt-get) echo iproute2 ;;
        ip:dnf) echo iproute ;;
        ping:apt-get) echo iputils-ping ;;
        ping:dnf) echo iputils ;;
        dig:apt-get) echo bind9-dnsutils ;;
        dig:dnf) echo bind-utils ;;
        nsenter:*) echo util-linux ;;
        nginx:apt-get) echo nginx-light ;;
        nft:*) echo nftables ;;
        pasta:*) echo passt ;;
        ssh:apt-get) echo openssh-client ;;
        ssh:dnf) echo openssh-clients ;;
        dhclient:apt-get) echo isc-dhcp-client ;;
        dhclient:dnf) echo dhcp-client ;;
        udhcpc:dnf) echo busybox ;;
        sshd:*) echo openssh-server ;;
        pip3:*) echo python3-pip ;;
        rpmbuild:apt-get) echo rpm ;;
        rpmbuild:dnf) echo rpm-build ;;
        rpm-macros:*) echo python3-devel python3-setuptools python3-wheel systemd-rpm-macros ;;
        createrepo_c:apt-get) echo createrepo-c ;;
        qemu-system-x86_64:apt-get) echo qemu-system-x86 ;;
        qemu-system-x86_64:dnf) echo qemu-system-x86-core ;;
        *) echo "$1" ;;
    esac
}

present() { # COMMAND
    case $1 in
        venv) "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null ;;
        busybox-static) [ -e /bin/busybox ] && ! grep -q /lib64/ld- /bin/busybox ;;
        rpm-macros) [ "$manager" != dnf ] ||
            [ "$(rpm --eval '%{?pyproject_wheel:1}%{?systemd_post:1}')" = 11 ] ;;
        *) PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null ;;
    esac
}

missing() { # MANAGER COMMAND...
    manager=$1
    shift
    for command; do
        present "$command" || package "$command" "$manager"
    done | sort -u | tr '\n' ' '
}

install() { # MANAGER PACKAGE...
    manager=$1
    shift
    echo "Installing $* ..." >&2
    case $manager in
        apt-get)
            # A package's service must not start here: we bring our own configuration and ports.
            policy=/usr/sbin/policy-rc.d
            if ! [ -e "$policy" ]; then
                trap 'rm -f "$policy"' EXIT
                printf '#!/bin/sh\nexit 101\n' >"$policy"
                chmod +x "$policy"
            fi
            apt-get update -qq >/dev/null
            DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$@" >/dev/null
            ;;
        dnf) dnf install -q -y --setopt=install_weak_deps=False "$@" >/dev/null ;;
    esac
}

present "$PYTHON" && "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "vsock-tap needs Python 3.11 or newer as $PYTHON (make PYTHON=... names another one)" >&2
    exit 1
}

manager=
for candidate in apt-get dnf; do
    if [ -z "$manager" ] && present "$candidate"; then manager=$candidate; fi
done

optional=
if [ "${1-}" = --optional ]; then
    optional=yes
    shift
fi
wanted=$(missing "$manager" "$@")
[ -n "$wanted" ] || exit 0
if [ "$(id -u)" = 0 ] && [ -n "$manager" ]; then
    # One by one where we can do without: not every system has every package.
    if [ -n "$optional" ]; then
        for name in $wanted; do (install "$manager" "$name") || true; done
        exit 0
    fi
    # shellcheck disable=SC2086
    install "$manager" $wanted
elif [ -n "$optional" ]; then
    exit 0
elif [ -n "$manager" ]; then
    echo "Missing: ${wanted% }. Type: sudo $manager install -y ${wanted% }" >&2
    exit 1
else
    echo "Missing: ${wanted% }. Install them with your system's package manager." >&2
    exit 1
fi
