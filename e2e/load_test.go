package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// load writes a file of readings for replay and returns its path and what
// each instance truly used. Counters grow at random, machines restart into
// new epochs, some begin with a mark and some with a baseline, and one
// instance moves between hosts.
func load(t *testing.T, name string, seed uint64, instances, ticks int) (string, map[string]amounts) {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 1))
	path := filepath.Join(t.TempDir(), name+".ndjson")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := bufio.NewWriter(f)
	type vm struct {
		id, host         string
		epoch            int
		cpu, tx, rx      int64
		memory           int64
		last             time.Time
		baseline, active bool
	}
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	truth := map[string]amounts{}
	vms := make([]vm, instances)
	for i := range vms {
		vms[i] = vm{id: fmt.Sprintf("%s-vm-%d", name, i), host: fmt.Sprintf("%s-host-%d", name, i%4)}
		truth[vms[i].id] = amounts{}
	}
	line := func(v map[string]any) {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		w.Write(append(b, '\n'))
	}
	for tick := range ticks {
		at := begin.Add(time.Duration(tick)*30*time.Second + time.Duration(r.IntN(1e9)))
		for i := range vms {
			v := &vms[i]
			fields := func() map[string]any {
				return map[string]any{"time": at.Format(time.RFC3339Nano), "host": v.host, "instance": v.id, "epoch": fmt.Sprint("e", v.epoch)}
			}
			if !v.active { // a new epoch: with a mark it begins at 0, without at a baseline
				v.active, v.baseline = true, r.IntN(2) == 0
				v.epoch++
				v.cpu, v.tx, v.rx, v.memory = 0, 0, 0, -1
				if i == 0 {
					v.host = fmt.Sprintf("%s-host-%d", name, v.epoch%4)
				}
				if v.baseline {
					v.cpu, v.tx = r.Int64N(1e12), r.Int64N(1e12)
				} else {
					mark := fields()
					mark["event"] = "started"
					line(mark)
					v.last = at
					continue
				}
			}
			sum := truth[v.id]
			if !v.baseline {
				micros := at.UnixMicro() - v.last.UnixMicro()
				cpu, tx, rx := r.Int64N(micros), r.Int64N(1<<30), r.Int64N(1<<30)
				v.cpu, v.tx, v.rx = v.cpu+cpu, v.tx+tx, v.rx+rx
				sum["cpu_us"] += cpu
				sum["network_egress_bytes"] += tx
				sum["network_ingress_bytes"] += rx
			}
			v.baseline, v.last = false, at
			reading := fields()
			reading["state"] = "running"
			reading["cpu_us"], reading["net_tx_bytes"], reading["net_rx_bytes"] = v.cpu, v.tx, v.rx
			reading["memory_mib"], reading["storage_mib"] = 512, 20480
			reading["user_id"], reading["org_id"] = fmt.Sprintf("u-%d", i%5), fmt.Sprintf("o-%d", i%2)
			if tick == ticks-1 || r.IntN(200) == 0 {
				reading["final"] = true
				v.active = false
			}
			line(reading)
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	return path, truth
}

// compare fails the test where the ledger differs from the truth.
func compare(t *testing.T, got, truth map[string]amounts) {
	t.Helper()
	wrong := 0
	for id, want := range truth {
		for name, n := range want {
			if got[id][name] != n {
				if wrong++; wrong <= 10 {
					t.Errorf("%s of %s: got %d, want %d (off by %d)", name, id, got[id][name], n, got[id][name]-n)
				}
			}
		}
	}
	if wrong > 10 {
		t.Errorf("… and %d more", wrong-10)
	}
}
