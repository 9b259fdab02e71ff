package sampler

import (
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.org/odometer"
)

// fakeGPUs is a driver whose GPUs observed what a test says.
type fakeGPUs struct {
	mu     sync.Mutex
	list   map[string][]gpuObservation
	err    error
	hang   chan struct{}
	closed atomic.Bool
}

func (f *fakeGPUs) observed(address string, after uint64) ([]gpuObservation, error) {
	f.mu.Lock()
	hang := f.hang
	f.mu.Unlock()
	if hang != nil {
		<-hang
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []gpuObservation
	for _, o := range f.list[address] {
		if o.at > after {
			list = append(list, o)
		}
	}
	return list, f.err
}

func (f *fakeGPUs) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *fakeGPUs) close() { f.closed.Store(true) }

// TestGPUBusyTime is what observations add up to.
func TestGPUBusyTime(t *testing.T) {
	const second = 1_000_000
	for _, c := range []struct {
		name  string
		rows  [][]gpuObservation // one after the other
		want  uint64             // nanoseconds
		known bool
	}{
		{"nothing was observed", [][]gpuObservation{nil, nil}, 0, false},
		{"what was before the first look does not count", [][]gpuObservation{{{second, 100}, {2 * second, 100}}}, 0, true},
		{"half of the time", [][]gpuObservation{{{second, 100}}, {{2 * second, 50}, {3 * second, 50}}}, 1e9, true},
		{"each stands for the time since the one before", [][]gpuObservation{{{second, 0}}, {{second + 100, 100}, {second + 1100, 7}}}, 100_000 + 70_000, true},
		{"a gap of which nothing is known", [][]gpuObservation{{{second, 100}}, {{9 * second, 100}, {10 * second, 100}}}, 1e9, true},
		{"one that was seen already", [][]gpuObservation{{{second, 100}}, {{second, 100}, {2 * second, 100}}}, 1e9, true},
		{"more than all of the time", [][]gpuObservation{{{second, 100}}, {{2 * second, 101}, {3 * second, 100}}}, 2e9, true},
	} {
		g := &busyGPU{address: "a"}
		for _, row := range c.rows {
			driver := &fakeGPUs{list: map[string][]gpuObservation{"a": row}}
			g.ask(driver)
		}
		if got := g.busy.Load(); got != c.want || g.known.Load() != c.known {
			t.Errorf("%s: got %d, known %v; want %d, %v", c.name, got, g.known.Load(), c.want, c.known)
		}
	}
}

// TestGPUBusyTimeIsTold has drivers that are not there, fail, hang and answer
// late. What is told in a time is never more than the time.
func TestGPUBusyTimeIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		driver := &fakeGPUs{list: map[string][]gpuObservation{"0000:65:00.0": {{1_000_000, 100}}}}
		gone, there := errors.New("there is no driver"), atomic.Bool{}
		b := busyGPUs{open: func() (gpuDriver, error) {
			if !there.Load() {
				return nil, gone
			}
			return driver, nil
		}}
		begin := time.Now()
		now := func() odometer.Moment { return odometer.Moment{Boot: time.Since(begin).Microseconds() + 1} }
		if got := b.emit(nil, now()); got != nil || b.trouble() != nil {
			t.Errorf("no GPU: got %+v, %v", got, b.trouble())
		}
		b.replace([]string{"0000:65:00.0", "0000:66:00.0"}, "boot", now())
		synctest.Wait()
		if got := b.emit(nil, now()); got != nil || !errors.Is(b.trouble(), gone) {
			t.Errorf("no driver: got %+v, %v", got, b.trouble())
		}
		there.Store(true)
		time.Sleep(busyOpenEvery + busyEvery)
		synctest.Wait()
		one := func(what string, want uint64) {
			t.Helper()
			synctest.Wait()
			list := b.emit(nil, now())
			if len(list) != 1 || list[0].Value != want || list[0].Device != "0000:65:00.0" || list[0].Quantity != odometer.GPUBusy || list[0].Incarnation != "boot/0000:65:00.0@1" || list[0].Born {
				t.Errorf("%s: got %+v, want %d of the first", what, list, want)
			}
		}
		one("as it was found", 0)
		driver.set(func() {
			driver.list["0000:65:00.0"] = []gpuObservation{{2_000_000, 100}, {3_000_000, 100}, {4_000_000, 100}, {5_000_000, 100}}
		})
		time.Sleep(busyEvery)
		one("four seconds of work, told after three", 3e9)
		time.Sleep(busyEvery)
		one("and the rest", 4e9)

		driver.set(func() { driver.err = errors.New("it is lost") })
		time.Sleep(busyEvery)
		synctest.Wait()
		if err := b.trouble(); err == nil || !strings.Contains(err.Error(), "how busy GPU 0000:65:00.0 is: it is lost\nhow busy GPU 0000:66:00.0 is: it is lost") {
			t.Errorf("it fails: got %v", err)
		}
		one("it fails", 4e9)
		hang := make(chan struct{})
		driver.set(func() { driver.err, driver.hang = nil, hang })
		time.Sleep(busyEvery)
		one("it hangs", 4e9)
		b.replace([]string{"0000:66:00.0"}, "boot", now())
		if got := b.emit(nil, now()); got != nil {
			t.Errorf("the GPU was unplugged: got %+v", got)
		}
		close(hang)
		b.close()
		b.close()
		synctest.Wait()
		if !driver.closed.Load() {
			t.Error("the driver was not closed")
		}
	})
}

// TestABuildWithoutNVML says so where it matters, and is not in trouble.
func TestABuildWithoutNVML(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := busyGPUs{open: func() (gpuDriver, error) { return nil, errNotBuilt }}
		b.replace([]string{"0000:65:00.0"}, "boot", odometer.Moment{Boot: 1})
		synctest.Wait() // its goroutine has ended
		m := &Machine{sources: map[string]*source{}, busy: busyGPUs{list: b.list, problem: b.problem}}
		for _, name := range sourceNames {
			m.sources[name] = &source{ok: true, detail: "1 attached"}
		}
		for _, st := range m.Sources() {
			if st.Name == "gpu" && (st.Detail != "1 attached; "+errNotBuilt.Error() || st.Problem != "") {
				t.Errorf("got %+v", st)
			}
		}
		b.close()
	})
}
