#!/usr/bin/env python3
"""Makes x86-64 ELF files that were linked to glibc 2.38 or newer load with an older one.

    rebind-glibc.py NEWEST FILE...      such as: rebind-glibc.py 2.36 starter

Rebound are only the aliases for C23 that glibc 2.38 added, such as __isoc23_strtol, to the plain functions, such as
strtol: both names share their tail in the table of strings, so no byte moves. A file that needs anything else of a
glibc newer than NEWEST is refused (exit code 2) and left as it is.
"""
import struct
import sys

ALIAS = "__isoc23_"
BASE_VERSION = "GLIBC_2.2.5"
SYMBOL_LEN = 24


def number(version):
    return tuple(int(part) for part in version.split("."))


def text(data, offset):
    return bytes(data[offset : data.index(0, offset)]).decode()


def sections(data):
    table, = struct.unpack_from("<Q", data, 40)
    size, count, names = struct.unpack_from("<HHH", data, 58)
    headers = [struct.unpack_from("<IIQQQQIIQQ", data, table + index * size) for index in range(count)]
    return {text(data, headers[names][4] + header[0]): header for header in headers}


def needed_versions(data, at, strings):
    """Version index -> (offset of its entry, library, version)."""
    needed = {}
    while True:
        _, count, library, entries, following = struct.unpack_from("<HHIII", data, at)
        entry = at + entries
        for _ in range(count):
            _, _, index, name, step = struct.unpack_from("<IHHII", data, entry)
            needed[index] = (entry, text(data, strings + library), text(data, strings + name))
            entry += step
        if not following:
            return needed
        at += following


def rebind(path, newest):
    with open(path, "rb") as file:
        data = bytearray(file.read())
    if data[:6] != b"\x7fELF\x02\x01":
        print(f"{path}: not a 64-bit little-endian ELF file", file=sys.stderr)
        return 2
    found = sections(data)
    strings, symbols, versions = found[".dynstr"][4], found[".dynsym"], found[".gnu.version"][4]
    needed = needed_versions(data, found[".gnu.version_r"][4], strings)
    base = next(i for i, (_, library, version) in needed.items() if (library, version) == ("libc.so.6", BASE_VERSION))
    too_new = {
        index
        for index, (_, _, version) in needed.items()
        if version.startswith("GLIBC_2") and number(version[6:]) > newest
    }
    for index in range(symbols[5] // SYMBOL_LEN):
        symbol, version = symbols[4] + SYMBOL_LEN * index, versions + 2 * index
        needs, = struct.unpack_from("<H", data, version)
        if needs & 0x7FFF not in too_new:
            continue
        offset, = struct.unpack_from("<I", data, symbol)
        name = text(data, strings + offset)
        if not name.startswith(ALIAS):
            print(f"{path}: {name} needs {needed[needs & 0x7FFF][2]}", file=sys.stderr)
            return 2
        struct.pack_into("<I", data, symbol, offset + len(ALIAS))
        struct.pack_into("<H", data, version, base)
    # Nothing uses the newer versions any more; their entries name the base version, which every glibc has.
    base_hash, _, _, base_name, _ = struct.unpack_from("<IHHII", data, needed[base][0])
    for index in too_new:
        struct.pack_into("<I", data, needed[index][0], base_hash)
        struct.pack_into("<I", data, needed[index][0] + 8, base_name)
    if too_new:
        with open(path, "r+b") as file:
            file.write(data)
    return 0


if __name__ == "__main__":
    sys.exit(max(rebind(path, number(sys.argv[1])) for path in sys.argv[2:]))
