package trace

import "golang.org/x/sys/unix"

// here are the calls that only this architecture still has.
var here = map[uint64]form{
	unix.SYS_RENAMEAT: {"renameat", Rename, 0, 1, -1},
}
