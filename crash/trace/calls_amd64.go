package trace

import "golang.org/x/sys/unix"

// here are the calls that only this architecture still has.
var here = map[uint64]form{
	unix.SYS_OPEN:     {"open", Open, -1, 0, 1},
	unix.SYS_CREAT:    {"creat", Open, -1, 0, -1},
	unix.SYS_MKDIR:    {"mkdir", Mkdir, -1, 0, -1},
	unix.SYS_RMDIR:    {"rmdir", Unlink, -1, 0, -1},
	unix.SYS_UNLINK:   {"unlink", Unlink, -1, 0, -1},
	unix.SYS_RENAME:   {"rename", Rename, -1, 0, -1},
	unix.SYS_RENAMEAT: {"renameat", Rename, 0, 1, -1},
	unix.SYS_LINK:     {"link", Link, -1, 0, -1},
	unix.SYS_SYMLINK:  {"symlink", Other, -1, 1, -1},
}
