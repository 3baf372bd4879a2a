#!/bin/bash
# What booted.sh and v4l2.sh share: a tree whose last unit is the proof, and a whole machine that boots it. Sourced.

# last_unit TREE COMMAND SECONDS: once all is up, COMMAND runs in a shell for at most so long; then it is switched off.
last_unit() {
  rm -f "$1"/etc/systemd/system/timers.target.wants/*
  mkdir -p "$1/etc/systemd/system/default.target.wants"
  cat > "$1/etc/systemd/system/proof.service" <<UNIT
[Unit]
Description=the proof
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/bin/sh -c '$2'
ExecStopPost=/bin/systemctl poweroff --no-block
TimeoutStartSec=$3
UNIT
  ln -s ../proof.service "$1/etc/systemd/system/default.target.wants/proof.service"
}

# boot_machine ARCH TREE COMMAND SECONDS REPORT: a Debian tree with a kernel of its own, as an amd64 or arm64 machine
# in QEMU, without a network. What COMMAND says goes to REPORT at once. Emulated, unless ONELOOK_ACCEL=kvm.
boot_machine() {
  local arch=$1 tree=$2 report=$5 qemu console
  case $arch in
    amd64) qemu=(qemu-system-x86_64 -cpu max) console=ttyS0 ;;
    # A Raspberry Pi 5's processor; `max` would spend half its time on signing pointers.
    arm64) qemu=(qemu-system-aarch64 -machine virt -cpu cortex-a76) console=ttyAMA0 ;;
    *) echo "No machine for $arch: amd64 or arm64." >&2; return 2 ;;
  esac
  last_unit "$tree" "udevadm settle; exec > /dev/virtio-ports/report 2>&1; exec $3" "$4"
  ln -s /dev/null "$tree/etc/systemd/system/serial-getty@$console.service"
  mkdir -p "$tree/etc/systemd/system.conf.d"
  printf '[Manager]\nDefaultTimeoutStartSec=1000\n' > "$tree/etc/systemd/system.conf.d/slow.conf"
  mke2fs -q -t ext4 -d "$tree" "$tree.ext4" 4G
  echo "Booting it; what it says so far is in $report..."
  timeout --kill-after=10 "$(($4 + 600))" "${qemu[@]}" -accel "${ONELOOK_ACCEL:-tcg}" -smp "${ONELOOK_CPUS:-2}" -m 2048 \
    -nodefaults -display none -no-reboot -kernel "$tree"/boot/vmlinuz-* -initrd "$tree"/boot/initrd.img-* \
    -append "root=/dev/vda rw rootdelay=300 console=$console panic=-1 systemd.show_status=0" \
    -drive "file=$tree.ext4,format=raw,if=virtio,cache=unsafe" -serial "file:${report%report}console.log" \
    -device virtio-serial -chardev "file,id=report,path=$report" -device virtserialport,chardev=report,name=report || true
  rm "$tree.ext4"
}
