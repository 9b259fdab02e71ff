package inventory

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"time"

	"example.org/odometer"
	"github.com/digitalocean/go-libvirt"
	"golang.org/x/sys/unix"
)

// diskSize is what libvirt was asked about a disk that a description only
// names, by that name.
type diskSize struct {
	kind     odometer.DiskKind // of a volume
	path     string            // of a volume
	capacity int64             // Unknown where it did not say
	asked    time.Time
}

// read describes a domain: its XML, what the host says of its devices, and
// what libvirt says of its disks that are in pools and over the network. An
// error is that there is no XML, or no answer; what the rest does not tell is
// unknown in the description.
func (l *Libvirt) read(ctx context.Context, k *knownDomain, dom libvirt.Domain) error {
	text, err := ask(ctx, l, func(rpc *libvirt.Libvirt) (string, error) { return rpc.DomainGetXMLDesc(dom, 0) })
	if err != nil {
		return err
	}
	if text == k.text && k.unsettled == nil && !k.sizesAge() {
		k.described = time.Now()
		return nil
	}
	d, err := parseDomain([]byte(text))
	if err != nil {
		return err
	}
	unsettled := l.host.settle(&d)
	sizes := map[string]diskSize{}
	for _, v := range d.volumes {
		disk := &d.vm.Disks[v.disk]
		size, known := k.sizes[disk.Path]
		if !known || time.Since(size.asked) >= sizedFor {
			var problem error
			if size, problem = l.volume(ctx, v); problem != nil {
				if errors.Is(problem, errUnanswered) {
					return problem
				}
				unsettled = errors.Join(unsettled, problem)
			}
		}
		sizes[disk.Path] = size
		if size.path != "" {
			disk.Kind, disk.Path, disk.Provisioned = size.kind, size.path, size.capacity
		}
	}
	for i := range d.vm.Disks {
		disk := &d.vm.Disks[i]
		if !askedFor(disk) {
			continue
		}
		size, known := k.sizes[disk.Path]
		// A domain that is off has nobody who could say; what was said while
		// it ran holds.
		if dom.ID >= 0 && (!known || time.Since(size.asked) >= sizedFor) {
			capacity, problem := ask(ctx, l, func(rpc *libvirt.Libvirt) (uint64, error) {
				_, capacity, _, err := rpc.DomainGetBlockInfo(dom, disk.Name, 0)
				return capacity, err
			})
			size = diskSize{capacity: odometer.Unknown, asked: time.Now()}
			switch {
			case errors.Is(problem, errUnanswered):
				return problem
			case problem != nil:
				unsettled = errors.Join(unsettled, fmt.Errorf("see how large disk %s of domain %s is: %w", disk.Name, dom.Name, problem))
			default:
				size.capacity = capacityOf(capacity)
			}
			known = true
		}
		if known {
			sizes[disk.Path] = size
			disk.Provisioned = size.capacity
		}
	}
	k.vm, k.text, k.sizes, k.unsettled, k.described = &d.vm, text, sizes, unsettled, time.Now()
	return nil
}

// askedFor reports whether the size of a disk has to be asked for: it is not on
// this host, or in a layout of which only the header has it.
func askedFor(d *odometer.Disk) bool {
	if d.Provisioned != odometer.Unknown {
		return false
	}
	switch layout := first(d.Format, "raw"); d.Kind {
	case odometer.DiskNetwork:
		return true
	case odometer.DiskBlock:
		return layout != "raw"
	case odometer.DiskFile:
		return layout != "raw" && layout != "qcow2"
	}
	return false
}

// diskLook is a look at the file or device behind a disk.
type diskLook struct {
	lookout[image]
	due time.Time // when to look again
}

// diskLookEvery is how often files and devices behind disks are looked at: one
// may have grown, or become part of a chain.
const diskLookEvery = time.Duration(lookEvery) * time.Microsecond

// looksAt reports whether a disk's file or device is looked at on this host.
func looksAt(d *odometer.Disk) bool {
	return (d.Kind == odometer.DiskFile || d.Kind == odometer.DiskBlock) && filepath.IsAbs(d.Path)
}

