package inventory

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"example.org/odometer"
	"github.com/digitalocean/go-libvirt"
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
		if disk.Kind != odometer.DiskNetwork || disk.Provisioned != odometer.Unknown {
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
