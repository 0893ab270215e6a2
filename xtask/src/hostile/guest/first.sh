#!/bin/busybox sh
# The first process of the guest. The root that the kernel unpacked cannot be pivoted away, so all moves to another.
b=/bin/busybox
$b mount -t tmpfs -o mode=755,size=75% root /new
for each in /*; do
    case $each in
        /new | /init) ;;
        *) $b cp -a "$each" /new/ ;;
    esac
done
exec $b switch_root /new /bin/second
