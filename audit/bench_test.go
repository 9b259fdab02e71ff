package audit_test

import (
	"flag"
	"fmt"
	"testing"
	"time"

	"example.org/odometer"
)

var benchEvents = flag.Int("bench-events", 200_000, "events of the ledger that BenchmarkRun audits")

// BenchmarkRun audits a ledger of 1000 instances at 100 agents, in frames of a
// hundred events of ten seconds, and reports the events audited a second.
func BenchmarkRun(b *testing.B) {
	const instances, agents, size = 1000, 100, 100
	dir := b.TempDir()
	s := newTeller(b, dir)
	var odos []*odo
	for i := range instances {
		odos = append(odos, newOdo(odometer.InstanceID(fmt.Sprintf("vm-%d", i)), odometer.AgentID(fmt.Sprintf("host-%d", i%agents)), base))
	}
	s.now = time.UnixMicro(base + 10000*hour)
	all := 0
	for all < *benchEvents {
		var frames []odometer.Frame
		for agent := range agents { // ten events of each of its ten instances
			var records []odometer.Record
			for i := agent; i < instances; i += agents {
				for range size * agents / instances {
					records = append(records, odometer.Record{Event: odos[i].next(10*sec, 1_234_567)})
				}
			}
			frames = append(frames, s.frame(odos[agent].agent, records...))
			all += len(records)
		}
		if _, _, err := s.l.Commit(b.Context(), frames); err != nil {
			b.Fatal(err)
		}
	}
	s.tick()
	s.close()
	b.ResetTimer()
	for b.Loop() {
		if r := run(b, dir); !r.OK || r.Events != int64(all) {
			b.Fatalf("audit: got %s, %d events, want ok and %d", show(r), r.Events, all)
		}
	}
	b.ReportMetric(float64(all)*float64(b.N)/b.Elapsed().Seconds(), "events/s")
}
