#!/bin/sh
# Makes a Debian package of a binary that was built already, with dpkg-deb alone. `cargo deb` makes
# one from Cargo.toml; manual and completions are not in that.
#
#   docs/packages/deb.sh BINARY [DIRECTORY]     prints the path of the package
#
# DEB_ARCH is the architecture (this machine's), DEB_VERSION the version (that of Cargo.toml),
# DEB_DEPENDS what the binary needs beside `passwd` (the C library that it was linked with, if any).
set -eu
# Modes in the package are not those of whoever builds it.
umask 022

binary=${1:?usage: deb.sh BINARY [DIRECTORY]}
into=${2:-.}
here=$(cd "$(dirname "$0")" && pwd)
project=$(cd "$here/../.." && pwd)
version=${DEB_VERSION:-$(sed -n 's/^version = "\([^"]*\)"$/\1/p' "$project/Cargo.toml" | head -n 1)}
arch=${DEB_ARCH:-$(dpkg --print-architecture)}
# Functions of the C library have the version in which they came. The newest is the oldest library
# that will do; a static binary names none.
libc=$(LC_ALL=C grep -ao 'GLIBC_2[.0-9]*' "$binary" | sort -Vu | tail -n 1)
depends=${DEB_DEPENDS-${libc:+"libc6 (>= ${libc#GLIBC_}), libgcc-s1"}}

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"

put() { # MODE SOURCE TARGET
    mkdir -p "$root/$(dirname "$3")"
    install -m "$1" "$2" "$root/$3"
}

put 755 "$binary" usr/bin/althing
put 644 "$here/althing.service" usr/lib/systemd/system/althing.service
put 644 "$here/althing.socket" usr/lib/systemd/system/althing.socket
put 644 "$here/config.toml" etc/althing/config.toml
put 600 "$here/default" etc/default/althing
put 644 "$here/debian/copyright" usr/share/doc/althing/copyright
for file in "$project"/docs/*.md "$here/addresses.conf" "$here/users.conf" "$here/cloud-init.yaml"; do
    put 644 "$file" "usr/share/doc/althing/$(basename "$file")"
done

# What only the program can tell. One for another architecture can't be asked.
if "$binary" man --into "$root/man" >/dev/null 2>&1; then
    for page in "$root"/man/*.1; do
        [ -e "$page" ] || continue
        gzip -9n "$page"
        put 644 "$page.gz" "usr/share/man/man1/$(basename "$page").gz"
    done
    if "$binary" completions bash >"$root/bash" && [ -s "$root/bash" ]; then
        put 644 "$root/bash" usr/share/bash-completion/completions/althing
    fi
else
    echo "deb.sh: $binary can't be asked for its manual and completions: they are left out" >&2
fi
rm -rf "$root/man" "$root/bash"

mkdir -m 755 "$root/DEBIAN"
for script in postinst prerm postrm; do
    install -m 755 "$here/debian/$script" "$root/DEBIAN/$script"
done
printf '%s\n' /etc/althing/config.toml /etc/default/althing >"$root/DEBIAN/conffiles"
# For `dpkg --verify`; conffiles are compared by dpkg itself.
(cd "$root" && find usr -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum >DEBIAN/md5sums)
cat >"$root/DEBIAN/control" <<EOF
Package: althing
Version: $version
Architecture: $arch
Maintainer: Whoever builds this package <root@localhost>
Depends: passwd${depends:+, $depends}
Section: admin
Priority: optional
Installed-Size: $(du -sk "$root" | cut -f 1)
Description: many ordinary Linux servers that behave as one machine
 Every server runs the same program and joins by the address of any other.
 An application is published once, to any member; all members hold it, serve
 it, watch it and repair it. There is no controller.
EOF

mkdir -p "$into"
package="$into/althing_${version}_$arch.deb"
dpkg-deb --root-owner-group --build "$root" "$package" >/dev/null
echo "$package"
