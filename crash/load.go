package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"time"

	"example.org/odometer"
)

// amounts are quantities by their names on the wire.
type amounts map[string]int64

// truth is what each instance really used.
type truth map[string]amounts

func (t truth) add(instance, quantity string, n int64) {
	if t[instance] == nil {
		t[instance] = amounts{}
	}
	t[instance][quantity] += n
}

// merge returns what all of them say together.
func merge(all ...truth) truth {
	sum := truth{}
	for _, t := range all {
		for id, a := range t {
			for q, n := range a {
				sum.add(id, q, n)
			}
		}
	}
	return sum
}

// differs returns how usage differs from the truth, "" where it does not.
// Instances that the truth does not know are not compared.
func (t truth) differs(usage truth) string {
	wrong, first := 0, ""
	for id, want := range t {
		for q, n := range want {
			if got := usage[id][q]; got != n {
				if wrong++; first == "" {
					first = fmt.Sprintf("%s of %s is %d and not %d (off by %d)", q, id, got, n, got-n)
				}
			}
		}
	}
	if wrong > 1 {
		first += fmt.Sprintf(", and %d more differ", wrong-1)
	}
	return first
}

// load is a file of readings that is about to be written. Counters grow at
// random; some machines restart into new epochs; all end with the file.
type load struct {
	name      string // begins the names of its instances
	host      string
	seed      uint64
	instances int
	ticks     int
	begin     time.Time
	step      time.Duration
	restarts  int // one tick in so many ends an epoch; 0 for none before the end
}

// write writes the readings to a file and returns what was used.
func (l *load) write(path string) (truth, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	w := bufio.NewWriter(f)
	r := rand.New(rand.NewPCG(l.seed, 1))
	type machine struct {
		epoch       int
		cpu, tx, rx int64
		last        time.Time
		active      bool
	}
	machines := make([]machine, l.instances)
	sum := truth{}
	for tick := range l.ticks {
		at := l.begin.Add(time.Duration(tick) * l.step).Add(time.Duration(r.IntN(1000)) * time.Millisecond)
		for i := range machines {
			m := &machines[i]
			id := fmt.Sprintf("%s-vm-%d", l.name, i)
			line := map[string]any{"time": at.Format(time.RFC3339Nano), "host": l.host, "instance": id}
			if !m.active {
				*m = machine{epoch: m.epoch + 1, last: at, active: true}
				line["event"] = "started"
			} else {
				cpu, tx, rx := r.Int64N(at.Sub(m.last).Microseconds()), r.Int64N(1<<30), r.Int64N(1<<30)
				m.cpu, m.tx, m.rx, m.last = m.cpu+cpu, m.tx+tx, m.rx+rx, at
				sum.add(id, odometer.CPU.String(), cpu)
				sum.add(id, odometer.NetworkEgress.String(), tx)
				sum.add(id, odometer.NetworkIngress.String(), rx)
				line["state"], line["memory_mib"], line["storage_mib"] = "running", 512, 20480
				line["cpu_us"], line["net_tx_bytes"], line["net_rx_bytes"] = m.cpu, m.tx, m.rx
				line["user_id"], line["org_id"] = fmt.Sprintf("u-%d", i%5), fmt.Sprintf("o-%d", i%2)
				if tick == l.ticks-1 || l.restarts > 0 && r.IntN(l.restarts) == 0 {
					line["final"], m.active = true, false
				}
			}
			line["epoch"] = fmt.Sprint("e", m.epoch)
			b, err := json.Marshal(line)
			if err != nil {
				return nil, err
			}
			w.Write(append(b, '\n'))
		}
	}
	if err := w.Flush(); err != nil {
		return nil, err
	}
	return sum, f.Close()
}

// impossible is an event that uses more processor time than there is: it goes
// into quarantine, and is booked when a person releases it.
func impossible(instance string, at time.Time) *odometer.Event {
	const seconds = 30
	used := odometer.Usage{Known: odometer.AllKnown}
	used.Vector[odometer.CPU] = 1e15
	used.Vector[odometer.MeasuredTime] = seconds * odometer.SecondMicros
	e := &odometer.Event{
		Version: odometer.Version11, Instance: odometer.InstanceID(instance), Agent: "by-hand",
		Owner: odometer.Owner{User: "u-0", Org: "o-0"}, EpochStart: at.UnixMicro(), FirstSequence: 1, Sequence: 1,
		Epoch: odometer.NewEpoch(odometer.InstanceID(instance), "by-hand", "crash", ""), Quality: odometer.Measured,
		Span:  odometer.Span{Start: at.UnixMicro(), End: at.UnixMicro() + seconds*odometer.SecondMicros},
		Usage: used, Readings: odometer.Readings{Start: odometer.Usage{Known: odometer.AllKnown}, End: used},
	}
	e.Derive(0, 0)
	return e
}

