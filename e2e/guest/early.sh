#!/bin/busybox sh
# Process 1 of the guest, from its initramfs: puts the root together and goes there. Says on the console what fails.
export PATH=/bin
fail() { echo "guest: $*"; poweroff -f; }
mount_9p() { mount -t 9p -o "trans=virtio,version=9p2000.L,msize=512000,$1" "$2" "$3" || fail "no $2"; }

/bin/busybox --install -s /bin
mount -t proc proc /proc
while read -r module; do
    insmod "/modules/$module" || fail "$module cannot be loaded"
done </modules.order

# Files are taken from the host once and then from memory: without that Python takes minutes to start. No extended
# attributes, or every program that is started asks for its capabilities, over and over.
mount_9p ro,cache=loose,noxattr root /host
mount -t tmpfs layer /layer
mkdir /layer/written /layer/work /layer/root
mount -t overlay -o lowerdir=/host,upperdir=/layer/written,workdir=/layer/work root /layer/root
root=/layer/root

for directory in proc sys dev run tmp lib/modules; do
    # /lib is a link to usr/lib, which leads out of the root from here
    chroot $root /bin/mkdir -p "/$directory"
done
mount -t proc proc $root/proc
mount -t sysfs sys $root/sys
mount -t devtmpfs dev $root/dev
mkdir -p $root/dev/pts $root/dev/shm
mount -t devpts pts $root/dev/pts
mount -t tmpfs shared $root/dev/shm
mount -t tmpfs run $root/run
mount_9p ro,cache=loose,noxattr modules "$(readlink -f $root/usr/lib)/modules"
mkdir $root/run/guest
mount_9p rw,cache=none,noxattr exchange $root/run/guest
# not in a child: the kernel looks for modprobe from the root of process 1
exec chroot $root /bin/sh /run/guest/late.sh
