package guest

import (
	"fmt"
	"slices"
	"strings"
)

// commandLine is the kernel's. The console's text goes to a file; a panic
// stays where it is, to be seen there. On a busy host the kernel would find its
// timer too slow, and panic. Without IPv6 a guest sends nothing that it was not
// told to, but for ARP.
const commandLine = "console=ttyS0 quiet nokaslr mitigations=off ipv6.disable=1 panic=0 no_timer_check"

// args are QEMU's.
func (g *Guest) args() []string {
	args := []string{
		"-name", "guest=" + g.Name + ",debug-threads=on", "-uuid", g.UUID,
		"-accel", "tcg", "-M", "q35", "-nodefaults", "-no-user-config", "-display", "none",
		"-smp", fmt.Sprint(g.opt.VCPUs), "-m", fmt.Sprintf("%dM", g.opt.Memory>>20),
		"-kernel", g.parts.kernel, "-initrd", g.path("initramfs"), "-append", commandLine,
		"-serial", "file:" + g.path("console.log"),
		"-chardev", "socket,id=control,path=" + g.path("control"), "-serial", "chardev:control",
		"-qmp", "unix:" + g.path("monitor") + ",server=on,wait=off",
		"-qmp", "unix:" + g.path("qmp") + ",server=on,wait=off",
		"-device", "virtio-balloon-pci,id=balloon0",
	}
	for i, d := range g.opt.Disks {
		drive := fmt.Sprintf("file=%s,if=none,id=drive%d,format=%s,cache=none", strings.ReplaceAll(d.Path, ",", ",,"), i, d.format())
		if d.ReadOnly {
			drive += ",readonly=on"
		}
		args = append(args, "-drive", drive, "-device", fmt.Sprintf("virtio-blk-pci,drive=drive%d,id=disk%d", i, i))
	}
	queue := 3 // descriptors of exec.Cmd's ExtraFiles
	for i, n := range g.nics {
		netdev := fmt.Sprintf("tap,id=net%d,ifname=%s,script=no,downscript=no", i, n.Link)
		if n.queue != nil {
			netdev = fmt.Sprintf("tap,id=net%d,fd=%d", i, queue)
			queue++
		}
		args = append(args, "-netdev", netdev, "-device", fmt.Sprintf("virtio-net-pci,netdev=net%d,id=nic%d,mac=%s", i, i, n.MAC))
	}
	for i := range g.opt.Slots { // q35's own bus takes nothing while it runs
		args = append(args, "-device", fmt.Sprintf("pcie-root-port,id=slot%d,chassis=%d", i, i+1))
	}
	if g.opt.Paused {
		args = append(args, "-S")
	}
	return slices.Concat(args, g.opt.Args)
}
