#!/bin/busybox sh
# Started by the kernel, as root and outside of every sandbox, when a process dumps core.
/bin/busybox cat >"/cores/$1"
