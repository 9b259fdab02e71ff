package audit_test

import (
	"testing"

	"example.org/odometer"
)

// BenchmarkRun audits a ledger of 100 instances and 200 000 events in frames
// of a hundred, and reports the events audited a second.
func BenchmarkRun(b *testing.B) {
	const instances, rounds, events = 100, 20, 100
	dir := b.TempDir()
	s := newTeller(b, dir)
	var odos []*odo
	for i := range instances {
		agent := []odometer.AgentID{hostOne, hostTwo}[i%2]
		odos = append(odos, newOdo(odometer.InstanceID("vm-"+itoa(int64(i))), agent, base))
	}
	for range rounds {
		for _, o := range odos {
			var batch []*odometer.Event
			for range events {
				batch = append(batch, o.next(30*sec, 1_234_567))
			}
			if end := o.at; end > s.now.UnixMicro() {
				s.now = s.now.Add(hour * 1000)
			}
			s.send(o.agent, nil, batch...)
		}
		s.tick()
	}
	s.close()
	b.ResetTimer()
	for b.Loop() {
		if r := run(b, dir); !r.OK || r.Events != instances*rounds*events {
			b.Fatalf("audit: got %s, %d events, want ok and %d", show(r), r.Events, instances*rounds*events)
		}
	}
	b.ReportMetric(float64(instances*rounds*events)*float64(b.N)/b.Elapsed().Seconds(), "events/s")
}
