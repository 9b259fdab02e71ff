//go:build !nvml

package sampler

func openNVML() (gpuDriver, error) { return nil, errNotBuilt }
