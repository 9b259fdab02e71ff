//go:build nvml

package sampler

import (
	"errors"
	"fmt"
	"unsafe"

	"github.com/ebitengine/purego"
)

// nvmlLibrary comes with NVIDIA's driver. It is loaded when it is needed, so
// that this program is built and runs without.
const nvmlLibrary = "libnvidia-ml.so.1"

// The parts of NVML that are used, by
// https://docs.nvidia.com/deploy/nvml-api/: its names, numbers and layouts are
// kept from driver to driver.
const (
	nvmlSuccess        = 0
	nvmlNotFound       = 6 // no observation after that moment
	nvmlUtilization    = 1 // NVML_GPU_UTILIZATION_SAMPLES: percent of the time in which a kernel ran
	nvmlValueUnsigned  = 1 // NVML_VALUE_TYPE_UNSIGNED_INT
	nvmlMostAtOnce     = 1 << 16
	nvmlPCIAddressText = 32 // NVML_DEVICE_PCI_BUS_ID_BUFFER_SIZE
)

// nvmlSample is nvmlSample_t: a time, and a union of eight bytes.
type nvmlSample struct {
	at    uint64
	value [8]byte
}

// nvml is the loaded library. It is used by one goroutine.
type nvml struct {
	library uintptr
	handles map[string]uintptr

	initialise func() int32
	shutdown   func() int32
	text       func(code int32) string
	handle     func(address *byte, device *uintptr) int32
	samples    func(device uintptr, kind uint32, after uint64, valueType *uint32, count *uint32, list *nvmlSample) int32
}

func openNVML() (gpuDriver, error) { return openNVMLAt(nvmlLibrary) }

func openNVMLAt(library string) (gpuDriver, error) {
	n := &nvml{handles: map[string]uintptr{}}
	var err error
	if n.library, err = purego.Dlopen(library, purego.RTLD_NOW|purego.RTLD_LOCAL); err != nil {
		return nil, fmt.Errorf("there is no driver of NVIDIA: %w", err)
	}
	var errs []error
	for name, f := range map[string]any{
		"nvmlInit_v2": &n.initialise, "nvmlShutdown": &n.shutdown, "nvmlErrorString": &n.text,
		"nvmlDeviceGetHandleByPciBusId_v2": &n.handle, "nvmlDeviceGetSamples": &n.samples,
	} {
		address, err := purego.Dlsym(n.library, name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		purego.RegisterFunc(f, address)
	}
	if errs == nil {
		errs = append(errs, n.error("start", n.initialise()))
	}
	if err := errors.Join(errs...); err != nil {
		_ = purego.Dlclose(n.library) // it does nothing
		return nil, fmt.Errorf("the driver of NVIDIA: %w", err)
	}
	return n, nil
}

func (n *nvml) error(what string, code int32) error {
	if code == nvmlSuccess {
		return nil
	}
	return fmt.Errorf("%s: %s", what, n.text(code))
}

func (n *nvml) observed(address string, after uint64) ([]gpuObservation, error) {
	device, ok := n.handles[address]
	if !ok {
		var text [nvmlPCIAddressText]byte
		copy(text[:len(text)-1], address)
		if err := n.error("find it", n.handle(&text[0], &device)); err != nil {
			return nil, err
		}
		n.handles[address] = device
	}
	var valueType, count uint32
	code := n.samples(device, nvmlUtilization, after, &valueType, &count, nil)
	var list []nvmlSample
	if code == nvmlSuccess && count > 0 {
		list = make([]nvmlSample, min(count, nvmlMostAtOnce))
		count = uint32(len(list))
		code = n.samples(device, nvmlUtilization, after, &valueType, &count, &list[0])
	}
	switch {
	case code == nvmlNotFound:
		return nil, nil
	case code != nvmlSuccess:
		delete(n.handles, address) // it may be another by now
		return nil, n.error("read what it observed", code)
	case count > 0 && valueType != nvmlValueUnsigned:
		return nil, fmt.Errorf("its observations are of type %d", valueType)
	}
	observations := make([]gpuObservation, 0, count)
	for _, s := range list[:min(int(count), len(list))] {
		observations = append(observations, gpuObservation{at: s.at, percent: *(*uint32)(unsafe.Pointer(&s.value))})
	}
	return observations, nil
}

func (n *nvml) close() {
	_ = n.shutdown()              // its failure leaves nothing to do
	_ = purego.Dlclose(n.library) // likewise
}
