package main

import (
	"context"
	"errors"
	"os"
	"time"

	"example.org/odometer/queue"
)

// memory measures the most memory that `odometer serve` had resident while it
// took the events of two periods of so many instances as fast as it could.
func memory(name string, instances int) func(*bench) error {
	return func(b *bench) error {
		if b.quick {
			instances /= 50
		}
		program, err := b.program()
		if err != nil {
			return err
		}
		dir := b.place("data")
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		p, err := serving(program, dir)
		if err != nil {
			return err
		}
		defer p.kill()
		idle, err := p.peak()
		if err != nil {
			return err
		}
		if err := p.feed(newHosts(instances, false), 2); err != nil {
			return err
		}
		most, err := p.peak()
		if err != nil {
			return err
		}
		b.cost(name, float64(most>>20), "MiB", 0)
		b.note("%s: %d MiB before the first event, %d bytes more for each instance", name, idle>>20, (most-idle)/int64(instances))
		return nil
	}
}

// feed sends the server what hosts say for some periods, 64 frames in flight,
// and returns when all of it is in the ledger.
func (p *process) feed(f *hosts, ticks int) error {
	token, err := p.token()
	if err != nil {
		return err
	}
	conn, err := queue.Connect(queue.ConnectOptions{URL: "nats://" + p.nats, Token: token, Name: "bench"})
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute)
	defer cancel()
	var window []func(context.Context) error
	for range ticks {
		for h := range f.count() {
			fr := f.frame(h)
			data, err := fr.Encode()
			if err != nil {
				return err
			}
			if len(window) == 64 {
				if err := window[0](ctx); err != nil {
					return err
				}
				window = window[1:]
			}
			wait, err := conn.Send(queue.IngestSubject(fr.Agent), nil, data)
			if err != nil {
				return err
			}
			window = append(window, wait)
		}
		f.tick++
	}
	for _, wait := range window {
		if err := wait(ctx); err != nil {
			return err
		}
	}
	for {
		left, err := conn.Backlog(ctx)
		if err != nil {
			return err
		}
		if left == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.New("the ledger does not take what was sent")
		case <-time.After(10 * time.Millisecond):
		}
	}
}