// lookAtDisks looks at what lies behind the disks of domains, where that is due,
// and waits for the first look at each, all together no longer than a list has
// patience for. A filesystem that hangs costs its disks.
func (l *Libvirt) lookAtDisks(domains []*knownDomain) {
	now := time.Now()
	for _, k := range domains {
		looks := map[string]*diskLook{}
		for i := 0; k.vm != nil && i < len(k.vm.Disks); i++ {
			d := &k.vm.Disks[i]
			if !looksAt(d) {
				continue
			}
			// Where no format is said libvirt takes raw, and looks for none.
			format := first(d.Format, "raw")
			look := k.looks[d.Path]
			if look == nil {
				look = &diskLook{}
			}
			looks[d.Path] = look
			if look.answer == nil && !now.Before(look.due) {
				look.due = now.Add(diskLookEvery)
				look.begin(l.gate, func() image { return l.host.inspect(d.Path, format) })
			}
		}
		k.looks = looks
	}
	for _, k := range domains {
		var unseen []error
		for i := 0; k.vm != nil && i < len(k.vm.Disks); i++ {
			d := &k.vm.Disks[i]
			look := k.looks[d.Path]
			deadline := now
			if look != nil && look.due == now.Add(diskLookEvery) { // it was begun by this list
				deadline = now.Add(l.wait)
			}
			switch {
			case look == nil:
			case !look.wait(deadline):
				unseen = append(unseen, fmt.Errorf("domain %s: disk %s: the filesystem of %s does not answer", k.vm.Name, d.Name, d.Path))
			case look.last.problem != nil && d.Provisioned == odometer.Unknown:
				unseen = append(unseen, fmt.Errorf("domain %s: disk %s: %w", k.vm.Name, d.Name, look.last.problem))
			}
		}
		k.unseen = errors.Join(unseen...)
	}
}

// inspect looks at a file or device as this host sees it.
func (h *libvirtHost) inspect(name, format string) image {
	root, err := unix.Open(first(h.root, "/"), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return image{kind: odometer.DiskUnknown, size: odometer.Unknown, problem: fmt.Errorf("open %s: %w", h.root, err)}
	}
	defer unix.Close(root)
	return view{root: root, host: "/", sys: filepath.Join(h.root, "sys"), base: h.root}.inspect(name, format, true)
}

// disks are the domain's with what looking at them told: the size, and where the
// description has no chain, as of a domain that is off, the images below.
func (k *knownDomain) disks() []odometer.Disk {
	if k.vm == nil {
		return nil
	}
	list := slices.Clone(k.vm.Disks)
	for i := range list {
		d := &list[i]
		look := k.looks[d.Path]
		if look == nil || !look.known {
			continue
		}
		if look.last.kind != odometer.DiskUnknown {
			d.Kind = look.last.kind
		}
		if look.last.size != odometer.Unknown {
			d.Provisioned = look.last.size
		}
		if d.Backing == nil {
			d.Backing = look.last.backing
		}
	}
	return list
}

// sizesAge reports whether a size is due to be asked for again.
func (k *knownDomain) sizesAge() bool {
	for _, size := range k.sizes {
		if time.Since(size.asked) >= sizedFor {
			return true
		}
	}
	return false
}

// volume asks what a volume of a storage pool is.
func (l *Libvirt) volume(ctx context.Context, v volume) (diskSize, error) {
	return ask(ctx, l, func(rpc *libvirt.Libvirt) (diskSize, error) {
		size := diskSize{kind: odometer.DiskUnknown, capacity: odometer.Unknown, asked: time.Now()}
		fail := func(err error) (diskSize, error) {
			return size, fmt.Errorf("see what volume %s of pool %s is: %w", v.name, v.pool, err)
		}
		pool, err := rpc.StoragePoolLookupByName(v.pool)
		if err != nil {
			return fail(err)
		}
		vol, err := rpc.StorageVolLookupByName(pool, v.name)
		if err != nil {
			return fail(err)
		}
		kind, capacity, _, err := rpc.StorageVolGetInfo(vol)
		if err != nil {
			return fail(err)
		}
		path, err := rpc.StorageVolGetPath(vol)
		if err != nil {
			return fail(err)
		}
		size.path, size.capacity = path, capacityOf(capacity)
		switch libvirt.StorageVolType(kind) {
		case libvirt.StorageVolFile:
			size.kind = odometer.DiskFile
		case libvirt.StorageVolBlock:
			size.kind = odometer.DiskBlock
		case libvirt.StorageVolNetwork:
			size.kind = odometer.DiskNetwork
		}
		return size, nil
	})
}

func capacityOf(n uint64) int64 {
	if n > math.MaxInt64 {
		return odometer.Unknown
	}
	return int64(n)
}
