package guest

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// modules are the files of a kernel's modules, by name with "_" for "-".
type modules map[string]string

// findModules lists the modules under dir, a kernel's /lib/modules/VERSION.
func findModules(dir string) (modules, error) {
	all := modules{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if name, ok := strings.CutSuffix(filepath.Base(path), ".ko"); ok && err == nil {
			all[strings.ReplaceAll(name, "-", "_")] = path
		}
		return err
	})
	if err == nil && len(all) == 0 {
		err = fmt.Errorf("%s has no kernel modules", dir)
	}
	return all, err
}

// inOrder returns the files of the modules wanted and of those they need, each
// after what it needs. One that is not there is taken to be in the kernel.
func (all modules) inOrder(wanted ...string) ([]string, error) {
	var order []string
	seen := map[string]bool{}
	var add func(name string) error
	add = func(name string) error {
		name = strings.ReplaceAll(name, "-", "_")
		path, ok := all[name]
		if !ok || seen[name] {
			return nil
		}
		seen[name] = true
		needs, err := moduleNeeds(path)
		if err != nil {
			return fmt.Errorf("what kernel module %s needs: %w", name, err)
		}
		for _, need := range needs {
			if err := add(need); err != nil {
				return err
			}
		}
		order = append(order, path)
		return nil
	}
	for _, name := range wanted {
		if err := add(name); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// moduleNeeds reads a module's dependencies from its section .modinfo, which
// is strings of the form "depends=a,b" ended by zero bytes.
func moduleNeeds(path string) ([]string, error) {
	f, err := elf.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	s := f.Section(".modinfo")
	if s == nil {
		return nil, errors.New("it has no section .modinfo")
	}
	b, err := s.Data()
	if err != nil {
		return nil, err
	}
	for entry := range bytes.SplitSeq(b, []byte{0}) {
		if list, ok := strings.CutPrefix(string(entry), "depends="); ok && list != "" {
			return slices.Sorted(strings.SplitSeq(list, ",")), nil
		}
	}
	return nil, nil
}

// parts are the files that scripts/prepare lays ready.
type parts struct {
	kernel  string
	modules modules
	busybox string
}

// partsDir is where scripts/prepare puts them.
func partsDir() (string, error) {
	cache, err := os.UserCacheDir()
	return filepath.Join(cache, "odometer-test", "guest"), err
}

func findParts(dir string) (parts, error) {
	p := parts{kernel: filepath.Join(dir, "vmlinuz"), busybox: filepath.Join(dir, "busybox")}
	for _, file := range []string{p.kernel, p.busybox} {
		if _, err := os.Stat(file); err != nil {
			return parts{}, err
		}
	}
	var err error
	p.modules, err = findModules(filepath.Join(dir, "modules"))
	return p, err
}
