#!/usr/bin/env bash
# Runs a command as root under the kernel of a Debian package, in an emulated
# machine that has this machine's files:
#
#   vm.sh PACKAGE FOLDER COMMAND [ARGUMENT...]
#
#   vm.sh linux-image-6.12-amd64 /tmp/out uname -r
#
# All of this machine's files are there to be read. What is written is gone when
# the machine is off, but for what is written to FOLDER, which must exist. The
# command starts in the current folder. What it prints comes by the emulated
# serial port; its exit code is vm.sh's. There is no network but lo. What the
# kernel says is in FOLDER/console, up to its last word if it hangs.
#
# With ARCH=arm64 or ARCH=s390x in the environment the machine is of that architecture. Then it
# has this machine's files in the current folder alone, which is in the repository; the rest of
# its files, programs and libraries, are Debian's for the architecture (foreign.sh).
#
# PACKAGE may be a metapackage; its kernel is unpacked below bin/kernels, not
# installed, and used until that folder is removed. Emulation is
# several times slower than the machine is, but asks nothing of it. In the
# environment:
#
#   ARCH        Debian's name of the machine's architecture; this machine's own
#   VM_TIMEOUT  seconds until the machine is switched off; 7200
#   VM_MEMORY   MiB, half of it for what is written; 4096
#   VM_ACCEL    qemu's accelerator; tcg,thread=multi. "kvm" is fast where it works
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin

(($# >= 3)) || { sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 2; }
package=$1
folder=$(cd "$2" && pwd)
shift 2
here=$PWD
root=$(cd "$(dirname "$0")/../.." && pwd)

own=$(dpkg --print-architecture)
arch=${ARCH:-$own}
foreign=
[[ $arch == "$own" ]] || foreign=$arch
"$root/test/packages.sh" kernels $foreign

# What an architecture's machine is made of: the emulator and its options, the console that the
# kernel writes to, how virtio's devices are attached, and the terminal for what the command prints.
case $arch in
amd64)
  machine=(qemu-system-x86_64 -cpu max) console=ttyS0 bus=pci terminal=ttyS1
  output=(-serial stdio) drivers=(virtio_pci)
  ;;
arm64)
  machine=(qemu-system-aarch64 -machine "virt,gic-version=3" -cpu cortex-a72) console=ttyAMA0 bus=pci terminal=hvc0
  drivers=(virtio_pci virtio_console)
  ;;
s390x)
  machine=(qemu-system-s390x -machine s390-ccw-virtio -cpu max) console=ttysclp0 bus=ccw terminal=hvc0
  drivers=(virtio_console) # that of the bus is always in the kernel
  ;;
*)
  echo "vm: no machine of architecture $arch can be emulated here: amd64, arm64, s390x" >&2
  exit 2
  ;;
esac
# Of the others one serial port is all that there is, and the kernel writes to it.
[[ $terminal != hvc0 ]] ||
  output=(-device "virtio-serial-$bus" -chardev "stdio,id=output,signal=off" -device "virtconsole,chardev=output")

