//go:build 386 || arm || mips || mipsle

package sampler

import "golang.org/x/sys/unix"

func statfsOf(path []byte, st *unix.Statfs_t) error {
	for {
		if err := unix.Statfs(string(path[:len(path)-1]), st); err != unix.EINTR {
			return err
		}
	}
}
