#!/bin/busybox sh
# The guest's first process once its root is in place: mounts what a host has, then does what the kernel's command line
# says. Answers go to the second serial port; when this ends, so does the machine.
b=/bin/busybox
$b --install -s /bin
export PATH=/bin:/usr/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
# What a host's device manager makes, and a container runtime looks for.
ln -s /proc/self/fd /dev/fd
for number in 0:stdin 1:stdout 2:stderr; do
    ln -s "/proc/self/fd/${number%:*}" "/dev/${number#*:}"
done
mkdir -p /dev/shm /dev/mqueue
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t mqueue mqueue /dev/mqueue
mount -t cgroup2 cgroup /sys/fs/cgroup
chmod 1777 /tmp
chmod 700 /root
hostname guest
for module in /lib/modules/*.ko; do
    [ -e "$module" ] && insmod "$module"
done
ip link set lo up
echo '|/bin/keep-core %p' >/proc/sys/kernel/core_pattern
from=0
run=suite
export tests=
for word in $(cat /proc/cmdline); do
    case $word in
        isms.without=*) export ISMS_WITHOUT_LAYERS="${word#isms.without=}" ;;
        isms.from=*) from="${word#isms.from=}" ;;
        isms.run=*) run="${word#isms.run=}" ;;
        isms.tests=*) tests="${word#isms.tests=}" ;;
    esac
done
stty -F /dev/ttyS1 raw
exec </dev/null >/dev/ttyS1 2>/dev/console
case $run in
    suite) /suite/xtask hostile --inside "$from" --binaries /suite ;;
    hello) echo hello ;;
    tests) /suite/tests $tests --test-threads=1 --show-output ;;
    user-tests)
        # A group of its own for an ordinary user, as systemd delegates one.
        echo '+memory +cpu +pids' >/sys/fs/cgroup/cgroup.subtree_control
        mkdir /sys/fs/cgroup/user
        chown -R user:user /sys/fs/cgroup/user
        sh -c 'echo $$ >/sys/fs/cgroup/user/cgroup.procs
            exec su user -c "/suite/tests $tests --test-threads=1 --show-output"'
        ;;
esac
echo "status $?"
poweroff -f