# unpack makes $kernel hold the package's kernel, and its modules unpacked:
# busybox's insmod reads no compressed ones.
kernel=$root/bin/kernels/$package
unpack() {
  rm -rf "$kernel.new"
  if [[ -n $foreign ]]; then
    "$root/test/kernels/foreign.sh" "$arch" kernel "$package"
    mv "$root/bin/kernels/$arch/new" "$kernel.new"
  else
    download
  fi
  find "$kernel.new/lib/modules" -name '*.ko.xz' -print0 | xargs -0 -r -n 64 xz -d
  depmod -b "$kernel.new" "$(ls "$kernel.new/lib/modules")"
  rm -rf "$kernel"
  mv "$kernel.new" "$kernel"
}
download() {
  apt-cache show "$package" >/dev/null 2>&1 || apt-get update -q
  local real
  # A metapackage depends on the one of the newest kernel.
  real=$(apt-cache depends "$package" | awk '$1 == "Depends:" && $2 ~ /^linux-image-[0-9]/ { print $2; exit }')
  echo "vm: unpacking ${real:=$package}"
  mkdir -p "$kernel.new"
  # apt downloads as a user of its own, into the current folder.
  local download
  download=$(mktemp -d)
  chmod 777 "$download"
  (cd "$download" && apt-get download -q "$real")
  dpkg -x "$download"/*.deb "$kernel.new"
  rm -rf "$download"
}
[[ -d $kernel ]] || unpack
release=$(ls "$kernel/lib/modules")
files=/
if [[ -n $foreign ]]; then
  files=$root/bin/kernels/$arch/root
  [[ -d $files ]] || "$root/test/kernels/foreign.sh" "$arch" root
fi

# The first root file system: busybox, the modules that it takes to reach the
# real one, and a script that goes there.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
first=$work/first
mkdir -p "$first"/{bin,dev,proc,sys,modules,lower,upper,new}
if [[ -n $foreign ]]; then
  cp "$files/bin/busybox" "$first/bin/busybox"
else
  cp "$(command -v busybox)" "$first/bin/busybox"
fi
for module in "${drivers[@]}" 9pnet_virtio 9p overlay; do
  modprobe -d "$kernel" -S "$release" --show-depends "$module"
done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' | while read -r file; do
  cp "$file" "$first/modules/"
  basename "$file" >>"$first/modules/order"
done

# Quoted for the shell inside, spaces and all.
printf -v command '%q ' "$@"
cat >"$first/command" <<END
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
ip link set lo up
(cd ${here@Q} && exec $command)
echo \$? >${folder@Q}/.vm-exit
sync
busybox poweroff -f
END

# Of the folders mounted, cache=loose trusts that nobody else changes what was
# read; the one that is written to goes without.
cat >"$first/init" <<END
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
while read -r module; do insmod /modules/\$module; done </modules/order
p9=trans=virtio,version=9p2000.L,msize=262144
mount -t 9p -o \$p9,ro,cache=loose files /lower
mount -t tmpfs -o size=50% upper /upper
mkdir /upper/files /upper/work
mount -t overlay -o lowerdir=/lower,upperdir=/upper/files,workdir=/upper/work all /new
mkdir -p /new/lib/modules
mount -t 9p -o \$p9,ro,cache=loose modules /new/lib/modules
if [ ${foreign:+1} ]; then
  mkdir -p /repository /upper/repository /upper/work2 /new${root@Q}
  mount -t 9p -o \$p9,ro,cache=loose repository /repository
  mount -t overlay -o lowerdir=/repository,upperdir=/upper/repository,workdir=/upper/work2 all /new${root@Q}
fi
mkdir -p /new${folder@Q}
mount -t 9p -o \$p9 folder /new${folder@Q}
for system in proc sys dev; do mount --move /\$system /new/\$system; done
mkdir -p /new/dev/pts /new/dev/shm
mount -t devpts pts /new/dev/pts
mount -t tmpfs shm /new/dev/shm
mount -t tmpfs run /new/run
mount -t cgroup2 cgroup /new/sys/fs/cgroup
cp /command /new/run/vm-command
exec switch_root /new /bin/bash /run/vm-command </new/dev/null >/new/dev/$terminal 2>&1
END
chmod +x "$first/init"
(cd "$first" && find . | cpio -o -H newc --quiet) | gzip -1 >"$work/initrd"

# share is the option that shows a folder to the machine, under a tag.
share() { # TAG FOLDER [readonly]
  echo "-fsdev local,id=$1,path=$2,security_model=none,multidevs=remap${3:+,readonly=on} -device virtio-9p-$bus,fsdev=$1,mount_tag=$1"
}

rm -f "$folder/.vm-exit" "$folder/console"
# Without the terminal's control sequences that the firmware prints, and its words.
timeout "${VM_TIMEOUT:-7200}" "${machine[@]}" \
  -accel "${VM_ACCEL:-tcg,thread=multi}" -smp 2 -m "${VM_MEMORY:-4096}" \
  -nodefaults -no-reboot -display none -serial "file:$folder/console" "${output[@]}" -nic none \
  -kernel "$kernel/boot/vmlinuz-$release" -initrd "$work/initrd" \
  -append "console=$console loglevel=6 softlockup_all_cpu_backtrace=1 panic=-1 rdinit=/init" \
  $(share files "$files" readonly) $(share modules "$kernel/lib/modules" readonly) $(share folder "$folder") \
  ${foreign:+$(share repository "$root" readonly)} \
  </dev/null | sed -u 's/\r$//; /reboot: Power down$/d' || true
if [[ ! -s $folder/.vm-exit ]]; then
  echo "vm: $package: the machine ended before the command did" >&2
  exit 125
fi
exit "$(cat "$folder/.vm-exit"; rm "$folder/.vm-exit")"
