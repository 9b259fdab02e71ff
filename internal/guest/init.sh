#!/bin/busybox sh
# The first and only process of a guest: loads the drivers, then carries out
# what comes over the second serial line, "ID COMMAND" on a line. What the
# command prints goes back, then "=ID STATUS" on a line of its own.
/bin/busybox --install -s /bin
export PATH=/bin HOME=/
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs -o size=100% tmpfs /mem
mount -t cgroup2 cgroup2 /sys/fs/cgroup
for module in /modules/*; do
  insmod "$module" || echo "insmod $module failed"
done
ifconfig lo 127.0.0.1 up

stty -F /dev/ttyS1 raw -echo
exec 3<>/dev/ttyS1
echo READY >&3
while read -r id command <&3; do
  (eval "$command") </dev/null >&3 2>&1 3>&-
  printf '\n=%s %s\n' "$id" $? >&3
done
