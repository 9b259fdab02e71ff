//go:build nvml

package sampler

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ebitengine/purego"
)

// fakeNVML is a library with NVML's names that has one GPU, which is told what
// it observed. It stands for a driver and hardware that no test has.
const fakeNVML = `
#include <string.h>
typedef struct { unsigned long long at; union { double d; unsigned int ui; unsigned long long ull; } value; } sample;
static sample list[100];
static unsigned int count, type = 1;
static int running, start_code, find_code, read_code;
static int gpu;
void fake_add(unsigned long long at, unsigned int percent) { list[count].at = at; list[count++].value.ui = percent; }
void fake_set(int start, int find, int read, unsigned int t) { start_code = start; find_code = find; read_code = read; type = t; }
int fake_running(void) { return running; }
int nvmlInit_v2(void) { if (!start_code) running++; return start_code; }
int nvmlShutdown(void) { running--; return 0; }
const char *nvmlErrorString(int code) { return code == 9 ? "Driver Not Loaded" : code == 15 ? "GPU is lost" : "Unknown Error"; }
int nvmlDeviceGetHandleByPciBusId_v2(const char *address, void **device) {
	if (find_code) return find_code;
	if (strcmp(address, "0000:65:00.0")) return 6;
	*device = &gpu;
	return 0;
}
int nvmlDeviceGetSamples(void *device, int kind, unsigned long long after, unsigned int *t, unsigned int *n, sample *out) {
	unsigned int i, k = 0;
	if (read_code) return read_code;
	if (device != &gpu || kind != 1) return 2;
	*t = type;
	for (i = 0; i < count; i++) {
		if (list[i].at <= after) continue;
		if (out && k == *n) return 7;
		if (out) out[k] = list[i];
		k++;
	}
	*n = k;
	return k ? 0 : 6;
}
`

// compile makes a library of C, or skips the test where there is no compiler.
func compile(t *testing.T, name, source string) string {
	t.Helper()
	cc, err := exec.LookPath("cc")
	if err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	c, library := filepath.Join(dir, "fake.c"), filepath.Join(dir, name)
	if err := os.WriteFile(c, []byte(source), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(cc, "-shared", "-fPIC", "-o", library, c).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return library
}

func TestNVML(t *testing.T) {
	library := compile(t, "libnvidia-ml.so.1", fakeNVML)
	handle, err := purego.Dlopen(library, purego.RTLD_NOW)
	if err != nil {
		t.Fatal(err)
	}
	var add func(at uint64, percent uint32)
	var set func(start, find, read int32, valueType uint32)
	var running func() int32
	purego.RegisterLibFunc(&add, handle, "fake_add")
	purego.RegisterLibFunc(&set, handle, "fake_set")
	purego.RegisterLibFunc(&running, handle, "fake_running")

	fails := func(what string, err error, want string) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", what, err, want)
		}
	}
	set(9, 0, 0, 1)
	_, err = openNVMLAt(library)
	fails("a driver that is not loaded", err, "the driver of NVIDIA: start: Driver Not Loaded")
	set(0, 0, 0, 1)
	n, err := openNVMLAt(library)
	if err != nil {
		t.Fatal(err)
	}
	if running() != 1 {
		t.Errorf("it was started %d times, want once", running())
	}
	observed := func(what string, after uint64, want ...gpuObservation) {
		t.Helper()
		got, err := n.observed("0000:65:00.0", after)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: got %+v, %v; want %+v", what, got, err, want)
		}
	}
	observed("nothing yet", 0)
	add(1000, 0)
	add(2000, 100)
	add(3000, 37)
	observed("everything", 0, gpuObservation{1000, 0}, gpuObservation{2000, 100}, gpuObservation{3000, 37})
	observed("what is new", 2000, gpuObservation{3000, 37})
	observed("nothing new", 3000)
	_, err = n.observed("0000:66:00.0", 0)
	fails("a GPU that it does not have", err, "find it: Unknown Error")
	set(0, 0, 15, 1)
	_, err = n.observed("0000:65:00.0", 0)
	fails("a GPU that is lost", err, "read what it observed: GPU is lost")
	set(0, 15, 0, 1)
	_, err = n.observed("0000:65:00.0", 0)
	fails("it is looked for again after a failure", err, "find it: GPU is lost")
	set(0, 0, 0, 3)
	_, err = n.observed("0000:65:00.0", 0)
	fails("another type of value", err, "its observations are of type 3")
	n.close()
	if running() != 0 {
		t.Error("it was not shut down")
	}
}

func TestNVMLIsNotThere(t *testing.T) {
	if _, err := openNVMLAt("libodometer-no-such-library.so.1"); err == nil || !strings.HasPrefix(err.Error(), "there is no driver of NVIDIA: ") {
		t.Errorf("no library: got %v", err)
	}
	_, err := openNVMLAt(compile(t, "libother.so", "int nvmlInit_v2(void) { return 0; }"))
	if err == nil || !strings.HasPrefix(err.Error(), "the driver of NVIDIA: ") || !strings.Contains(err.Error(), "nvmlDeviceGetSamples") {
		t.Errorf("a library without the functions: got %v", err)
	}
}