// plain is an event of version 1.0, which may come in any order.
func plain(instance string, at time.Time, cpuSeconds int) []byte {
	b, _ := json.Marshal(map[string]any{
		"event_type": "resource_usage", "version": "1.0", "timestamp": at.Unix() + 60, "instance_id": instance, "user_id": "u-0", "org_id": "o-0",
		"metrics": map[string]any{
			"cpu_seconds": cpuSeconds, "cpu_percent_avg": 10, "memory_gb": 0, "memory_percent": 0, "storage_gb": 0,
			"network_egress_mb": 0, "network_ingress_mb": 0, "gpu_seconds": 0,
		},
		"period": map[string]any{"start": at.Unix(), "end": at.Unix() + 60},
	})
	return b
}

// byHand posts events that come late and one that is released from quarantine,
// and reverses what came late.
func byHand(s *site) error {
	hour := time.Date(2026, 1, 2, 10, 0, 0, 0, time.UTC)
	for i, at := range []time.Time{hour.Add(2 * time.Hour), hour} {
		if status, err := s.post(fmt.Sprint("late-", i), plain("late", at, 6)); err != nil || status != http.StatusOK {
			return fmt.Errorf("post an event: status %d, %w", status, err)
		}
	}
	e := impossible("by-hand", hour)
	// The first time it goes into quarantine, and once it is released it is a
	// duplicate; both are answers.
	if status, err := s.post(e.ID(), e.AppendJSON(nil)); err != nil || status != http.StatusOK && status != http.StatusUnprocessableEntity {
		return fmt.Errorf("post an impossible event: status %d, %w", status, err)
	}
	var list struct {
		Items []struct {
			Partition int   `json:"partition"`
			No        int64 `json:"no"`
		} `json:"items"`
	}
	if status, err := s.do(http.MethodGet, "/api/v1/quarantine", "", nil, &list); err != nil || status != http.StatusOK {
		return fmt.Errorf("list the quarantine: status %d, %w", status, err)
	}
	for _, it := range list.Items {
		path := fmt.Sprintf("/api/v1/quarantine/%d/%d/release", it.Partition, it.No)
		if status, err := s.do(http.MethodPost, path, "", nil, nil); err != nil || status != http.StatusOK {
			return fmt.Errorf("release from quarantine: status %d, %w", status, err)
		}
	}
	return reverseLate(s, hour)
}

// reverseLate reverses the entry that came late for an hour which was sealed.
// closeMonth closes the month of the load, whatever of it is missing, and posts an
// event of it that comes after that.
func closeMonth(s *site) error {
	// Once it is closed, to close it is a conflict; both are answers.
	status, err := s.do(http.MethodPost, "/api/v1/months/2026-01/close", odometer.ContentJSON, []byte(`{"accept_gaps":true,"cause":"it is over"}`), nil)
	if err != nil || status != http.StatusOK && status != http.StatusConflict {
		return fmt.Errorf("close the month: status %d, %w", status, err)
	}
	at := time.Date(2026, 1, 3, 10, 0, 0, 0, time.UTC)
	if status, err := s.post("adjusting", plain("adjusting", at, 6)); err != nil || status != http.StatusOK {
		return fmt.Errorf("post an event of a closed month: status %d, %w", status, err)
	}
	return nil
}

func reverseLate(s *site, hour time.Time) error {
	var page struct {
		Events []struct {
			Entry string `json:"entry_id"`
			Kind  string `json:"kind"`
		} `json:"events"`
	}
	path := "/api/v1/events?instance=late&to=" + hour.Add(time.Hour).Format(time.RFC3339)
	if status, err := s.do(http.MethodGet, path, "", nil, &page); err != nil || status != http.StatusOK {
		return fmt.Errorf("list what came late: status %d, %w", status, err)
	}
	for _, e := range page.Events {
		if e.Kind != string(odometer.KindUsage) {
			continue
		}
		// Once it is reversed, to reverse it is a conflict; both are answers.
		status, err := s.do(http.MethodPost, "/api/v1/entries/"+e.Entry+"/reverse", odometer.ContentJSON, []byte(`{"cause":"it was ours"}`), nil)
		if err != nil || status != http.StatusOK && status != http.StatusConflict {
			return fmt.Errorf("reverse entry %s: status %d, %w", e.Entry, status, err)
		}
	}
	return nil
}
