#!/usr/bin/env bash
# Installs Apptainer on Debian 12, which does not package it, from Debian's own archive and without touching the C
# library. Debian's package for its unstable release is fetched through a throw-away state of apt (nothing is added to
# /etc/apt), its three ELF files are bound to the older C library (rebind-glibc.py), and the repacked package is
# installed by apt, so that `apt-get purge apptainer` undoes it. Does nothing where Apptainer runs already.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
tested_version=1.4.5-2
tested_sha256=26cf96e08fccb0e50ea0f285a5a19f940ee873d167a0680584fe6eba7d197d65

if apptainer --version >/dev/null 2>&1; then
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -qq -y --no-install-recommends python3-minimal >/dev/null
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"

# The mirror that the machine already uses, the archive key that it already trusts.
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Component: main' |
    grep -v -- '-security' | head -1)
key=/usr/share/keyrings/debian-archive-keyring.gpg
mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
echo "deb [arch=amd64 signed-by=$key] $mirror sid main" >"$work/sid.list"
cat >"$work/apt.conf" <<END
Dir::State::lists "$work/lists";
Dir::Cache "$work/cache";
Dir::Etc::sourcelist "$work/sid.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
APT::Sandbox::User "root";
Acquire::Check-Valid-Until "false"; // a frozen mirror is past its date; signatures are checked all the same
END
(
    cd "$work"
    export APT_CONFIG=$work/apt.conf
    apt-get update -qq
    apt-get download -qq "apptainer=$tested_version" || apt-get download -qq apptainer
)
package=$(ls "$work"/apptainer_*.deb)
echo "$tested_sha256  $package" | sha256sum -c --status ||
    echo "note: $(basename "$package") is not the tested $tested_version" >&2

dpkg-deb -R "$package" "$work/package"
glibc=$(ldd --version | sed -n '1s/.* //p')
mapfile -t programs < <(
    cd "$work/package"
    find usr/bin usr/lib -type f -exec sh -c 'head -c4 "$1" | grep -q ELF && echo "$1"' _ {} \;
)
(
    cd "$work/package"
    python3 "$here/rebind-glibc.py" "$glibc" "${programs[@]}"
    sed -i -E "s/libc6 \(>= [0-9.]+\)/libc6 (>= $glibc)/
        s/^(Version: .*)$/\1+glibc$glibc/
        /^(Static-)?Built-Using:/d" DEBIAN/control
    find usr -type f -printf '%P\0' | (cd usr && xargs -0 md5sum) | sed 's#  #  usr/#' >DEBIAN/md5sums
)
dpkg-deb --root-owner-group -Zgzip -z1 -b "$work/package" "$work/apptainer-local.deb" >/dev/null
apt-get install -qq -y --no-install-recommends "$work/apptainer-local.deb" >/dev/null
apptainer --version
