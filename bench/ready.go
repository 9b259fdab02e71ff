package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// readyTime measures how long `odometer serve` takes from its start until it
// says that it is ready: with an empty data directory, and with the ledger of
// a fleet with a history.
func readyTime(b *bench) error {
	program := b.place("odometer")
	build := exec.Command("go", "build", "-o", program, "example.org/odometer/cmd/odometer")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("build the program: %w", err)
	}
	history, err := b.historyPath()
	if err != nil {
		return err
	}
	for _, c := range []struct{ name, ledger string }{{"ready_empty", ""}, {"ready_history", history}} {
		times := 5
		if b.quick {
			times = 1
		}
		var took []time.Duration
		for range times {
			dir := b.place("data")
			if err := os.Mkdir(dir, 0o700); err != nil {
				return err
			}
			if c.ledger != "" {
				if err := copyFile(filepath.Join(dir, "ledger.db"), c.ledger); err != nil {
					return err
				}
			}
			one, err := median(1, func() error { return untilReady(program, dir) })
			if err := errors.Join(err, os.RemoveAll(dir)); err != nil {
				return err
			}
			took = append(took, one)
		}
		slices.Sort(took)
		b.cost(c.name, took[times/2].Seconds()*1000, "ms", 0)
	}
	return nil
}

// untilReady starts a server and returns when it is ready; it is killed then,
// since how it ends is not measured here.
func untilReady(program, dir string) error {
	address, err := freeAddress()
	if err != nil {
		return err
	}
	nats, err := freeAddress()
	if err != nil {
		return err
	}
	serve := exec.Command(program, "serve", "--data-dir", dir, "--http", address, "--nats", nats, "--log-level", "error")
	if err := serve.Start(); err != nil {
		return err
	}
	defer serve.Wait()
	defer serve.Process.Signal(syscall.SIGKILL)
	for begin := time.Now(); time.Since(begin) < time.Minute; time.Sleep(time.Millisecond) {
		answer, err := http.Get("http://" + address + "/readyz")
		if err != nil {
			continue
		}
		answer.Body.Close()
		if answer.StatusCode == http.StatusOK {
			return nil
		}
	}
	return errors.New("the server was not ready within a minute")
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}
