//go:build amd64 || arm64 || loong64 || mips64 || mips64le || ppc64 || ppc64le || riscv64 || s390x

package sampler

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// statfsOf makes the system call itself, since unix.Statfs allocates a copy of
// the path each time.
func statfsOf(path []byte, st *unix.Statfs_t) error {
	for {
		_, _, errno := unix.Syscall(unix.SYS_STATFS, uintptr(unsafe.Pointer(&path[0])), uintptr(unsafe.Pointer(st)), 0)
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
			continue
		}
		return errno
	}
}
