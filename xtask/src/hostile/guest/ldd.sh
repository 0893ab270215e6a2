#!/bin/busybox sh
# Stands where the C library's own would, which needs another shell: names the shared libraries of a program.
LD_TRACE_LOADED_OBJECTS=1 exec /lib64/ld-linux-x86-64.so.2 "$1"
