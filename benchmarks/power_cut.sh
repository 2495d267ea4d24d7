#!/usr/bin/env bash
# Cuts the power of a real disk while a batch downloads to it: nothing may be lost, charged twice, or full of zeros.
#
#     benchmarks/power_cut.sh [--cuts 100] [--fs ext2] [--seed 1] [--broken NAME]
#
# It needs Linux and root, and changes nothing outside loop devices, except how soon the kernel writes back, during the
# cuts on ext2. The disk is an image on a loop device; sandbox, ledger and songs are elsewhere. At a random moment every
# process of the batch is stopped, and the image is copied as it is, without what only memory has: neither a sync nor a
# freeze. The batch is killed, the copy mounted (and checked, as a boot would) in the place of the image, and the batch
# run again: every file must have the bytes that were served, the ledger must have each song once, nothing unfinished may
# be left. That is done on ext2, on ext4 with data=writeback and data=ordered, and on xfs.
#
# The kernel decides what reaches the disk and when, so the closing lines also say how many cuts took anything at all.
# With --broken a mistake is built in. `parts` does not sync unfinished stems, and must be detected in a dozen cuts. The
# others are seldom seen on a real disk, and always by power_cut.py: `size` continues unfinished stems wherever they end;
# `folders` and `journal` are not synced.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "$(id -u)" != 0 ]; then
    echo "power_cut.sh mounts disks, so it must be run by root" >&2
    exit 2
fi
for tool in losetup mkfs.ext2 mkfs.ext4 e2fsck mkfs.xfs; do
    if ! command -v "$tool" > /dev/null; then
        echo "power_cut.sh needs $tool (Debian: mount, e2fsprogs, xfsprogs)" >&2
        exit 2
    fi
done

exec 9> /run/lock/power-cut
if ! flock -n 9; then
    echo "another power_cut.sh is running: they would take each other's settings for the usual ones" >&2
    exit 2
fi

work="$(mktemp -d -p /dev/shm power-cut-XXXXXX)" # in memory: a disk of its own would only be slower
mapfile -t before < <(cat /proc/sys/vm/dirty_{expire,writeback}_centisecs)

clean_up() {
    trap '' INT TERM
    kill "$cuts" 2> /dev/null && wait "$cuts" || true # it ends what it has started
    mapfile -t now < <(cat /proc/sys/vm/dirty_{expire,writeback}_centisecs)
    if [ "${now[*]}" != "${before[*]}" ]; then # it was killed
        sysctl -qw "vm.dirty_expire_centisecs=${before[0]}" "vm.dirty_writeback_centisecs=${before[1]}"
    fi
    if mountpoint -q "$work/mounted"; then umount -l "$work/mounted"; fi
    losetup -j "$work/image" | cut -d: -f1 | xargs -r losetup -d
    rm -rf --one-file-system "$work"
}
cuts=""
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

"${PYTHON:-python}" benchmarks/power_cut_disk.py "$work" "$@" 9>&- &
cuts=$!
wait "$cuts"
